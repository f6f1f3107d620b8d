//! The engine alone: its pure parts over a plain map, without a clock, a
//! store or a wire.

use std::collections::HashMap;

use ratekeeper::engine::{
    algorithm::{Cell, Observation, fixed_window},
    decision::{Decision, Policy},
    descriptor::Hits,
    plan::{Charge, Plan},
    rules::RuleSet,
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
            let plan = Plan::new(&self.rules, request, &mut vec![]);
            let seen = charge(&mut self.cells, &plan.charges, self.stop_when_over, now);
            let decision = Decision::new(&self.rules, &plan, &seen, &self.policy, now);
            decision_lines(&self.rules, &decision, &self.shown)
        })
    }
}

/// The plainest store there can be.
fn charge(
    cells: &mut HashMap<Vec<u8>, Cell>,
    charges: &[Charge<'_>],
    stop_when_over: bool,
    now: Timestamp,
) -> Vec<Observation> {
    let over: Vec<bool> = charges
        .iter()
        .map(|charge| stop_when_over && goes_over(cells, charge, now))
        .collect();
    let freeze = charges
        .iter()
        .zip(&over)
        .any(|(charge, &over)| over && !charge.shadow);
    let mut observations = vec![];
    for (charge, over) in charges.iter().zip(over) {
        let hits = if freeze && !over {
            Hits::Take(0)
        } else {
            charge.hits
        };
        let key = charge.key.canonical().to_vec();
        let old = cells.get(&key).copied();
        let step = fixed_window(charge.limit.window, old, hits, now);
        cells.insert(key, step.cell);
        observations.push(step.observation);
    }
    observations
}

fn goes_over(cells: &HashMap<Vec<u8>, Cell>, charge: &Charge<'_>, now: Timestamp) -> bool {
    let Hits::Take(_) = charge.hits else {
        return false;
    };
    let old = cells.get(charge.key.canonical().as_slice()).copied();
    let step = fixed_window(charge.limit.window, old, charge.hits, now);
    step.observation.after > u64::from(charge.limit.requests)
}
