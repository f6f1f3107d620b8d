//! What is decided when the store does not answer.
//!
//! Each domain stands on one rung: answer with an error, let everything pass,
//! refuse everything, or count locally. Only charges that the store has not
//! answered are decided here.
//!
//! Local counting holds each limit divided by the number of processes that
//! share the store, at least 1. What is admitted so is added to the store
//! when it is back. A process that begins to count locally does not know what
//! the store had counted before: within one window up to twice the limit can
//! pass, once by the store and once by all processes locally.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{AnyStore, ChargeMode, MemoryStore, StoreError, Unanswered, memory};
use crate::engine::{
    algorithm::Observation,
    descriptor::Hits,
    key::HashSeed,
    limit::Limit,
    plan::{Charge, PerDescriptor, Refuses},
    rules::OnStoreFailure,
    time::Timestamp,
};

/// Decides without the store.
#[derive(Debug)]
pub struct Ladder {
    /// Where a domain says nothing.
    default: OnStoreFailure,
    /// Processes that share the store, where that is known beforehand.
    replicas: Option<u32>,
    local: MemoryStore,
    counts: [AtomicU64; 4],
}

/// Calls decided on each rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Answered with an error.
    pub error: u64,
    /// Let pass.
    pub allow: u64,
    /// Refused.
    pub deny: u64,
    /// Counted in this process.
    pub local: u64,
}

// === impl Ladder ===

impl Ladder {
    /// `replicas`: processes that share the store; `None` asks the store.
    #[must_use]
    pub fn new(default: OnStoreFailure, replicas: Option<u32>, local: MemoryStore) -> Self {
        Self {
            default,
            replicas,
            local,
            counts: Default::default(),
        }
    }

    /// For a store that never fails.
    #[must_use]
    pub fn none() -> Self {
        let nothing = memory::Config {
            max_counters: 1,
            when_full: memory::WhenFull::Deny,
        };
        let local = MemoryStore::new(nothing, HashSeed(0, 0));
        Self::new(OnStoreFailure::Error, None, local)
    }

    /// Where counts are while the store is away.
    #[must_use]
    pub fn local(&self) -> &MemoryStore {
        &self.local
    }

    /// Calls decided on each rung.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let count = |rung: OnStoreFailure| self.counts[rung as usize].load(Ordering::Relaxed);
        Stats {
            error: count(OnStoreFailure::Error),
            allow: count(OnStoreFailure::Allow),
            deny: count(OnStoreFailure::Deny),
            local: count(OnStoreFailure::Local),
        }
    }

    /// What `charges` see: what the store has told, and what the rung says.
    /// `says`: the domain's own rung.
    ///
    /// # Errors
    /// The rung is to answer with an error.
    pub fn decide(
        &self,
        says: Option<OnStoreFailure>,
        store: &AnyStore,
        charges: &[Charge<'_>],
        unanswered: Unanswered,
        mode: ChargeMode,
        now: Timestamp,
    ) -> Result<PerDescriptor<Observation>, StoreError> {
        let rung = says.unwrap_or(self.default);
        self.counts[rung as usize].fetch_add(1, Ordering::Relaxed);
        let mut seen = unanswered.seen;
        match rung {
            OnStoreFailure::Error => return Err(unanswered.error),
            OnStoreFailure::Allow => fill(&mut seen, charges, |charge| allowed(charge, now)),
            OnStoreFailure::Deny => fill(&mut seen, charges, |charge| denied(charge, now)),
            OnStoreFailure::Local => self.count(&mut seen, store, charges, mode, now),
        }
        Ok(seen.into_iter().flatten().collect())
    }

    fn count(
        &self,
        seen: &mut [Option<Observation>],
        store: &AnyStore,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
    ) {
        let AnyStore::Redis(store) = store else {
            return;
        };
        let replicas = self.replicas.unwrap_or_else(|| store.replicas()).max(1);
        // What the store knows to be over refuses the whole request.
        let is_refused = mode == ChargeMode::AllOrNothing
            && seen.iter().zip(charges).any(|(seen, charge)| {
                let over = seen.is_some_and(|seen| charge.is_over(&seen));
                over && charge.refuses == Refuses::Alone
            });
        let missing = |place: &usize| seen[*place].is_none();
        let places: PerDescriptor<usize> = (0..charges.len()).filter(missing).collect();
        let shares: PerDescriptor<Charge<'_>> = places
            .iter()
            .map(|&place| {
                let mut share = share(&charges[place], replicas);
                if is_refused {
                    share.hits = Hits::Take(0);
                }
                share
            })
            .collect();
        let counted = self.local.charge(&shares, mode, now);
        for ((place, share), counted) in places.into_iter().zip(&shares).zip(counted) {
            let charge = &charges[place];
            let admitted = match share.hits {
                Hits::Take(hits) if !share.is_over(&counted) => {
                    // A request that is charged all or nothing may have been
                    // refused by another of its limits.
                    hits.min(counted.after.saturating_sub(counted.before))
                }
                Hits::Take(_) | Hits::GiveBack(_) => 0,
            };
            if admitted > 0 {
                store.owe(charge, admitted, now);
            }
            seen[place] = Some(scaled(counted, share, charge));
        }
    }
}

fn fill<'a>(
    seen: &mut [Option<Observation>],
    charges: &[Charge<'a>],
    decide: impl Fn(&Charge<'a>) -> Observation,
) {
    for (seen, charge) in seen.iter_mut().zip(charges) {
        seen.get_or_insert_with(|| decide(charge));
    }
}

/// As if nothing else had been counted, and it fits.
fn allowed(charge: &Charge<'_>, now: Timestamp) -> Observation {
    let most = charge.most();
    let after = match charge.hits {
        Hits::Take(hits) => hits.min(most),
        Hits::GiveBack(_) => 0,
    };
    Observation {
        before: 0,
        after,
        most,
        resets: charge.limit.window.end(now),
        passes: now,
        known: false,
    }
}

/// As if nothing were left. A look is told so too; a refund is never refused.
fn denied(charge: &Charge<'_>, now: Timestamp) -> Observation {
    let most = charge.most();
    let after = match charge.hits {
        Hits::Take(hits) => most.saturating_add(hits.max(1)),
        Hits::GiveBack(_) => most,
    };
    let resets = charge.limit.window.end(now);
    Observation {
        before: most,
        after,
        most,
        resets,
        passes: resets,
        known: false,
    }
}

fn share<'a>(charge: &Charge<'a>, replicas: u32) -> Charge<'a> {
    let part = |whole: u32| (whole / replicas).max(whole.min(1));
    Charge {
        limit: Limit {
            requests: part(charge.limit.requests),
            window: charge.limit.window,
        },
        method: charge.method.map(|method| method.share(part)),
        ..*charge
    }
}

/// What was counted against a share, told against the whole limit: with as
/// many hits left, and over when the share is.
fn scaled(counted: Observation, share: &Charge<'_>, whole: &Charge<'_>) -> Observation {
    let others = whole.most().saturating_sub(share.most());
    Observation {
        before: counted.before.saturating_add(others),
        after: counted.after.saturating_add(others),
        most: counted.most.saturating_add(others),
        ..counted
    }
}

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod tests;
