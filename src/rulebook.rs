//! The rules in force, and what became of attempts to change them: the last
//! good ones stay until better ones come, wherever they come from.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{clock::Clock, engine::rules::RuleSet, engine::time::Timestamp, limiter::Limiter};

/// Hands rules to the limiter, and remembers what became of each try.
#[derive(Debug)]
pub struct Rulebook {
    limiter: Arc<Limiter>,
    clock: Clock,
    loads: Mutex<Loads>,
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
}

// === impl Rulebook ===

impl Rulebook {
    /// Nothing has been loaded yet.
    #[must_use]
    pub fn new(limiter: Arc<Limiter>, clock: Clock) -> Self {
        Self {
            limiter,
            clock,
            loads: Mutex::default(),
        }
    }

    /// From now on it goes by `rules`; counters stay.
    pub fn adopt(&self, rules: RuleSet) {
        let domains = rules.domain_names().len();
        self.limiter.set_rules(rules);
        let mut loads = self.lock();
        loads.successes += 1;
        loads.trouble = None;
        loads.loaded_at = Some(self.clock.now());
        loads.domains = domains;
        drop(loads);
        tracing::info!(domains, "Successfully loaded new configuration");
    }

    /// A try failed: what was in force stays so. Told once for each `trouble`
    /// in a row.
    pub fn refuse(&self, trouble: impl fmt::Display) {
        let trouble: Arc<str> = trouble.to_string().into();
        let mut loads = self.lock();
        loads.failures += 1;
        let before = loads.trouble.replace(Arc::clone(&trouble));
        drop(loads);
        if before.as_ref() != Some(&trouble) {
            tracing::error!("Error loading new configuration: {trouble}");
        }
    }

    /// What became of all tries until now.
    #[must_use]
    pub fn loads(&self) -> Loads {
        self.lock().clone()
    }

    /// Who decides by these rules.
    #[must_use]
    pub fn limiter(&self) -> &Arc<Limiter> {
        &self.limiter
    }

    fn lock(&self) -> MutexGuard<'_, Loads> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
