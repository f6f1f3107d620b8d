//! The engine alone: its pure parts over a plain map, without a clock, a
//! store or a wire.

use std::collections::HashMap;

use ratekeeper::engine::{
    algorithm::{Cell, Observation, fixed_window},
    decision::{Decision, Policy},
    descriptor::{Descriptor, Entry, Hits, Request},
    headers::HeaderNames,
    limit::Limit,
    plan::{Charge, Plan},
    rules::RuleSet,
    time::Timestamp,
};

use super::{
    super::{
        Lines,
        format::{Asked, AskedDescriptor, Case},
    },
    Boundary, Shows, compile, decision_lines, header_names, policy,
};

pub(super) struct Engine {
    rules: RuleSet,
    policy: Policy,
    headers: Option<HeaderNames>,
    dynamic_metadata: bool,
    stop_when_over: bool,
    cells: HashMap<Vec<u8>, Cell>,
}

impl Engine {
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        Ok(Self {
            rules: compile(case)?,
            policy: policy(&case.settings),
            headers: header_names(&case.settings)?,
            dynamic_metadata: case.settings.dynamic_metadata,
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
        let entries: Vec<Vec<Entry<'_>>> = asked.descriptors.iter().map(entries).collect();
        let descriptors: Vec<Descriptor<'_>> = asked
            .descriptors
            .iter()
            .zip(&entries)
            .map(|(descriptor, entries)| Descriptor {
                entries,
                limit: limit(descriptor),
                hits: hits(descriptor, asked.hits),
            })
            .collect();
        let request = Request {
            domain: asked.domain.as_bytes(),
            descriptors: &descriptors,
        };
        let plan = Plan::new(&self.rules, &request, &mut vec![]);
        let observations = charge(&mut self.cells, &plan.charges, self.stop_when_over, now);
        let decision = Decision::new(&self.rules, &plan, &observations, &self.policy, now);
        decision_lines(
            &self.rules,
            &decision,
            self.headers.as_ref(),
            self.dynamic_metadata,
        )
    }
}

fn entries(descriptor: &AskedDescriptor) -> Vec<Entry<'_>> {
    let entries = descriptor.entries.iter();
    entries.map(|(key, value)| Entry { key, value }).collect()
}

fn limit(descriptor: &AskedDescriptor) -> Option<Limit> {
    let limit = descriptor.limit.as_ref()?;
    Some(Limit {
        requests: limit.requests,
        window: limit.window()?,
    })
}

/// What the service makes of hits: a descriptor's own stand before the
/// request's, of which 0 is 1.
fn hits(descriptor: &AskedDescriptor, of_request: u32) -> Hits {
    let amount = descriptor.hits.unwrap_or(u64::from(of_request.max(1)));
    if descriptor.negative {
        Hits::GiveBack(amount)
    } else {
        Hits::Take(amount)
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
