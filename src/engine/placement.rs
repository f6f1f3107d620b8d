//! A perfect hash over a set that is known in advance: each member has a
//! place of its own.
//!
//! With many rules the cost of a look-up is the memory it waits for. Here it
//! is one line: the place of what is looked for, if it is there at all. The
//! table that leads there is small (half a byte for each member) and stays
//! in a near cache.

/// From hashes to places.
///
/// Hashes are dealt into small buckets; each bucket has a number, tried out
/// until all its members fall on places that are still vacant, the largest
/// buckets first. (Belazzougui, Botelho, Dietzfelbinger: "Hash, displace, and
/// compress", 2009.)
#[derive(Debug, Default)]
pub(crate) struct Placement {
    turns: Box<[u16]>,
    places: usize,
}

/// Members of a bucket, on average.
const BUCKET: usize = 4;

/// How many places there are for each four members, tried in this order.
const PLACES_PER_FOUR: [usize; 4] = [5, 6, 8, 16];

// === impl Placement ===

impl Placement {
    /// Places for these hashes; `None` when two of them are equal.
    pub(crate) fn new(hashes: &[u64]) -> Option<Self> {
        let buckets = Buckets::new(hashes);
        PLACES_PER_FOUR
            .iter()
            .find_map(|per_four| buckets.place(hashes.len() / 4 * per_four + per_four))
    }

    /// How many places there are.
    pub(crate) fn len(&self) -> usize {
        self.places
    }

    /// The place of the member with that hash, if there is such a member;
    /// some place otherwise.
    pub(crate) fn of(&self, hash: u64) -> usize {
        let bucket = part(hash, self.turns.len());
        match self.turns.get(bucket) {
            Some(&turn) => place(hash, turn, self.places),
            None => 0,
        }
    }
}

/// All hashes by bucket.
struct Buckets {
    members: Vec<Vec<u64>>,
    /// The largest first.
    order: Vec<usize>,
}

impl Buckets {
    fn new(hashes: &[u64]) -> Self {
        let mut members = vec![vec![]; hashes.len() / BUCKET + 1];
        let count = members.len();
        for &hash in hashes {
            members[part(hash, count)].push(hash);
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&bucket| std::cmp::Reverse(members[bucket].len()));
        Self { members, order }
    }

    fn place(&self, places: usize) -> Option<Placement> {
        let mut taken = vec![false; places];
        let mut turns = vec![0; self.members.len()].into_boxed_slice();
        for &bucket in &self.order {
            let members = &self.members[bucket];
            turns[bucket] = (0..u16::MAX).find(|&turn| take(&mut taken, members, turn))?;
        }
        Some(Placement { turns, places })
    }
}

/// Takes the places of all members, or none.
fn take(taken: &mut [bool], members: &[u64], turn: u16) -> bool {
    let place = |hash: &u64| place(*hash, turn, taken.len());
    let places: smallvec::SmallVec<[usize; 16]> = members.iter().map(place).collect();
    for (at, &place) in places.iter().enumerate() {
        if std::mem::replace(&mut taken[place], true) {
            places[..at].iter().for_each(|&mine| taken[mine] = false);
            return false;
        }
    }
    true
}

fn place(hash: u64, turn: u16, places: usize) -> usize {
    part(fold(hash ^ u64::from(turn)), places)
}

/// The upper half of a hash, as a part of `whole`.
#[allow(clippy::cast_possible_truncation, reason = "below the whole")]
fn part(hash: u64, whole: usize) -> usize {
    ((u128::from(hash >> 32) * whole as u128) >> 32) as usize
}

// === hashing ===

/// Spreads two numbers and bytes over 64 bits.
///
/// Not keyed: tables hold the operator's texts only and never grow at a
/// client's wish.
pub(crate) fn hash(seed: u32, number: u32, bytes: &[u8]) -> u64 {
    let start = fold((u64::from(seed) << 32) | u64::from(number));
    let mut hash = fold(start ^ bytes.len() as u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash ^ u64::from_le_bytes(last))
}

/// Multiplies to 128 bits and folds the halves together.
#[allow(clippy::cast_possible_truncation, reason = "takes the halves apart")]
pub(crate) fn fold(value: u64) -> u64 {
    let product = u128::from(value ^ 0x2D35_8DCC_AA6C_78A5) * 0x9E37_79B9_7F4A_7C15;
    (product as u64) ^ ((product >> 64) as u64)
}

// === text ===

/// Bytes that are in place when they are few.
#[derive(Debug)]
pub(crate) enum Text {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

/// As much as makes 32 bytes in all: half a cache line.
const SHORT: usize = 30;

impl Text {
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text);
                Self::Short { length, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => &bytes[..usize::from(*length)],
            Self::Long(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_member_has_its_own_place() {
        for count in [0, 1, 2, 3, 10, 1_000, 100_000] {
            for spread in [1_u64, 0x1_0000_0001, 0x9E37_79B9_7F4A_7C15] {
                let hashes: Vec<u64> = (0..count).map(|n| fold(spread.wrapping_mul(n))).collect();
                let placement = Placement::new(&hashes).unwrap();
                let mut taken = HashSet::new();
                for &hash in &hashes {
                    let place = placement.of(hash);
                    assert!(place < placement.len());
                    assert!(taken.insert(place), "{hash} of {count}");
                }
                assert!(placement.len() <= hashes.len() * 5 / 4 + 5, "{count}");
            }
        }
    }

    #[test]
    fn equal_hashes_have_no_places() {
        assert!(Placement::new(&[1, 2, 1]).is_none());
    }

    #[test]
    fn strangers_get_some_place() {
        assert_eq!(Placement::default().of(7), 0);
        let placement = Placement::new(&[fold(1), fold(2)]).unwrap();
        for hash in [0, 1, u64::MAX] {
            assert!(placement.of(hash) < placement.len());
        }
    }

    #[test]
    fn texts_of_any_length_are_kept() {
        assert_eq!(size_of::<Text>(), 32);
        for length in [0, 1, 29, 30, 31, 255, 256, 300] {
            let text = vec![b'x'; length];
            assert_eq!(Text::new(&text).as_bytes(), text, "{length}");
        }
    }

    #[test]
    fn hashes_tell_lengths_and_seeds_apart() {
        let texts: [&[u8]; 6] = [
            b"",
            b"\0",
            b"\0\0",
            b"a",
            b"a\0\0\0\0\0\0\0",
            b"a\0\0\0\0\0\0\0\0",
        ];
        let hashes: HashSet<u64> = (0..3)
            .flat_map(|seed| texts.map(|text| [hash(seed, 7, text), hash(7, seed, text)]))
            .flatten()
            .collect();
        assert_eq!(hashes.len(), 36);
    }
}
