//! The engine alone: its pure parts over a plain map, without a clock, a
//! store or a wire.

use std::collections::HashMap;

use ratekeeper::engine::{
    algorithm::{Cell, Observation, fixed_window},
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
    cells: HashMap<Vec<u8>, Cell>,
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
    cells: &mut HashMap<Vec<u8>, Cell>,
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
        observations.push(if over && !counts { tried } else { observation });
    }
    observations
}

fn step(
    cells: &mut HashMap<Vec<u8>, Cell>,
    charge: &Charge<'_>,
    hits: Hits,
    now: Timestamp,
) -> Observation {
    let key = charge.key.canonical().to_vec();
    let old = cells.get(&key).copied();
    let step = fixed_window(charge.limit.window, old, hits, now);
    cells.insert(key, step.cell);
    step.observation
}

/// What each would see, and whether it would be over. One after the other,
/// unless they may come to stand still: then each as if it were alone.
fn trial(
    cells: &HashMap<Vec<u8>, Cell>,
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
            let takes = matches!(charge.hits, Hits::Take(_));
            let over = takes && seen.after > u64::from(charge.limit.requests);
            (seen, over)
        })
        .collect()
}
