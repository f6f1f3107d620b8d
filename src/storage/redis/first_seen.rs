//! Which keys this process has already given a time to live.
//!
//! May forget: then a key gets its time to live once more. It does not grow
//! beyond two generations; keys of windows that are over go with the older.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashSet;

/// Keys of one generation.
const GENERATION: usize = if cfg!(test) { 1 << 10 } else { 1 << 18 };

#[derive(Debug, Default)]
pub(super) struct FirstSeen {
    young: HashSet<u128, BuildHasherDefault<Ready>>,
    old: HashSet<u128, BuildHasherDefault<Ready>>,
}

/// Keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct Ready(u64);

// === impl FirstSeen ===

impl FirstSeen {
    /// True the first time.
    pub(super) fn insert(&mut self, key: u128) -> bool {
        if self.young.contains(&key) {
            return false;
        }
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
        !self.old.contains(&key)
    }

    /// The key is to be given a time to live again.
    pub(super) fn forget(&mut self, key: u128) {
        self.young.remove(&key);
        self.old.remove(&key);
    }

    /// Nothing that was seen counts any more: the store may have lost it.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

// === impl Ready ===

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "any 64 bits of it do")]
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_some_and_stays_bounded() {
        let mut seen = FirstSeen::default();
        assert!(seen.insert(1));
        assert!(!seen.insert(1));
        seen.forget(1);
        assert!(seen.insert(1));
        for key in 2..=GENERATION as u128 + 1 {
            assert!(seen.insert(key));
        }
        assert!(!seen.insert(1), "the older generation still counts");
        for key in 0..3 * GENERATION as u128 {
            seen.insert(key + 10_000_000);
        }
        assert!(seen.young.len() + seen.old.len() <= 2 * GENERATION);
        seen.clear();
        assert!(seen.insert(1));
    }
}
