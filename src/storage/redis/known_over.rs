//! Counters known to have nothing left until their window ends.
//!
//! Their takes are refused without the store. What was refused is remembered
//! and goes to the store with the next change that has to go there (a look, a
//! refund, a raised limit), so that every answer is what it would have been
//! if each hit had been counted at once. Forgetting a counter costs a round
//! trip, nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, sync::Cache};

use super::batch::Seen;

/// Counters by their key's hash; keys hold the window.
#[derive(Debug)]
pub(super) struct KnownOver {
    /// `None` where nothing is to be remembered.
    cache: Option<Cache<u128, Arc<Known>>>,
    /// Takes refused.
    hits: AtomicU64,
}

#[derive(Debug)]
struct Known {
    /// Hits that the store has counted, at least.
    count: u64,
    /// Hits refused since, that the store does not know of.
    uncounted: AtomicU64,
    /// From when it was known on.
    lasts: Duration,
}

struct UntilReset;

/// What is known of a counter that wants to take hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Unknown,
    /// It is over, and sees this.
    Over(Seen),
    /// It was over for another limit, or only looks: the store has to say.
    Ask,
}

// === impl KnownOver ===

impl KnownOver {
    /// Remembers up to `most` counters; none for 0.
    pub(super) fn new(most: u64) -> Self {
        let cache = (most > 0).then(|| {
            Cache::builder()
                .max_capacity(most)
                .expire_after(UntilReset)
                .build()
        });
        Self {
            cache,
            hits: AtomicU64::new(0),
        }
    }

    /// Whether a take of `hits` can be refused because its counter is known to
    /// have nothing left of `limit`. `counts`: refused hits count.
    pub(super) fn ask(&self, key: u128, hits: u64, limit: u32, counts: bool) -> Verdict {
        let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(&key)) else {
            return Verdict::Unknown;
        };
        let uncounted = known.uncounted.load(Ordering::Relaxed);
        if hits == 0 || known.count.saturating_add(uncounted) < limit.into() {
            return Verdict::Ask;
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        let uncounted = if counts {
            known.uncounted.fetch_add(hits, Ordering::Relaxed)
        } else {
            uncounted
        };
        let before = known.count.saturating_add(uncounted);
        Verdict::Over(Seen::of(before, before.saturating_add(hits)))
    }

    /// Forgets a counter: hits that the store does not know of.
    pub(super) fn forget(&self, key: u128) -> u64 {
        let known = self.cache.as_ref().and_then(|cache| cache.remove(&key));
        known.map_or(0, |known| known.uncounted.swap(0, Ordering::Relaxed))
    }

    /// The store has counted `count` hits, which is all that `limit` allows,
    /// of a window that lasts for `lasts` more.
    pub(super) fn learn(&self, key: u128, count: u64, limit: u32, lasts: Duration) {
        let Some(cache) = &self.cache else { return };
        if count < limit.into() || cache.contains_key(&key) {
            return;
        }
        let known = Known {
            count,
            uncounted: AtomicU64::new(0),
            lasts,
        };
        cache.insert(key, Arc::new(known));
    }

    /// Forgets all counters.
    pub(super) fn forget_all(&self) {
        if let Some(cache) = &self.cache {
            cache.invalidate_all();
        }
    }

    /// Takes refused so far.
    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Counters remembered, about.
    pub(super) fn len(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::entry_count)
    }
}

// === impl UntilReset ===

impl Expiry<u128, Arc<Known>> for UntilReset {
    fn expire_after_create(&self, _: &u128, known: &Arc<Known>, _: Instant) -> Option<Duration> {
        Some(known.lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn over(before: u64, after: u64) -> Verdict {
        Verdict::Over(Seen::of(before, after))
    }

    #[test]
    fn refuses_what_is_over_and_nothing_else() {
        let known = KnownOver::new(100);
        known.learn(1, 9, 10, HOUR);
        assert_eq!(known.ask(1, 1, 10, true), Verdict::Unknown, "one was left");
        known.learn(1, 10, 10, HOUR);
        assert_eq!(known.ask(2, 1, 10, true), Verdict::Unknown, "another one");
        assert_eq!(known.ask(1, 0, 10, true), Verdict::Ask, "a look");
        assert_eq!(known.ask(1, 1, 11, true), Verdict::Ask, "a raised limit");
        assert_eq!(known.ask(1, 3, 10, true), over(10, 13));
        assert_eq!(known.ask(1, 2, 10, false), over(13, 15));
        assert_eq!(known.ask(1, 1, 5, true), over(13, 14), "a lowered limit");
        assert_eq!(known.forget(1), 4, "what the store has not counted");
        assert_eq!(known.ask(1, 1, 10, true), Verdict::Unknown);
        assert_eq!(known.forget(1), 0);
        assert_eq!(known.hits(), 3);
    }

    #[test]
    fn is_bounded_and_can_be_off() {
        let known = KnownOver::new(10);
        for key in 0..1_000 {
            known.learn(key, 1, 0, HOUR);
        }
        known.cache.as_ref().expect("on").run_pending_tasks();
        assert!(known.len() <= 10, "{}", known.len());
        let off = KnownOver::new(0);
        off.learn(1, 10, 10, HOUR);
        assert_eq!(off.ask(1, 1, 10, true), Verdict::Unknown);
    }
}
