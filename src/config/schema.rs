//! A document's nodes → typed definitions: what fields there are.
//!
//! What is wrong with one place by itself is found on the way, by
//! [`super::reader`]; what concerns several (an empty key, a limit's parts,
//! equal keys) afterwards, by [`super::compile()`].

use crate::engine::{
    calendar::WEEKDAYS,
    metadata,
    responses::ResponsesDef,
    rules::{ChargePolicy, OnStoreFailure},
};

use super::{
    problem::{Report, Stage, clip},
    reader::{METADATA, Place, Reader, scalar},
    scalar::{Meaning, meaning},
    yaml::{Mark, Node, Value},
};

/// Levels of descriptors below each other.
pub(super) const MAX_LEVELS: usize = 100;

/// One document.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) at: Mark,
    pub(super) name: Field<String>,
    pub(super) charge: Choice<ChargePolicy>,
    pub(super) on_store_failure: Choice<OnStoreFailure>,
    pub(super) responses: Option<(ResponsesDef, Mark)>,
    pub(super) descriptors: Vec<Descriptor>,
}

/// An element of `descriptors`.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    pub(super) at: Mark,
    pub(super) key: Field<String>,
    pub(super) value: Field<String>,
    /// Boxed: most of a descriptor's size, and many have none.
    pub(super) rate_limit: Option<Box<RateLimit>>,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) shadow_mode: bool,
    pub(super) quota_mode: bool,
    pub(super) detailed_metric: bool,
    pub(super) value_to_metric: bool,
    pub(super) share_threshold: bool,
    pub(super) metadata: metadata::Map,
    pub(super) responses: Option<ResponsesDef>,
    pub(super) descriptors: Vec<Descriptor>,
}

/// A `rate_limit`.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    pub(super) at: Mark,
    pub(super) unit: Field<String>,
    pub(super) requests_per_unit: u32,
    pub(super) unit_multiplier: Field<u32>,
    pub(super) window: Field<String>,
    pub(super) unlimited: bool,
    pub(super) accuracy: Choice<Accuracy>,
    pub(super) time_zone: Field<String>,
    pub(super) week_starts: Choice<chrono::Weekday>,
    pub(super) algorithm: Choice<Kind>,
    pub(super) burst: Field<u32>,
    pub(super) max_queue: Field<u32>,
    pub(super) count: Choice<Count>,
    pub(super) approximate: Choice<bool>,
    pub(super) exact_up_to: Field<u32>,
    pub(super) remember: Field<String>,
    pub(super) lockout: Field<String>,
    pub(super) warm_up: Option<WarmUpFields>,
    pub(super) flag_only: Choice<bool>,
    pub(super) notify_below: Field<String>,
    pub(super) opens_for: Field<String>,
    pub(super) opened_by: Field<String>,
    pub(super) name: Field<String>,
    /// The `name` of each, and where it stands.
    pub(super) replaces: Vec<(Mark, Field<String>)>,
}

/// A `warm_up`.
#[derive(Debug)]
pub(super) struct WarmUpFields {
    pub(super) at: Mark,
    pub(super) from: u32,
    pub(super) over: Field<String>,
}

/// What `algorithm` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    FixedWindow,
    SlidingWindow,
    SlidingLog,
    TokenBucket,
    LeakyBucket,
}

/// What `count` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Hits,
    DistinctValues,
}

/// How exact a limit is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accuracy {
    /// Every decision is counted before it is answered.
    Exact,
    /// Hits may be taken in advance: refuses early, never late.
    Leased,
}

/// One of some words, where a file says so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Choice<T> {
    /// Nothing, null, or something wrong that has been reported.
    #[default]
    Absent,
    /// This.
    Given(T, Mark),
}

pub(super) const CHARGE: [(&str, ChargePolicy); 2] = [
    ("always", ChargePolicy::Always),
    ("all_or_nothing", ChargePolicy::AllOrNothing),
];
pub(super) const ON_STORE_FAILURE: [(&str, OnStoreFailure); 4] = [
    ("error", OnStoreFailure::Error),
    ("allow", OnStoreFailure::Allow),
    ("deny", OnStoreFailure::Deny),
    ("local", OnStoreFailure::Local),
];
pub(super) const ALGORITHM: [(&str, Kind); 5] = [
    ("fixed_window", Kind::FixedWindow),
    ("sliding_window", Kind::SlidingWindow),
    ("sliding_log", Kind::SlidingLog),
    ("token_bucket", Kind::TokenBucket),
    ("leaky_bucket", Kind::LeakyBucket),
];
pub(super) const COUNT: [(&str, Count); 2] = [
    ("hits", Count::Hits),
    ("distinct_values", Count::DistinctValues),
];
pub(super) const ACCURACY: [(&str, Accuracy); 2] =
    [("exact", Accuracy::Exact), ("leased", Accuracy::Leased)];

/// What a file says about a field.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    /// Nothing, or null.
    #[default]
    Absent,
    /// Something wrong, which has been reported.
    Broken,
    /// This.
    Given(T, Mark),
}

