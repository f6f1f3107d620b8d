//! One request, from question to decision: the clock is read once, one
//! snapshot of the rules is borrowed, the store is asked once.

use std::{cell::RefCell, fmt, sync::Arc};

use arc_swap::{ArcSwapOption, Guard};
use tokio::time::Instant;

use crate::{
    clock::Clock,
    engine::{
        algorithm::Observation,
        decision::{Code, Decision, Policy},
        descriptor::{Hits, Request},
        plan::{Charge, PerDescriptor, Plan, Refuses},
        rules::{ChargePolicy, RuleId, RuleSet},
        time::Timestamp,
    },
    storage::{AnyStore, ChargeMode, Ladder, StoreError},
    telemetry::{
        metrics::{Metrics, series::Index},
        refusals::Refusals,
    },
    trace::{Span, Traced},
};

/// Decides. One per process, shared by all connections.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    rules: ArcSwapOption<InForce>,
    store: AnyStore,
    ladder: Ladder,
    policy: Policy,
    mode: ChargeMode,
    metrics: Arc<Metrics>,
    refusals: Option<Refusals>,
}

/// Rules, and where decisions by them are counted.
#[derive(Debug)]
struct InForce {
    rules: Arc<RuleSet>,
    index: Index,
}

/// The rules of one request, if any were ever loaded: they stay as they are
/// while it is decided.
#[derive(Debug)]
pub struct Snapshot(Guard<Option<Arc<InForce>>>);

/// Rules that are not in force any more. Requests on their way may still go
/// by them, and give back their share, so that the last one frees nothing:
/// to take down 100,000 rules is not for an event loop.
#[derive(Debug)]
pub struct Retired(Arc<InForce>);

/// A decision and the rules it was made by.
#[derive(Debug)]
pub struct Answer {
    rules: Snapshot,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub now: Timestamp,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// The request names no domain.
    EmptyDomain,
    /// The request has nothing to decide on.
    NoDescriptors,
    /// No rules have ever been loaded.
    NoRules,
    /// The caller's time was up; whether its hits were counted is unknown.
    TooLate,
    /// The store could not count.
    Store(StoreError),
}

thread_local! {
    /// Where composite keys are put together; kept to save its allocation.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

// === impl Limiter ===

impl Limiter {
    /// A limiter without rules.
    #[must_use]
    pub fn new(
        clock: Clock,
        store: AnyStore,
        ladder: Ladder,
        policy: Policy,
        mode: ChargeMode,
    ) -> Self {
        Self {
            clock,
            rules: ArcSwapOption::empty(),
            store,
            ladder,
            policy,
            mode,
            metrics: Arc::default(),
            refusals: None,
        }
    }

    /// The same, and decisions are counted in `metrics`.
    #[must_use]
    pub fn counting_in(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = metrics;
        self
    }

    /// Where decisions are counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The same, and some of the calls that are refused are logged.
    #[must_use]
    pub fn log_refusals(mut self, refusals: Refusals) -> Self {
        self.refusals = Some(refusals);
        self
    }

    /// Those that are logged, where some are.
    #[must_use]
    pub fn refusals(&self) -> Option<&Refusals> {
        self.refusals.as_ref()
    }

    /// Replaces the rules as a whole; counters stay. Those before come back.
    /// Takes a while where rules are many.
    pub fn set_rules(&self, rules: impl Into<Arc<RuleSet>>) -> Option<Retired> {
        let rules = rules.into();
        let index = Index::new(&rules);
        let in_force = Arc::new(InForce { rules, index });
        self.rules.swap(Some(in_force)).map(Retired)
    }

    /// The rules in force, if any were ever loaded.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<RuleSet>> {
        let in_force = self.rules.load();
        in_force.as_ref().map(|it| Arc::clone(&it.rules))
    }

    /// The rules in force, and those of them that have been hit since they are.
    #[must_use]
    pub fn rules_hit(&self) -> Option<(Arc<RuleSet>, Vec<RuleId>)> {
        let in_force = self.rules.load_full()?;
        let rules = Arc::clone(&in_force.rules);
        let was_hit = |id: &RuleId| in_force.index.is_known(rules.number(*id));
        let ids = rules.ids().filter(was_hit).collect();
        Some((rules, ids))
    }

    /// The rules that a request goes by which comes now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.rules.load())
    }

    /// Where counters live.
    #[must_use]
    pub fn store(&self) -> &AnyStore {
        &self.store
    }

    /// What decides while the store is away.
    #[must_use]
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// The time that windows go by.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.store.now(self.clock.now())
    }

    /// Decides and counts, by the rules in force. From `until` on the caller
    /// does not wait any more.
    ///
    /// # Errors
    /// The request says too little, there are no rules, or the store failed;
    /// in the last case some hits may have been counted.
    pub fn decide(
        &self,
        request: &Request<'_>,
        until: Option<Instant>,
    ) -> impl Future<Output = Result<Answer, LimitError>> {
        self.decide_by(self.snapshot(), request, until, None)
    }

    /// As [`decide`](Self::decide), by these rules, with spans below `trace`.
    ///
    /// # Errors
    /// The same.
    pub async fn decide_by(
        &self,
        snapshot: Snapshot,
        request: &Request<'_>,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<Answer, LimitError> {
        if request.domain.is_empty() {
            return Err(LimitError::EmptyDomain);
        }
        if request.descriptors.is_empty() {
            return Err(LimitError::NoDescriptors);
        }
        let Some(in_force) = snapshot.0.as_deref() else {
            return Err(LimitError::NoRules);
        };
        let rules = &*in_force.rules;
        let now = self.now();
        let matching = trace.map(|trace| trace.child("Match Rules"));
        let plan = SCRATCH
            .with_borrow_mut(|scratch| Plan::new(rules, request, self.policy.quota_mode, scratch));
        drop(matching);
        let mode = match plan.policy.charge {
            Some(ChargePolicy::AllOrNothing) => ChargeMode::AllOrNothing,
            Some(ChargePolicy::Always) | None => self.mode,
        };
        let decision = match plan.remembering() {
            None => {
                let seen = self
                    .charge(&plan, &plan.charges, mode, now, until, trace)
                    .await?;
                Decision::new(rules, &plan, &seen, &self.policy, now)
            }
            Some(place) => {
                let seen = self
                    .charge_remembering(&plan, place, mode, now, until, trace)
                    .await?;
                let decision = Decision::new(rules, &plan, &seen, &self.policy, now);
                if decision.code == Code::OverLimit {
                    self.forget(&plan.charges[place], &seen[place..], now).await;
                }
                decision
            }
        };
        drop(plan);
        self.metrics
            .record(rules, &in_force.index, request, &decision, now);
        if let Some(refusals) = &self.refusals {
            refusals.note(rules, request, &decision, now);
        }
        Ok(Answer {
            decision,
            now,
            rules: snapshot,
        })
    }
}

