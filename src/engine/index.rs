//! A hash table that is built once and then only read.
//!
//! With many rules the cost of a look-up is the memory it waits for. A slot
//! has eight bytes, so that a search, also one that finds nothing, mostly
//! stays within one cache line and looks at nothing else.

/// From hashes to numbers; several numbers may have one hash.
#[derive(Debug, Default)]
pub(crate) struct Index(Box<[Slot]>);

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The half of the hash that does not say where the slot is.
    fingerprint: u32,
    number: u32,
}

const VACANT: Slot = Slot {
    fingerprint: 0,
    number: u32::MAX,
};

// === impl Index ===

impl Index {
    /// Holds `entries`: a hash and a number below `u32::MAX` each.
    pub(crate) fn new(entries: &[(u64, u32)]) -> Self {
        // A third stays vacant: runs of taken slots are short.
        let mut slots = vec![VACANT; entries.len() + entries.len() / 2 + 1].into_boxed_slice();
        for &(hash, number) in entries {
            let mut at = place(hash, slots.len());
            while slots[at].number != VACANT.number {
                at = after(at, slots.len());
            }
            slots[at] = Slot {
                fingerprint: fingerprint(hash),
                number,
            };
        }
        Self(slots)
    }

    /// The first number of that hash that `is_it`.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let slots = &*self.0;
        if slots.is_empty() {
            return None;
        }
        let fingerprint = fingerprint(hash);
        let mut at = place(hash, slots.len());
        loop {
            let slot = slots[at];
            if slot.number == VACANT.number {
                return None;
            }
            if slot.fingerprint == fingerprint && is_it(slot.number) {
                return Some(slot.number);
            }
            at = after(at, slots.len());
        }
    }
}

/// The upper half, as a part of `length`.
#[allow(clippy::cast_possible_truncation, reason = "below the length")]
fn place(hash: u64, length: usize) -> usize {
    ((u128::from(hash >> 32) * length as u128) >> 32) as usize
}

fn after(at: usize, length: usize) -> usize {
    if at + 1 == length { 0 } else { at + 1 }
}

/// The lower half.
#[allow(clippy::cast_possible_truncation, reason = "takes the lower half")]
fn fingerprint(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_index_finds_nothing() {
        for index in [Index::default(), Index::new(&[])] {
            assert_eq!(index.find(0, |_| true), None);
            assert_eq!(index.find(u64::MAX, |_| true), None);
        }
    }

    proptest! {
        /// Few different hashes, at the table's ends too: the searches wrap
        /// around and run through each other.
        #[test]
        fn finds_what_was_put_in_and_nothing_else(
            hashes in prop::collection::vec(
                prop_oneof![0_u64..4, u64::MAX - 4..=u64::MAX, any::<u64>()],
                0..60,
            ),
            other in any::<u64>(),
        ) {
            let entries: Vec<(u64, u32)> = hashes.iter().copied().zip(0..).collect();
            let index = Index::new(&entries);
            for &(hash, number) in &entries {
                prop_assert_eq!(index.find(hash, |found| found == number), Some(number));
                let first = entries.iter().find(|(same, _)| *same == hash);
                prop_assert_eq!(index.find(hash, |_| true), first.map(|(_, number)| *number));
                prop_assert_eq!(index.find(hash, |_| false), None);
            }
            if !hashes.contains(&other) {
                prop_assert_eq!(index.find(other, |_| true), None);
            }
        }
    }
}