/// Reads one document. `None` when it is not a map; that and all other
/// mistakes are reported.
pub(super) fn read(document: &Node<'_>, report: &mut Report<'_>, compat: bool) -> Option<Domain> {
    let mut reader = Reader {
        report,
        compat,
        path: String::new(),
        level: 0,
    };
    reader.domain(document)
}

/// The empty document.
pub(super) fn nothing() -> Domain {
    Domain {
        at: Mark::START,
        name: Field::Absent,
        charge: Choice::Absent,
        on_store_failure: Choice::Absent,
        responses: None,
        descriptors: vec![],
    }
}

/// Whether a document says nothing.
pub(super) fn is_nothing(document: &Node<'_>) -> bool {
    matches!(document.value(), Value::Scalar(scalar) if meaning(scalar) == Meaning::Null)
}

// === impl Reader: places ===

impl Reader<'_, '_> {
    fn domain(&mut self, document: &Node<'_>) -> Option<Domain> {
        if is_nothing(document) {
            return Some(nothing());
        }
        let fields = self.fields(document, Place::Domain, "a file")?;
        let name = self.text(fields.get("domain"), "domain");
        name.as_str().clone_into(&mut self.path);
        self.path = clip(&self.path);
        Some(Domain {
            at: fields.at,
            name,
            charge: self.choice(fields.get("charge"), "charge", &CHARGE),
            on_store_failure: self.choice(
                fields.get("on_store_failure"),
                "on_store_failure",
                &ON_STORE_FAILURE,
            ),
            responses: self.responses(fields.get("responses")),
            descriptors: self.descriptors(fields.get("descriptors")),
        })
    }

    fn descriptors(&mut self, node: Option<&Node<'_>>) -> Vec<Descriptor> {
        let elements = self.list(node, "descriptors");
        let Some(node) = node.filter(|_| !elements.is_empty()) else {
            return vec![];
        };
        if self.level == MAX_LEVELS {
            let message = format!("descriptors are nested more than {MAX_LEVELS} levels deep");
            self.problem(Stage::Rules, node.at, message, None);
            return vec![];
        }
        self.level += 1;
        let descriptors = elements
            .iter()
            .filter_map(|element| self.descriptor(element))
            .collect();
        self.level -= 1;
        descriptors
    }

    fn descriptor(&mut self, node: &Node<'_>) -> Option<Descriptor> {
        let above = self.path.len();
        self.path.push('.');
        self.path.push_str(&clip(&tentative_key(node)));
        let descriptor = self.descriptor_fields(node);
        self.path.truncate(above);
        descriptor
    }

    fn descriptor_fields(&mut self, node: &Node<'_>) -> Option<Descriptor> {
        let fields = self.fields(node, Place::Descriptor, "a descriptor")?;
        Some(Descriptor {
            at: fields.at,
            key: self.text(fields.get("key"), "key"),
            value: self.text(fields.get("value"), "value"),
            rate_limit: self.rate_limit(fields.get("rate_limit")).map(Box::new),
            rate_limits: self.rate_limits(fields.get("rate_limits")),
            shadow_mode: self.flag(&fields, "shadow_mode"),
            quota_mode: self.flag(&fields, "quota_mode"),
            detailed_metric: self.flag(&fields, "detailed_metric"),
            value_to_metric: self.flag(&fields, "value_to_metric"),
            share_threshold: self.flag(&fields, "share_threshold"),
            metadata: self.metadata(fields.get(METADATA)),
            responses: self.responses(fields.get("responses")).map(|(it, _)| it),
            descriptors: self.descriptors(fields.get("descriptors")),
        })
    }

    fn rate_limits(&mut self, node: Option<&Node<'_>>) -> Vec<RateLimit> {
        let elements = self.list(node, "rate_limits");
        let limits = elements.iter();
        limits
            .filter_map(|element| self.rate_limit(Some(element)))
            .collect()
    }

    fn warm_up(&mut self, node: Option<&Node<'_>>) -> Option<WarmUpFields> {
        let node = node.filter(|node| !is_nothing(node))?;
        let fields = self.fields(node, Place::WarmUp, "warm_up")?;
        Some(WarmUpFields {
            at: fields.at,
            from: self.number(fields.get("from"), "from"),
            over: self.text(fields.get("over"), "over"),
        })
    }

