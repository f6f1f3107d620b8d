//! Lines as the reference's logger writes them.

use std::fmt::{self, Write as _};

use chrono::{DateTime, Datelike as _, Timelike as _};
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{clock::Clock, engine::time::Timestamp};

/// The reference's formats.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) is_json: bool,
    pub(super) clock: Clock,
}

/// What an event says: its message, and its other fields in order.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl<S, N> FormatEvent<S, N> for Reference
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        if self.is_json {
            said.json(self.clock.now(), level, writer)
        } else {
            said.text(self.clock.now(), level, writer)
        }
    }
}

// === impl Said ===

impl Said {
    fn text(&self, now: Timestamp, level: &str, mut out: Writer<'_>) -> fmt::Result {
        out.write_str("time=\"")?;
        put_seconds(now, &mut out)?;
        write!(out, "Z\" level={level} msg={:?}", self.message)?;
        for (name, value) in &self.fields {
            match value {
                Value::String(text) if !is_plain(text) => write!(out, " {name}={text:?}")?,
                Value::String(text) => write!(out, " {name}={text}")?,
                value => write!(out, " {name}={value}")?,
            }
        }
        out.write_char('\n')
    }

    fn json(self, now: Timestamp, level: &str, mut out: Writer<'_>) -> fmt::Result {
        let mut time = String::new();
        put_seconds(now, &mut time)?;
        write!(time, ".{:09}Z", now.as_nanos() % 1_000_000_000)?;
        // The line's own keys win over fields of the same name.
        let fields = self.fields.into_iter();
        let mut object: Map<String, Value> = fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        object.insert("@message".to_owned(), self.message.into());
        object.insert("@timestamp".to_owned(), time.into());
        object.insert("level".to_owned(), level.into());
        writeln!(out, "{}", Value::Object(object))
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.push((field.name(), value.into()));
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.add(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// `2026-07-05T00:00:00`, in UTC.
fn put_seconds(now: Timestamp, out: &mut impl fmt::Write) -> fmt::Result {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let at = DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    write!(out, "{:04}-{:02}-{:02}", at.year(), at.month(), at.day())?;
    write!(
        out,
        "T{:02}:{:02}:{:02}",
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// A value that the reference writes without quotes.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}
