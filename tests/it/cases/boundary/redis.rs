//! The limiter over a real Redis, with a clock that the case moves.

use std::sync::OnceLock;

use ratekeeper::{
    clock::{Clock, ManualClock},
    engine::time::Timestamp,
    limiter::Limiter,
    storage::{AnyStore, redis::Config},
};
use tokio::runtime::{self, Runtime};

use super::{
    super::{
        Lines,
        format::{Asked, Case},
    },
    Boundary, Shown, Shows, decision_lines,
    store::limiter,
};
use crate::redis::{self, servers::Server};

pub(super) struct Redis {
    runtime: Runtime,
    clock: ManualClock,
    limiter: Limiter,
    shown: Shown,
}

/// One server for all cases: each has its own keys.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::plain)
}

impl Redis {
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        let clock = ManualClock::default();
        let config = Config {
            own_clock: true,
            ..redis::settings(&server().address())
        };
        let store = redis::store(&config, Clock::Manual(clock.clone()));
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async { store.take_seat() });
        Ok(Self {
            limiter: limiter(case, &clock, AnyStore::Redis(store))?,
            runtime,
            clock,
            shown: Shown::new(&case.settings)?,
        })
    }
}

impl Boundary for Redis {
    fn shows(&self) -> Shows {
        Shows {
            statistics: true,
            dynamic_metadata: false,
        }
    }

    fn ask(&mut self, now: Timestamp, asked: &Asked) -> Lines {
        self.clock.set(now);
        let answer =
            asked.with_request(|request| self.runtime.block_on(self.limiter.decide(request, None)));
        match answer {
            Ok(answer) => decision_lines(answer.rules(), &answer.decision, &self.shown),
            Err(error) => Lines::from([("error".to_owned(), error.to_string())]),
        }
    }
}
