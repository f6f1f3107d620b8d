//! The engine alone: its pure parts over a plain map, without a clock, a
//! store or a wire.

use std::collections::HashMap;

use ratekeeper::engine::{
    algorithm::{Cell, Counter, Observation, counter::Terms, fixed_window},
    decision::{Decision, Policy},
    descriptor::Hits,
    plan::{Charge, Plan, Refuses},
    rules::{ChargePolicy, RuleSet},
    time::Timestamp,
};

use super::{
    super::{
        Lines,
        format::{Asked, Case},
    },
    Boundary, Shown, Shows, compile, decision_lines, policy,
};

pub(super) struct Engine {
    rules: RuleSet,
    policy: Policy,
    shown: Shown,
    stop_when_over: bool,
    cells: Cells,
}

type Cells = HashMap<Vec<u8>, State>;

#[derive(Clone)]
enum State {
    Plain(Cell),
    Special(Box<Counter>),
}

impl Engine {
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        Ok(Self {
            rules: compile(case)?.ok_or("the engine needs rules")?,
            policy: policy(&case.settings),
            shown: Shown::new(&case.settings)?,
            stop_when_over: case.settings.stop_when_over,
            cells: HashMap::new(),
        })
    }
}

impl Boundary for Engine {
    fn shows(&self) -> Shows {
        Shows {
            statistics: true,
            dynamic_metadata: false,
        }
    }

    fn ask(&mut self, now: Timestamp, asked: &Asked) -> Lines {
        asked.with_request(|request| {
            let plan = Plan::new(&self.rules, request, self.policy.quota_mode, &mut vec![]);
            let mode = match plan.policy.charge {
                Some(ChargePolicy::AllOrNothing) => Mode::AllOrNothing,
                _ if self.stop_when_over => Mode::OthersStandStill,
                _ => Mode::Always,
            };
            let seen = charge(&mut self.cells, &plan.charges, mode, now);
            let decision = Decision::new(&self.rules, &plan, &seen, &self.policy, now);
            decision_lines(&self.rules, &decision, &self.shown)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Always,
    OthersStandStill,
    AllOrNothing,
}

/// The plainest store there can be.
fn charge(
    cells: &mut Cells,
    charges: &[Charge<'_>],
    mode: Mode,
    now: Timestamp,
) -> Vec<Observation> {
    let trial = trial(cells, charges, mode, now);
    let over = trial.iter().map(|&(_, over)| over);
    let mut kinds = charges.iter().map(|charge| charge.refuses).zip(over);
    let refused = match mode {
        Mode::Always => false,
        Mode::OthersStandStill => kinds.any(|(refuses, over)| over && refuses != Refuses::Never),
        Mode::AllOrNothing => Refuses::any(kinds),
    };
    let mut observations = vec![];
    for (charge, (tried, over)) in charges.iter().zip(trial) {
        let counts = !refused || (over && mode == Mode::OthersStandStill);
        let hits = if counts { charge.hits } else { Hits::Take(0) };
        let observation = step(cells, charge, hits, now);
        if over && !counts {
            lock(cells, charge, now);
        }
        observations.push(if over && !counts { tried } else { observation });
    }
    observations
}

fn step(cells: &mut Cells, charge: &Charge<'_>, hits: Hits, now: Timestamp) -> Observation {
    let key = charge.key.canonical().to_vec();
    let Some(terms) = terms(charge) else {
        let old = match cells.get(&key) {
            Some(State::Plain(cell)) => Some(*cell),
            _ => None,
        };
        let step = fixed_window(charge.limit, old, hits, now);
        cells.insert(key, State::Plain(step.cell));
        return step.observation;
    };
    let mut counter = match cells.remove(&key) {
        Some(State::Special(counter)) => counter,
        _ => Box::default(),
    };
    let (seen, _) = counter.charge(&terms, hits, now);
    cells.insert(key, State::Special(counter));
    seen
}

/// What has refused may be locked by it, though nothing was counted.
fn lock(cells: &mut Cells, charge: &Charge<'_>, now: Timestamp) {
    let key = charge.key.canonical().to_vec();
    let takes = matches!(charge.hits, Hits::Take(1..));
    if let (Some(terms), Some(State::Special(counter)), true) =
        (terms(charge), cells.get_mut(&key), takes)
    {
        counter.lock(&terms, now);
    }
}

fn terms(charge: &Charge<'_>) -> Option<Terms> {
    let value = charge.value.iter();
    Some(Terms {
        method: charge.method?,
        limit: charge.limit,
        value: value.fold(7, |hash, &byte| hash * 257 + u128::from(byte)),
    })
}

/// What each would see, and whether it would be over. One after the other,
/// unless they may come to stand still: then each as if it were alone.
fn trial(
    cells: &Cells,
    charges: &[Charge<'_>],
    mode: Mode,
    now: Timestamp,
) -> Vec<(Observation, bool)> {
    let mut trial = cells.clone();
    charges
        .iter()
        .map(|charge| {
            if mode == Mode::OthersStandStill {
                trial.clone_from(cells);
            }
            let seen = step(&mut trial, charge, charge.hits, now);
            (seen, charge.is_over(&seen))
        })
        .collect()
}
