//! The limiter over the memory store, with a clock that the case moves.

use ratekeeper::{
    clock::{Clock, ManualClock},
    engine::{key::HashSeed, time::Timestamp},
    limiter::Limiter,
    storage::{
        AnyStore, ChargeMode, Ladder, MemoryStore,
        memory::{Config, WhenFull},
    },
};
use tokio::runtime::{self, Runtime};

use super::{
    super::{
        Lines,
        format::{Asked, Case},
    },
    Boundary, Shown, Shows, compile, decision_lines, policy,
};

pub(super) struct Store {
    runtime: Runtime,
    clock: ManualClock,
    limiter: Limiter,
    shown: Shown,
}

impl Store {
    /// Over the memory store.
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        Self::over(case, async |_| Ok(memory()))
    }

    /// Over the store that `connect` makes, within the event loop that it is
    /// used in.
    pub(super) fn over(
        case: &Case,
        connect: impl AsyncFnOnce(Clock) -> Result<AnyStore, String>,
    ) -> Result<Self, String> {
        let clock = ManualClock::default();
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let store = runtime.block_on(connect(Clock::Manual(clock.clone())))?;
        Ok(Self {
            limiter: limiter(case, &clock, store)?,
            runtime,
            clock,
            shown: Shown::new(&case.settings)?,
        })
    }
}

pub(super) fn memory() -> AnyStore {
    let config = Config {
        max_counters: 10_000,
        when_full: WhenFull::Deny,
    };
    AnyStore::Memory(MemoryStore::new(config, HashSeed(1, 2)))
}

/// A limiter with the case's rules and settings.
pub(super) fn limiter(
    case: &Case,
    clock: &ManualClock,
    store: AnyStore,
) -> Result<Limiter, String> {
    let mode = if case.settings.stop_when_over {
        ChargeMode::OthersStandStill
    } else {
        ChargeMode::Always
    };
    let limiter = Limiter::new(
        Clock::Manual(clock.clone()),
        store,
        Ladder::none(),
        policy(&case.settings),
        mode,
    );
    if let Some(rules) = compile(case)? {
        limiter.set_rules(rules);
    }
    Ok(limiter)
}

impl Boundary for Store {
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
