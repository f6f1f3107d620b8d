//! Questions → answers, through the code that serves Envoy: only sockets are
//! left out.

use std::sync::Arc;

use futures_util::FutureExt as _;
use prost::Message as _;

use super::{
    Answer, Failure, TestOutcome, compare,
    format::{Step, Test},
    load::Loaded,
};
use crate::{
    clock::{Clock, ManualClock},
    engine::{key::HashSeed, rules::RuleSet},
    limiter::Limiter,
    proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse},
    service::{
        grpc::{Api, FRAME_HEADER},
        http_json,
        wire::{Bounds, Message},
    },
    storage::{AnyStore, Ladder, MemoryStore, memory},
};

/// A service with nothing counted yet.
struct Service {
    clock: ManualClock,
    api: Api,
}

/// Runs the tests whose names contain `filter`.
pub(super) fn all(loaded: &Loaded, filter: &str) -> Vec<TestOutcome> {
    let tests = loaded.suite.tests.iter();
    tests
        .filter(|test| test.name.contains(filter))
        .map(|test| run(test, loaded))
        .collect()
}

fn run(test: &Test, loaded: &Loaded) -> TestOutcome {
    let service = Service::new(test, &loaded.rules);
    let steps = (1..).zip(&test.steps);
    TestOutcome {
        name: test.name.clone(),
        line: test.at.line,
        failures: steps
            .filter_map(|(number, step)| service.step(number, step, &loaded.domain))
            .collect(),
    }
}

// === impl Service ===

impl Service {
    fn new(test: &Test, rules: &Arc<RuleSet>) -> Self {
        let clock = ManualClock::default();
        let memory = memory::Config {
            max_counters: usize::MAX,
            when_full: memory::WhenFull::Deny,
        };
        let limiter = Limiter::new(
            Clock::Manual(clock.clone()),
            AnyStore::Memory(MemoryStore::new(memory, HashSeed(1, 2))),
            Ladder::none(),
            test.answers.policy,
            test.answers.charge_mode,
        );
        limiter.set_rules(Arc::clone(rules));
        let api = Api {
            limiter: Arc::new(limiter),
            bounds: Bounds::default(),
            response: test.answers.response.clone(),
            compat: false,
            unknown_code: false,
            tracer: None,
        };
        Self { clock, api }
    }

    /// Asks as often as the step says; the first answer that is not as
    /// expected.
    fn step(&self, number: usize, step: &Step, domain: &str) -> Option<Failure> {
        self.clock.set(step.time);
        let named = step.domain.as_ref();
        let request = RateLimitRequest {
            domain: named.map_or(domain, |(name, _)| name).to_owned(),
            descriptors: step.descriptors.clone(),
            hits_addend: step.hits,
        };
        let encoded = request.encode_to_vec();
        let mut failure = None;
        for ask in 1..=step.repeat {
            let answer = self.ask(&encoded);
            if failure.is_some() {
                continue;
            }
            let differences = match &answer {
                Ok(answer) => compare::differences(&step.expect, answer, ask == step.repeat),
                Err(error) => vec![compare::no_answer(error)],
            };
            if !differences.is_empty() {
                failure = Some(Failure {
                    line: step.at.line,
                    step: number,
                    at: step.time,
                    ask: (ask, step.repeat),
                    differences,
                    answer: answer.ok(),
                });
            }
        }
        failure
    }

    /// From the bytes of a request to those of its answer, and back.
    fn ask(&self, request: &[u8]) -> Result<Answer, String> {
        let message =
            Message::decode(request, &self.api.bounds).map_err(|error| error.to_string())?;
        let decided = self.api.decide(&message, None).now_or_never();
        let decided = decided.expect("counters in memory are never waited for");
        let decided = decided.map_err(|error| error.to_string())?;
        let framed = self.api.frame(&decided, &message);
        let encoded = &framed[FRAME_HEADER..];
        let response = RateLimitResponse::decode(encoded).map_err(|error| error.to_string())?;
        let (json, _) = http_json::response(encoded).map_err(|error| error.to_string())?;
        let rules = decided.rules();
        let statuses = decided.decision.statuses.iter();
        Ok(Answer {
            response,
            json,
            rules: statuses
                .map(|status| Some(rules.path_text(status.rule?)))
                .collect(),
        })
    }
}
