//! A management server's messages → typed definitions, as files give them.

use std::sync::Arc;

use prost_types::value::Kind;

use crate::{
    engine::metadata,
    proto::ratelimit::config::ratelimit::v3::{
        RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit,
    },
};

use super::{
    metadata::MAX_DEPTH,
    problem::{Problems, Report, Stage, clip},
    schema::{Descriptor, Domain, Field, MAX_LEVELS, RateLimit},
    yaml::{MAX_NODES, Mark},
};

/// Messages have no lines.
const NOWHERE: Mark = Mark {
    offset: 0,
    line: 0,
    column: 0,
};

/// Reads all messages of one configuration; what they cost adds up.
#[derive(Debug, Default)]
pub(super) struct Messages {
    values: u64,
}

/// Reads one of them.
struct Message<'m, 'r, 'p> {
    values: &'m mut u64,
    report: &'r mut Report<'p>,
    path: String,
    level: usize,
}

// === impl Messages ===

impl Messages {
    /// Takes `config` apart. Mistakes are taken down under its name.
    pub(super) fn read<'p>(
        &mut self,
        config: RateLimitConfig,
        problems: &'p mut Problems,
    ) -> (Domain, Report<'p>) {
        let name: Arc<str> = clip(&config.name).into();
        let mut report = Report::new(name, "", problems);
        let mut message = Message {
            values: &mut self.values,
            report: &mut report,
            path: clip(&config.domain),
            level: 0,
        };
        let domain = Domain {
            descriptors: message.descriptors(config.descriptors),
            name: text(config.domain),
            ..Domain::default()
        };
        (domain, report)
    }
}

// === impl Message ===

impl Message<'_, '_, '_> {
    fn descriptors(&mut self, descriptors: Vec<RateLimitDescriptor>) -> Vec<Descriptor> {
        if self.level == MAX_LEVELS && !descriptors.is_empty() {
            self.problem(format!(
                "descriptors are nested more than {MAX_LEVELS} levels deep"
            ));
            return vec![];
        }
        if !self.has_room_for(descriptors.len()) {
            return vec![];
        }
        self.level += 1;
        let read = descriptors.into_iter();
        let read = read.filter_map(|descriptor| self.descriptor(descriptor));
        let read = read.collect();
        self.level -= 1;
        read
    }

    fn descriptor(&mut self, said: RateLimitDescriptor) -> Option<Descriptor> {
        // Two bytes of a message are enough for one: it is let go at once.
        if said.key.is_empty() {
            self.problem("descriptor has empty key".to_owned());
            return None;
        }
        let above = self.path.len();
        self.path.push('.');
        self.path.push_str(&clip(&said.key));
        let descriptor = Descriptor {
            at: NOWHERE,
            key: text(said.key),
            value: text(said.value),
            rate_limit: said
                .rate_limit
                .map(|policy| Box::new(self.rate_limit(policy))),
            shadow_mode: said.shadow_mode,
            quota_mode: said.quota_mode,
            detailed_metric: said.detailed_metric,
            metadata: said
                .metadata
                .map_or_else(metadata::Map::new, |fields| self.metadata(fields.fields, 0)),
            descriptors: self.descriptors(said.descriptors),
            ..Descriptor::default()
        };
        self.path.truncate(above);
        Some(descriptor)
    }

    fn rate_limit(&mut self, said: RateLimitPolicy) -> RateLimit {
        let has_room = self.has_room_for(said.replaces.len());
        let replaces = said.replaces.into_iter().filter(|_| has_room);
        RateLimit {
            at: NOWHERE,
            unit: text(unit(said.unit)),
            requests_per_unit: said.requests_per_unit,
            unlimited: said.unlimited,
            name: text(said.name),
            replaces: replaces
                .map(|replaced| (NOWHERE, text(replaced.name)))
                .collect(),
            ..RateLimit::default()
        }
    }

    fn metadata(
        &mut self,
        fields: impl IntoIterator<Item = (String, prost_types::Value)>,
        depth: usize,
    ) -> metadata::Map {
        let fields = fields.into_iter();
        let read = fields.map(|(name, value)| (name, self.value(value, depth)));
        read.collect()
    }

    fn value(&mut self, value: prost_types::Value, depth: usize) -> metadata::Value {
        if !self.has_room_for(1) {
            return metadata::Value::Null;
        }
        match value.kind {
            None | Some(Kind::NullValue(_)) => metadata::Value::Null,
            Some(Kind::BoolValue(value)) => metadata::Value::Bool(value),
            Some(Kind::NumberValue(number)) if number.is_finite() => {
                metadata::Value::Number(number)
            }
            Some(Kind::NumberValue(number)) => {
                self.problem(format!(
                    "error parsing metadata: {number} is not a finite number"
                ));
                metadata::Value::Null
            }
            Some(Kind::StringValue(text)) => metadata::Value::Text(text),
            Some(Kind::ListValue(_) | Kind::StructValue(_)) if depth == MAX_DEPTH => {
                self.problem(format!(
                    "error parsing metadata: nested more than {MAX_DEPTH} levels deep"
                ));
                metadata::Value::Null
            }
            Some(Kind::ListValue(list)) => {
                let values = list.values.into_iter();
                metadata::Value::List(values.map(|value| self.value(value, depth + 1)).collect())
            }
            Some(Kind::StructValue(fields)) => {
                metadata::Value::Map(self.metadata(fields.fields, depth + 1))
            }
        }
    }

    /// Counts `more` values; told once when there are too many.
    fn has_room_for(&mut self, more: usize) -> bool {
        let before = *self.values;
        *self.values = before.saturating_add(more as u64);
        if before <= MAX_NODES && *self.values > MAX_NODES {
            self.problem(format!("more than {MAX_NODES} values in a configuration"));
        }
        *self.values <= MAX_NODES
    }

    fn problem(&mut self, message: String) {
        self.report
            .add(Stage::Rules, NOWHERE, &self.path, message, None);
    }
}

/// Messages do not tell the empty text from none.
fn text(text: String) -> Field<String> {
    if text.is_empty() {
        Field::Absent
    } else {
        Field::Given(text, NOWHERE)
    }
}

/// A unit's name as a file would say it; a number that has none stays one.
fn unit(number: i32) -> String {
    RateLimitUnit::try_from(number)
        .map_or_else(|_| number.to_string(), |unit| unit.as_str_name().to_owned())
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