    fn rate_limit(&mut self, node: Option<&Node<'_>>) -> Option<RateLimit> {
        let node = node.filter(|node| !is_nothing(node))?;
        let fields = self.fields(node, Place::RateLimit, "rate_limit")?;
        let replaces = self.list(fields.get("replaces"), "replaces");
        Some(RateLimit {
            at: fields.at,
            unit: self.text(fields.get("unit"), "unit"),
            requests_per_unit: self.number(fields.get("requests_per_unit"), "requests_per_unit"),
            unit_multiplier: self.positive(fields.get("unit_multiplier"), "unit_multiplier"),
            window: self.text(fields.get("window"), "window"),
            unlimited: self.flag(&fields, "unlimited"),
            accuracy: self.choice(fields.get("accuracy"), "accuracy", &ACCURACY),
            time_zone: self.text(fields.get("time_zone"), "time_zone"),
            week_starts: self.choice(fields.get("week_starts"), "week_starts", &WEEKDAYS),
            algorithm: self.choice(fields.get("algorithm"), "algorithm", &ALGORITHM),
            burst: self.positive(fields.get("burst"), "burst"),
            max_queue: self.positive(fields.get("max_queue"), "max_queue"),
            count: self.choice(fields.get("count"), "count", &COUNT),
            approximate: self.said_flag(&fields, "approximate"),
            exact_up_to: self.positive(fields.get("exact_up_to"), "exact_up_to"),
            remember: self.text(fields.get("remember"), "remember"),
            lockout: self.text(fields.get("lockout"), "lockout"),
            warm_up: self.warm_up(fields.get("warm_up")),
            flag_only: self.said_flag(&fields, "flag_only"),
            notify_below: self.text(fields.get("notify_below"), "notify_below"),
            opens_for: self.text(fields.get("opens_for"), "opens_for"),
            opened_by: self.text(fields.get("opened_by"), "opened_by"),
            name: self.text(fields.get("name"), "name"),
            replaces: replaces
                .iter()
                .filter_map(|element| {
                    let fields = self.fields(element, Place::Replace, "an element of replaces")?;
                    Some((fields.at, self.text(fields.get("name"), "name")))
                })
                .collect(),
        })
    }
}

/// The word for `value`.
pub(super) fn word<'a, T: PartialEq>(words: &[(&'a str, T)], value: T) -> &'a str {
    let found = words.iter().find(|(_, other)| *other == value);
    found.map_or("", |(word, _)| word)
}

// === impl Choice ===

impl<T: Copy> Choice<T> {
    /// What is said.
    pub(super) fn get(self) -> Option<T> {
        match self {
            Self::Given(value, _) => Some(value),
            Self::Absent => None,
        }
    }
}

impl<T> Choice<T> {
    /// Where it is said, if it is.
    pub(super) fn at(&self) -> Option<Mark> {
        match self {
            Self::Given(_, at) => Some(*at),
            Self::Absent => None,
        }
    }
}

// === impl RateLimit ===

impl RateLimit {
    /// Everything that a plain limit does not say, and where it is said.
    pub(super) fn extras(&self) -> [(&'static str, Option<Mark>); 16] {
        [
            ("accuracy", self.accuracy.at()),
            ("time_zone", self.time_zone.at()),
            ("week_starts", self.week_starts.at()),
            ("algorithm", self.algorithm.at()),
            ("burst", self.burst.at()),
            ("max_queue", self.max_queue.at()),
            ("count", self.count.at()),
            ("approximate", self.approximate.at()),
            ("exact_up_to", self.exact_up_to.at()),
            ("remember", self.remember.at()),
            ("lockout", self.lockout.at()),
            ("warm_up", self.warm_up.as_ref().map(|warm_up| warm_up.at)),
            ("flag_only", self.flag_only.at()),
            ("notify_below", self.notify_below.at()),
            ("opens_for", self.opens_for.at()),
            ("opened_by", self.opened_by.at()),
        ]
    }
}

// === impl Field ===

impl<T> Field<T> {
    /// Where it is said, if it is.
    pub(super) fn at(&self) -> Option<Mark> {
        match self {
            Self::Given(_, at) => Some(*at),
            Self::Absent | Self::Broken => None,
        }
    }
}

impl Field<u32> {
    /// The number, if there is one.
    pub(super) fn get(&self) -> Option<u32> {
        match self {
            Self::Given(number, _) => Some(*number),
            Self::Absent | Self::Broken => None,
        }
    }

    /// A mistake has been reported.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

impl Field<String> {
    /// The text; empty when there is none.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Given(text, _) => text,
            Self::Absent | Self::Broken => "",
        }
    }

    /// The text, taken out; empty when there is none.
    pub(super) fn into_string(self) -> String {
        match self {
            Self::Given(text, _) => text,
            Self::Absent | Self::Broken => String::new(),
        }
    }

    /// Its place, or that of what it is missing from.
    pub(super) fn at_or(&self, around: Mark) -> Mark {
        match self {
            Self::Given(_, at) => *at,
            Self::Absent | Self::Broken => around,
        }
    }

    /// Not said, or said to be empty; not when a mistake has been reported.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_broken() && self.as_str().is_empty()
    }

    /// A mistake has been reported.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }
}

/// The composite key for messages, before the fields have been checked.
fn tentative_key(node: &Node<'_>) -> String {
    let Value::Map(entries) = node.value() else {
        return "?".to_owned();
    };
    let text = |name: &str| {
        let mut entries = entries.iter().rev();
        let (_, value) = entries.find(|(key, _)| key.text() == Some(name))?;
        match scalar(value) {
            Some((_, Meaning::Null)) | None => None,
            Some((scalar, _)) => Some(scalar.text.as_ref()),
        }
    };
    match (text("key"), text("value").filter(|text| !text.is_empty())) {
        (None, _) => "?".to_owned(),
        (Some(key), None) => clip(key),
        (Some(key), Some(value)) => format!("{}_{}", clip(key), clip(value)),
    }
}
