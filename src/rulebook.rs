//! The rules in force, and what became of attempts to change them: the last
//! good ones stay until better ones come, wherever they come from.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    aside::aside,
    clock::Clock,
    engine::{rules::RuleSet, time::Timestamp},
    limiter::{Limiter, Retired},
};

/// From one look whether old rules are still in use to the next.
const LAST_CALLS: Duration = Duration::from_millis(50);

/// Hands rules to the limiter, and remembers what became of each try.
#[derive(Debug)]
pub struct Rulebook {
    limiter: Arc<Limiter>,
    clock: Clock,
    loads: watch::Sender<Loads>,
    /// Rules that calls may still go by.
    old: Mutex<Vec<Retired>>,
    replaced: Notify,
}

/// What became of the tries to load rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// Tries that brought new rules.
    pub successes: u64,
    /// Tries that were refused; the rules before stayed.
    pub failures: u64,
    /// All that is wrong with the last try; `None` if it was a good one.
    pub trouble: Option<Arc<str>>,
    /// When the rules in force were loaded.
    pub loaded_at: Option<Timestamp>,
    /// Domains of the rules in force.
    pub domains: usize,
    /// Rules in force, with and without a limit.
    pub rules: usize,
}

// === impl Rulebook ===

impl Rulebook {
    /// Nothing has been loaded yet.
    #[must_use]
    pub fn new(limiter: Arc<Limiter>, clock: Clock) -> Self {
        Self {
            limiter,
            clock,
            loads: watch::Sender::default(),
            old: Mutex::default(),
            replaced: Notify::new(),
        }
    }

    /// From now on it goes by `rules`; counters stay.
    pub fn adopt(&self, rules: RuleSet) {
        let (domains, count) = (rules.domain_names().len(), rules.len());
        let now = self.clock.now();
        let mut old = None;
        // Both at once: whoever goes by the new rules is told of them.
        self.loads.send_modify(|loads| {
            old = self.limiter.set_rules(rules);
            loads.successes += 1;
            loads.trouble = None;
            loads.loaded_at = Some(now);
            loads.domains = domains;
            loads.rules = count;
        });
        if let Some(old) = old {
            self.old().push(old);
            self.replaced.notify_one();
        }
        tracing::info!(domains, "Successfully loaded new configuration");
    }

    /// A try failed: what was in force stays so. Told once for each `trouble`
    /// in a row.
    pub fn refuse(&self, trouble: impl fmt::Display) {
        let trouble: Arc<str> = trouble.to_string().into();
        let mut before = None;
        self.loads.send_modify(|loads| {
            loads.failures += 1;
            before = loads.trouble.replace(Arc::clone(&trouble));
        });
        if before.as_ref() != Some(&trouble) {
            tracing::error!("Error loading new configuration: {trouble}");
        }
    }

    /// What became of all tries until now.
    #[must_use]
    pub fn loads(&self) -> Loads {
        self.loads.borrow().clone()
    }

    /// The same, for who waits for the next try.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Loads> {
        self.loads.subscribe()
    }

    /// Who decides by these rules.
    #[must_use]
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    /// Frees rules once no call goes by them any more, away from event loops;
    /// for ever.
    pub async fn free_old(&self) {
        loop {
            self.replaced.notified().await;
            while !self.old().is_empty() {
                let unused = self.take_unused();
                if !unused.is_empty() {
                    // Without a thread they are freed right here.
                    let _ = aside(move || drop(unused)).await;
                }
                sleep(LAST_CALLS).await;
            }
        }
    }

    fn take_unused(&self) -> Vec<Retired> {
        let mut old = self.old();
        let all = mem::take(&mut *old).into_iter();
        let (unused, used) = all.partition(Retired::is_unused);
        *old = used;
        unused
    }

    fn old(&self) -> MutexGuard<'_, Vec<Retired>> {
        self.old.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{
            decision::Policy,
            key::HashSeed,
            rules::{DomainDef, RuleSet},
        },
        storage::{AnyStore, ChargeMode, Ladder, MemoryStore, memory},
    };

    fn rulebook() -> Rulebook {
        let config = memory::Config {
            max_counters: 10,
            when_full: memory::WhenFull::Deny,
        };
        let store = AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)));
        let mode = ChargeMode::Always;
        let limiter = Limiter::new(
            Clock::System,
            store,
            Ladder::none(),
            Policy::default(),
            mode,
        );
        Rulebook::new(Arc::new(limiter), Clock::System)
    }

    fn rules(names: &[&str]) -> RuleSet {
        let domain = |name: &&str| DomainDef {
            name: (*name).to_owned(),
            ..DomainDef::default()
        };
        RuleSet::compile(names.iter().map(domain).collect()).unwrap()
    }

    #[test]
    fn the_last_good_rules_stay() {
        let book = rulebook();
        assert_eq!(book.loads(), Loads::default());
        book.refuse("no");
        assert!(book.limiter().rules().is_none());
        book.adopt(rules(&["a", "b"]));
        let good = book.loads();
        assert_eq!((good.successes, good.failures, good.domains), (1, 1, 2));
        assert_eq!(good.trouble, None);
        book.refuse("still no");
        let bad = book.loads();
        assert_eq!((bad.successes, bad.failures, bad.domains), (1, 2, 2));
        assert_eq!(bad.trouble.as_deref(), Some("still no"));
        assert_eq!(bad.loaded_at, good.loaded_at);
        assert!(book.limiter().snapshot().knows(b"b"));
    }

    #[tokio::test(start_paused = true)]
    async fn old_rules_are_freed_by_us_once_calls_have_let_go() {
        let book = rulebook();
        book.adopt(rules(&["a"]));
        let call = book.limiter().snapshot();
        let first = Arc::downgrade(&book.limiter().rules().unwrap());
        book.adopt(rules(&["b"]));
        let second = Arc::downgrade(&book.limiter().rules().unwrap());
        book.adopt(rules(&["c"]));
        let freeing = book.free_old();
        let waiting = async {
            while second.strong_count() > 0 {
                sleep(LAST_CALLS).await;
            }
            assert!(first.strong_count() > 0);
            assert!(call.knows(b"a"));
            drop(call);
            assert!(first.strong_count() > 0, "a call frees nothing");
            while first.strong_count() > 0 {
                sleep(LAST_CALLS).await;
            }
        };
        tokio::select! {
            () = waiting => {}
            () = freeing => unreachable!("it never ends"),
        }
        assert!(book.old().is_empty());
        assert!(book.limiter().snapshot().knows(b"c"));
    }
}
