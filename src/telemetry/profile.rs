//! Where processor time goes: stacks of all threads, sampled for a while, in
//! the format that `go tool pprof` reads.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use pprof::{ProfilerGuardBuilder, Report};
use prost::Message as _;
use tokio::time::sleep;

use crate::proto::perftools::profiles::{Function, Line, Location, Profile, Sample, ValueType};

/// Samples a second, of each thread that runs.
const FREQUENCY: i32 = 99;
/// Where stacks cannot be followed safely.
const LEFT_OUT: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[error("no profile: {0}")]
pub struct ProfileError(String);

/// Samples for `time`; an encoded profile.
///
/// # Errors
/// Another profile is being taken, or the system does not let us.
pub async fn take(time: Duration) -> Result<Vec<u8>, ProfileError> {
    let wrong = |error: pprof::Error| ProfileError(error.to_string());
    let guard = ProfilerGuardBuilder::default()
        .frequency(FREQUENCY)
        .blocklist(&LEFT_OUT)
        .build()
        .map_err(wrong)?;
    sleep(time).await;
    let encoded = tokio::task::spawn_blocking(move || {
        let report = guard.report().build()?;
        Ok(encode(&report, time))
    });
    let encoded = encoded
        .await
        .map_err(|error| ProfileError(error.to_string()))?;
    encoded.map_err(wrong)
}

fn encode(report: &Report, time: Duration) -> Vec<u8> {
    let mut tables = Tables::default();
    tables.text("");
    let period = 1_000_000_000 / i64::from(FREQUENCY);
    let of_samples = tables.value("samples", "count");
    let of_time = tables.value("cpu", "nanoseconds");
    let samples = report.data.iter().map(|(stack, count)| {
        let frames = stack.frames.iter().flatten();
        let count = i64::try_from(*count).unwrap_or(0);
        Sample {
            location_id: frames
                .map(|symbol| {
                    let line = symbol.lineno.unwrap_or(0);
                    tables.location(&symbol.name(), &symbol.filename(), line)
                })
                .collect(),
            value: vec![count, count.saturating_mul(period)],
        }
    });
    let sample = samples.collect();
    let duration = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    let profile = Profile {
        sample_type: vec![of_samples, of_time],
        sample,
        location: tables.locations.into_values().collect(),
        function: tables.functions,
        string_table: tables.texts,
        time_nanos: 0,
        duration_nanos: duration,
        period_type: Some(of_time),
        period,
    };
    profile.encode_to_vec()
}

/// What samples refer to.
#[derive(Default)]
struct Tables {
    texts: Vec<String>,
    places: HashMap<String, i64>,
    functions: Vec<Function>,
    function_ids: HashMap<(i64, i64), u64>,
    locations: BTreeMap<u64, Location>,
    location_ids: HashMap<(u64, u32), u64>,
}

// === impl Tables ===

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        if let Some(place) = self.places.get(text) {
            return *place;
        }
        let place = i64::try_from(self.texts.len()).unwrap_or(0);
        self.texts.push(text.to_owned());
        self.places.insert(text.to_owned(), place);
        place
    }

    fn value(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType {
            r#type: self.text(kind),
            unit: self.text(unit),
        }
    }

    fn location(&mut self, function: &str, file: &str, line: u32) -> u64 {
        let function = self.function(function, file);
        let next = self.location_ids.len() as u64 + 1;
        let id = *self.location_ids.entry((function, line)).or_insert(next);
        self.locations.entry(id).or_insert_with(|| Location {
            id,
            line: vec![Line {
                function_id: function,
                line: line.into(),
            }],
        });
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let (name, filename) = (self.text(name), self.text(file));
        let next = self.functions.len() as u64 + 1;
        let id = *self.function_ids.entry((name, filename)).or_insert(next);
        if id == next {
            self.functions.push(Function {
                id,
                name,
                system_name: name,
                filename,
            });
        }
        id
    }
}