impl Limiter {
    async fn charge(
        &self,
        plan: &Plan<'_>,
        charges: &[Charge<'_>],
        mode: ChargeMode,
        now: Timestamp,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<PerDescriptor<Observation>, LimitError> {
        let mut wait = trace.map(|trace| trace.child("Wait for Store"));
        let traced = wait.as_ref().map(Span::traced);
        let charged = self.store.charge(charges, mode, now, until, traced).await;
        if let (Some(wait), Err(unanswered)) = (&mut wait, &charged) {
            wait.fail(unanswered.error.to_string());
        }
        drop(wait);
        match charged {
            Ok(seen) => Ok(seen),
            Err(_) if until.is_some_and(|until| Instant::now() >= until) => {
                Err(LimitError::TooLate)
            }
            Err(unanswered) => self
                .ladder
                .decide(
                    plan.policy.on_store_failure,
                    &self.store,
                    charges,
                    *unanswered,
                    mode,
                    now,
                )
                .map_err(LimitError::Store),
        }
    }

    /// Charges a request that brings a value which is to be remembered: that
    /// first. If it is known the request is a repeated one, of which nothing
    /// else is counted and which no other limit refuses.
    async fn charge_remembering(
        &self,
        plan: &Plan<'_>,
        place: usize,
        mode: ChargeMode,
        now: Timestamp,
        until: Option<Instant>,
        trace: Option<&Traced>,
    ) -> Result<PerDescriptor<Observation>, LimitError> {
        let (before, rest) = plan.charges.split_at(place);
        let (value, after) = rest.split_at(1);
        let seen = self
            .charge(plan, value, ChargeMode::Always, now, until, trace)
            .await?;
        let repeated = seen.iter().all(|seen| seen.before == seen.after);
        let refuses = value[0].refuses == Refuses::Alone;
        let refused = refuses && seen.iter().any(Observation::is_over);
        let others = before.iter().chain(after).map(|charge| {
            let mut charge = *charge;
            if repeated || (refused && mode == ChargeMode::AllOrNothing) {
                charge.hits = Hits::Take(0);
            }
            charge
        });
        let others: PerDescriptor<Charge<'_>> = others.collect();
        let rest = self.charge(plan, &others, mode, now, until, trace);
        let mut all = match rest.await {
            Ok(all) => all,
            Err(error) => {
                self.forget(&value[0], &seen, now).await;
                return Err(error);
            }
        };
        // Who is locked out stays so.
        let pass = |charge: &Charge<'_>| {
            repeated && charge.method.is_none_or(|method| method.lockout == 0)
        };
        let others = all.iter_mut().zip(&others);
        for (other, _) in others.filter(|(_, charge)| pass(charge)) {
            other.after = other.after.min(other.most);
            other.passes = now;
        }
        for seen in seen {
            all.insert(place, seen);
        }
        Ok(all)
    }

    /// What was refused is not remembered: its next try is a new request.
    async fn forget(&self, charge: &Charge<'_>, seen: &[Observation], now: Timestamp) {
        let is_new = |seen: &Observation| !seen.is_over() && seen.before != seen.after;
        if !seen.first().is_some_and(is_new) {
            return;
        }
        let mut charge = *charge;
        charge.hits = Hits::GiveBack(1);
        // If that fails the value stays known for as long as it is remembered.
        if let Err(unanswered) = self
            .store
            .charge(&[charge], ChargeMode::Always, now, None, None)
            .await
        {
            tracing::debug!(error = %unanswered.error, "a refused request stays remembered");
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether there are rules for `domain`.
    #[must_use]
    pub fn knows(&self, domain: &[u8]) -> bool {
        let in_force = self.0.as_deref();
        in_force.is_some_and(|it| it.rules.domain(domain).is_some())
    }
}

// === impl Retired ===

impl Retired {
    /// Nobody has a share of them any more, and nobody can get one anew.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1 && Arc::strong_count(&self.0.rules) == 1
    }
}

// === impl Answer ===

impl Answer {
    /// The rules that the decision's ids refer to.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        let in_force = self.rules.0.as_deref();
        &in_force
            .expect("an answer is only made where rules were loaded")
            .rules
    }
}

// === impl LimitError ===

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyDomain => f.write_str("rate limit domain must not be empty"),
            Self::NoDescriptors => f.write_str("rate limit descriptor list must not be empty"),
            Self::NoRules => f.write_str("no rate limit configuration loaded"),
            Self::TooLate => {
                f.write_str("the caller's deadline passed before there was a decision")
            }
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LimitError {}
