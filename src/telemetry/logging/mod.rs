//! Logs, on standard error. Descriptor values stay below info.
//!
//! In reading order: this file starts logging and changes its level; `format`
//! writes lines as the reference does; `writer` gets them out without ever
//! holding up whoever logs.

mod format;
mod writer;

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
    time::Duration,
};

use tracing::{Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer as _, Registry, fmt, fmt::MakeWriter, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use self::{format::Reference, writer::Lines};
use crate::clock::Clock;

pub use writer::Figures;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// As the reference's text: `time="…" level=warning msg="…"`.
    ReferenceText,
    /// As the reference's JSON: `@timestamp`, `@message`, `level`.
    ReferenceJson,
}

/// Logging that has been started. What waits is written when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Logging(Option<Lines>);

/// Nothing is logged by us in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("logging has not been started")]
pub struct NotStarted;

type Filter = reload::Handle<LevelFilter, Registry>;

/// The process's own; there is one, as there is one standard error.
static STARTED: OnceLock<(Filter, Lines)> = OnceLock::new();

/// How long the end waits for standard error to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Starts logging, for the rest of the process; the first call counts.
pub fn start(level: Level, format: Format) -> Logging {
    let lines = Lines::start(io::stderr());
    let (subscriber, filter) = subscriber(level, format, lines.clone(), Clock::System);
    // A second logger, in a process that has one, is of no use to anybody.
    if subscriber.try_init().is_err() {
        return Logging(None);
    }
    let _ = STARTED.set((filter, lines.clone()));
    Logging(Some(lines))
}

/// From which level on is logged; `None` where nothing is.
#[must_use]
pub fn level() -> Option<Level> {
    let (filter, _) = STARTED.get()?;
    filter.with_current(|level| level.into_level()).ok()?
}

/// Logs from `level` on, from now on.
///
/// # Errors
/// Logging has not been started.
pub fn set_level(level: Level) -> Result<(), NotStarted> {
    let (filter, _) = STARTED.get().ok_or(NotStarted)?;
    filter
        .modify(|from| *from = LevelFilter::from_level(level))
        .map_err(|_| NotStarted)
}

/// Figures for metrics.
#[must_use]
pub fn figures() -> Figures {
    let started = STARTED.get();
    started.map_or_else(Figures::default, |(_, lines)| lines.figures())
}

/// Reads a level by any of the reference's names, in any letter case.
///
/// # Errors
/// It is none of them.
pub fn parse_level(name: &str) -> Result<Level, String> {
    match name.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => Ok(Level::ERROR),
        "warn" | "warning" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err("one of: error, warn, info, debug, trace".to_owned()),
    }
}

/// What writes lines of this format, and its level.
fn subscriber<W>(
    level: Level,
    format: Format,
    writer: W,
    clock: Clock,
) -> (impl Subscriber + Send + Sync, Filter)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
    let lines = fmt::layer()
        .with_writer(writer)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::ReferenceText | Format::ReferenceJson => {
            let is_json = format == Format::ReferenceJson;
            lines.event_format(Reference { is_json, clock }).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    (subscriber, handle)
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(lines) = &self.0 {
            lines.flush(LAST_LINES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{clock::ManualClock, engine::time::Timestamp};

    /// What is logged by `log` in this format, at info.
    fn logged(format: Format, log: impl FnOnce(&Filter)) -> String {
        let written = Arc::new(Mutex::new(Vec::<u8>::new()));
        let now = Timestamp::from_nanos(1_783_209_600_123_456_789);
        let clock = Clock::Manual(ManualClock::at(now));
        let (subscriber, filter) = subscriber(Level::INFO, format, Kept(written.clone()), clock);
        tracing::subscriber::with_default(subscriber, || log(&filter));
        let written = written.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[derive(Clone)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'w> MakeWriter<'w> for Kept {
        type Writer = Self;

        fn make_writer(&'w self) -> Self {
            self.clone()
        }
    }

    fn say(_: &Filter) {
        tracing::warn!(store = "redis at a:1", calls = 7, "lost \"it\"\nagain");
        tracing::error!(
            domain = "shop",
            over = true,
            "Error loading new configuration: x"
        );
        tracing::debug!("not told");
    }

    #[test]
    fn lines_as_the_reference_writes_them() {
        assert_eq!(
            logged(Format::ReferenceText, say),
            r#"time="2026-07-05T00:00:00Z" level=warning msg="lost \"it\"\nagain" store="redis at a:1" calls=7
time="2026-07-05T00:00:00Z" level=error msg="Error loading new configuration: x" domain=shop over=true
"#
        );
        assert_eq!(
            logged(Format::ReferenceJson, say),
            r#"{"@message":"lost \"it\"\nagain","@timestamp":"2026-07-05T00:00:00.123456789Z","calls":7,"level":"warning","store":"redis at a:1"}
{"@message":"Error loading new configuration: x","@timestamp":"2026-07-05T00:00:00.123456789Z","domain":"shop","level":"error","over":true}
"#
        );
    }

    #[test]
    fn lines_of_our_own() {
        let masked = |format| {
            let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
            logged(format, say).chars().map(digit).collect::<String>()
        };
        assert_eq!(
            masked(Format::Text).lines().last().unwrap(),
            r#"0000-00-00T00:00:00.000000Z ERROR Error loading new configuration: x domain="shop" over=true"#
        );
        assert_eq!(
            masked(Format::Json).lines().last().unwrap(),
            r#"{"timestamp":"0000-00-00T00:00:00.000000Z","level":"ERROR","message":"Error loading new configuration: x","domain":"shop","over":true}"#
        );
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let written = logged(Format::ReferenceText, |filter| {
            tracing::debug!("one");
            filter.modify(|it| *it = LevelFilter::DEBUG).unwrap();
            tracing::debug!("two");
            filter.modify(|it| *it = LevelFilter::ERROR).unwrap();
            tracing::warn!("three");
        });
        let said: Vec<&str> = written.lines().map(|it| &it[28..]).collect();
        assert_eq!(said, [r#"level=debug msg="two""#]);
    }
}
