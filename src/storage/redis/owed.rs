//! Changes that nobody waits for, to be made as soon as the store can: hits
//! that were admitted without it, hits that were reserved in vain.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::batch::{Item, Key, Terms, Work};
use super::ticket::Tag;
use crate::engine::time::Timestamp;

/// Changes by counter. Those of windows that have ended are dropped.
#[derive(Debug)]
pub(super) struct Owed {
    debts: Mutex<HashMap<Box<[u8]>, Debt>>,
    /// How many there are, to be seen without waiting.
    len: AtomicUsize,
    most: usize,
}

#[derive(Debug)]
struct Debt {
    key: Key,
    terms: Terms,
    take: u64,
    give_back: u64,
}

// === impl Owed ===

impl Owed {
    /// Remembers up to `most` counters.
    pub(super) fn new(most: usize) -> Self {
        Self {
            debts: Mutex::default(),
            len: AtomicUsize::new(0),
            most,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Remembers a change of one counter; others are not for later.
    pub(super) fn add(&self, work: Work, now: Timestamp) {
        let (key, terms, take, give_back) = match work {
            Work::Take(key, hits, terms) => (key, terms, hits, 0),
            Work::GiveBack(key, hits, terms) => (key, terms, 0, hits),
            Work::Together(_) => return,
        };
        if (take == 0 && give_back == 0) || now >= terms.resets {
            return;
        }
        let mut debts = self.lock();
        if let Some(debt) = debts.get_mut(&key.bytes) {
            debt.take = debt.take.saturating_add(take);
            debt.give_back = debt.give_back.saturating_add(give_back);
            return;
        }
        if debts.len() >= self.most {
            debts.retain(|_, debt| now < debt.terms.resets);
        }
        if debts.len() < self.most {
            let debt = Debt {
                key,
                terms,
                take,
                give_back,
            };
            debts.insert(debt.key.bytes.clone(), debt);
        }
        self.len.store(debts.len(), Ordering::Relaxed);
    }

    /// Takes out up to `most` counters' changes that can go where `can_go`
    /// says so of their key.
    pub(super) fn take(
        &self,
        most: usize,
        now: Timestamp,
        can_go: impl Fn(&[u8]) -> bool,
    ) -> Vec<Item<Tag>> {
        let mut items = vec![];
        let mut debts = self.lock();
        debts.retain(|_, debt| {
            if now >= debt.terms.resets {
                return false;
            }
            let goes = items.len() < most && can_go(&debt.key.bytes);
            if goes {
                items.extend(debt.items());
            }
            !goes
        });
        self.len.store(debts.len(), Ordering::Relaxed);
        items
    }

    /// Nothing under the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Debt>> {
        self.debts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Debt ===

impl Debt {
    fn items(&self) -> impl Iterator<Item = Item<Tag>> {
        let take = Work::Take(self.key.clone(), self.take, self.terms);
        let give_back = Work::GiveBack(self.key.clone(), self.give_back, self.terms);
        let works = [(self.take, take), (self.give_back, give_back)];
        works
            .into_iter()
            .filter(|(hits, _)| *hits > 0)
            .map(|(_, work)| Item::nobodys(work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> Key {
        Key {
            bytes: Box::new([number]),
            hash: number.into(),
            ttl: 60,
        }
    }

    const TERMS: Terms = Terms {
        limit: 10,
        resets: Timestamp::from_secs(60),
        leased: false,
    };
    const NOW: Timestamp = Timestamp::from_secs(30);

    fn works(items: Vec<Item<Tag>>) -> Vec<(u8, i64)> {
        let change = |item: Item<Tag>| match item.work {
            Work::Take(key, hits, _) => (key.bytes[0], i64::try_from(hits).expect("small")),
            Work::GiveBack(key, hits, _) => (key.bytes[0], -i64::try_from(hits).expect("small")),
            Work::Together(_) => panic!("not for later"),
        };
        let mut works: Vec<_> = items.into_iter().map(change).collect();
        works.sort_unstable();
        works
    }

    #[test]
    fn adds_up_and_goes_where_it_can() {
        let owed = Owed::new(10);
        owed.add(Work::Take(key(1), 3, TERMS), NOW);
        owed.add(Work::Take(key(1), 4, TERMS), NOW);
        owed.add(Work::GiveBack(key(1), 2, TERMS), NOW);
        owed.add(Work::Take(key(2), 1, TERMS), NOW);
        owed.add(Work::Take(key(3), 0, TERMS), NOW);
        assert_eq!(
            works(owed.take(10, NOW, |key| key == [1])),
            [(1, -2), (1, 7)]
        );
        assert!(!owed.is_empty());
        assert_eq!(works(owed.take(10, NOW, |_| true)), [(2, 1)]);
        assert!(owed.is_empty());
    }

    #[test]
    fn ends_with_its_window_and_stays_bounded() {
        let owed = Owed::new(2);
        for number in 0..5 {
            owed.add(Work::Take(key(number), 1, TERMS), NOW);
        }
        assert_eq!(owed.take(1, NOW, |_| true).len(), 1);
        assert_eq!(owed.take(10, TERMS.resets, |_| true).len(), 0);
        assert!(owed.is_empty());
        owed.add(Work::Take(key(1), 1, TERMS), TERMS.resets);
        assert!(owed.is_empty());
    }
}
