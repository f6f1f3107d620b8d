//! The rules file as a JSON Schema: with it an editor completes keys, says
//! what they mean, and underlines what would not load.
//!
//! [`fields`] is the one table: an entry for each key at each of its places.
//! A test holds it against the reader's KEYS, so neither can grow alone. The
//! words that a field takes come from the lists that the reader uses. `values`
//! has what else it may take, `conditions` what keys say together.
//!
//! What loads (outside of `--compat`), the schema takes. More than that, too:
//! equal keys, references and sums are beyond a schema; and to an editor, which
//! reads YAML 1.2, `yes` and `1_000` are text, so quotes around them pass.
//!
//! It is draft 7: editors have known that the longest. `errorMessage` is no
//! part of it: the YAML language server shows it, others ignore it.

mod conditions;
mod values;

use serde_json::{Map, Value, json};

use self::{
    conditions::conditions,
    values::{
        at_most, choice, duration, filled, flag, limit_name, list_of, map_of, one_or_several,
        one_value, or, percentage, required_duration, text, unit, visible, whole_number,
    },
};
use super::{
    limits::{EXACT_UP_TO, MOST_EXACT},
    reader::{METADATA, Place},
    responses::RESET,
    schema::{ACCURACY, ALGORITHM, Accuracy, CHARGE, COUNT, Count, Kind, ON_STORE_FAILURE},
};
use crate::engine::{
    algorithm::method::MOST_IN_BUCKET, calendar::WEEKDAYS, responses::Reset, rules::ChargePolicy,
};

/// A key at its places.
struct Field {
    key: &'static str,
    places: &'static [Place],
    /// What values it takes. A key that may be absent takes null, too.
    takes: Value,
    /// One sentence for the operator.
    about: &'static str,
}

/// Every key of a rules file. To add one, add an entry.
fn fields() -> Vec<Field> {
    use Place::{Descriptor, Domain, RateLimit, Replace, Responses, WarmUp};
    vec![
        field(
            "domain",
            &[Domain],
            filled(text()),
            "Which requests these rules are for: those that name this domain.",
        ),
        field(
            "charge",
            &[Domain],
            choice(&CHARGE, Some(ChargePolicy::default())),
            "What a refused request counts: its hits at every limit, or none at any.",
        ),
        field(
            "on_store_failure",
            &[Domain],
            choice(&ON_STORE_FAILURE, None),
            "What to answer while the store is away, in place of --on-store-failure.",
        ),
        field(
            "descriptors",
            &[Domain],
            list_of(Descriptor),
            "The rules; a request's descriptor meets that for its first entry.",
        ),
        field(
            "descriptors",
            &[Descriptor],
            list_of(Descriptor),
            "The rules for the entry that follows this one in a request's descriptor.",
        ),
        field(
            "key",
            &[Descriptor],
            filled(text()),
            "The key of the entry that this rule is for; * stands for any characters.",
        ),
        field(
            "value",
            &[Descriptor],
            text(),
            "The value of the entry that this rule is for, where * stands for any characters; \
             without it, each value has a counter of its own.",
        ),
        field(
            "rate_limit",
            &[Descriptor],
            map_of(RateLimit),
            "How much this rule grants; without it, everything passes uncounted.",
        ),
        field(
            "rate_limits",
            &[Descriptor],
            list_of(RateLimit),
            "Several limits, all of which apply; the tightest is told.",
        ),
        field(
            "responses",
            &[Domain],
            map_of(Responses),
            "How answers look to clients: headers, and the body of a refusal.",
        ),
        field(
            "responses",
            &[Descriptor],
            map_of(Responses),
            "How answers look that tell of this rule's limits, where it differs from the domain.",
        ),
        field(
            "shadow_mode",
            &[Descriptor],
            flag(),
            "Counts and reports as always, but refuses nobody: a limit on trial.",
        ),
        field(
            "quota_mode",
            &[Descriptor],
            flag(),
            "Refuses a request only when all of its limits in quota mode are over.",
        ),
        field(
            "detailed_metric",
            &[Descriptor],
            flag(),
            "Names the values of the request in metrics.",
        ),
        field(
            "value_to_metric",
            &[Descriptor],
            flag(),
            "Names the value of this entry in metrics.",
        ),
        field(
            "share_threshold",
            &[Descriptor],
            flag(),
            "Has one counter for all values that the * of this rule stands for.",
        ),
        field(
            METADATA,
            &[Descriptor],
            json!({"type": ["object", "null"]}),
            "Data of your own, which goes into the answer's dynamic metadata.",
        ),
        field(
            "requests_per_unit",
            &[RateLimit],
            or(whole_number(0), json!(0)),
            "How many hits a window admits; 0 refuses all.",
        ),
        field("unit", &[RateLimit], unit(), "How long a window is."),
        field(
            "unit_multiplier",
            &[RateLimit],
            or(whole_number(1), json!(1)),
            "How many units long a window is, up to 366 days.",
        ),
        field(
            "window",
            &[RateLimit],
            duration(),
            "How long a window is, instead of unit: whole seconds up to 366 days.",
        ),
        field(
            "unlimited",
            &[RateLimit],
            flag(),
            "Lets everything pass uncounted, as an exception from other rules.",
        ),
        field(
            "accuracy",
            &[RateLimit],
            choice(&ACCURACY, Some(Accuracy::Exact)),
            "How exact the limit is held in Redis: exact asks for every decision, leased takes \
             hits in advance and may refuse early, never late.",
        ),
        field(
            "time_zone",
            &[RateLimit],
            or(text(), "UTC".into()),
            "Where days, weeks, months and years begin, such as Europe/Berlin; without it (and \
             without week_starts) they have fixed lengths since 1970.",
        ),
        field(
            "week_starts",
            &[RateLimit],
            choice(&WEEKDAYS, Some(chrono::Weekday::Mon)),
            "The day that a calendar week begins on.",
        ),
        field(
            "algorithm",
            &[RateLimit],
            choice(&ALGORITHM, Some(Kind::FixedWindow)),
            "How hits are held against the limit.",
        ),
        field(
            "burst",
            &[RateLimit],
            at_most(whole_number(1), MOST_IN_BUCKET),
            "How many hits a bucket lets pass at once: all of a window of a token_bucket, one of a \
             leaky_bucket, if nothing is said.",
        ),
        field(
            "max_queue",
            &[RateLimit],
            at_most(whole_number(1), MOST_IN_BUCKET),
            "How many hits of a leaky_bucket may wait for their turn; more are refused.",
        ),
        field(
            "count",
            &[RateLimit],
            choice(&COUNT, Some(Count::Hits)),
            "What is counted: hits, or different values of the last entry.",
        ),
        field(
            "approximate",
            &[RateLimit],
            flag(),
            "Estimates the number of different values where there are many.",
        ),
        field(
            "exact_up_to",
            &[RateLimit],
            or(
                at_most(whole_number(1), MOST_EXACT.into()),
                EXACT_UP_TO.into(),
            ),
            "How many different values are kept one by one before they are estimated.",
        ),
        field(
            "remember",
            &[RateLimit],
            duration(),
            "How long a value is known: a request that repeats it passes and counts nowhere.",
        ),
        field(
            "lockout",
            &[RateLimit],
            duration(),
            "Once over the limit, everything is refused for this long.",
        ),
        field(
            "warm_up",
            &[RateLimit],
            map_of(WarmUp),
            "Begins with less and grows to the full limit, from first sight of the counter.",
        ),
        field(
            "from",
            &[WarmUp],
            filled(whole_number(1)),
            "Requests of a window at first sight of the counter.",
        ),
        field(
            "over",
            &[WarmUp],
            required_duration(),
            "How long it takes to grow to the full limit.",
        ),
        field(
            "flag_only",
            &[RateLimit],
            flag(),
            "Refuses nobody: dynamic metadata names the limits that are over.",
        ),
        field(
            "notify_below",
            &[RateLimit],
            percentage(),
            "Gives notice in a header and in metadata when less than this share is left: 10%.",
        ),
        field(
            "opens_for",
            &[RateLimit],
            duration(),
            "Lets pass only so long after a request that met the rule named by opened_by.",
        ),
        field(
            "opened_by",
            &[RateLimit],
            one_value(),
            "The value of the descriptor beside this one, with the same key, that opens it.",
        ),
        field(
            "headers",
            &[Responses],
            one_or_several(&["legacy", "ietf"]),
            "Headers on every answer: X-RateLimit-* (legacy), RateLimit and RateLimit-Policy (ietf).",
        ),
        field(
            "reset",
            &[Responses],
            choice(&RESET, Some(Reset::default())),
            "How X-RateLimit-Reset and {reset} tell when the limit is there again.",
        ),
        field(
            "retry_after",
            &[Responses],
            flag(),
            "Sends Retry-After with refusals.",
        ),
        field(
            "body",
            &[Responses],
            text(),
            "The body of refusals: a text with fields such as {retry_after}, or problem (RFC 9457).",
        ),
        field(
            "content_type",
            &[Responses],
            visible(text()),
            "The content type of the body.",
        ),
        field(
            "status_text",
            &[Responses],
            or(text(), "Too Many Requests".into()),
            "A refusal in words, for {status_text} and as the title of a problem.",
        ),
        field(
            "name",
            &[RateLimit],
            limit_name(),
            "What answers call the limit, and others that replace it.",
        ),
        field(
            "replaces",
            &[RateLimit],
            list_of(Replace),
            "Limits that do not apply to a request to which this one does.",
        ),
        field(
            "name",
            &[Replace],
            filled(limit_name()),
            "The name of the limit that is replaced.",
        ),
    ]
}

/// The name of a place's definition.
fn definition(place: Place) -> &'static str {
    match place {
        Place::Domain => "file",
        Place::Descriptor => "descriptor",
        Place::RateLimit => "rate_limit",
        Place::Replace => "replaced",
        Place::WarmUp => "warm_up",
        Place::Responses => "responses",
    }
}

/// The schema of one document of a rules file.
#[must_use]
pub fn json_schema() -> Value {
    let fields = fields();
    let mut places: Vec<Place> = vec![];
    for &place in fields.iter().flat_map(|field| field.places) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let definitions: Map<_, _> = places
        .into_iter()
        .map(|place| (definition(place).to_owned(), keys_of(place, &fields)))
        .collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "description": "Rules of ratekeeper: how often requests may pass.",
        // A document that says nothing is none.
        "type": ["object", "null"],
        "allOf": [reference(Place::Domain)],
        "definitions": definitions,
    })
}

/// The keys that may stand at a place. Says nothing of what is no map.
fn keys_of(place: Place, fields: &[Field]) -> Value {
    let here = || fields.iter().filter(|field| field.places.contains(&place));
    let properties: Map<_, _> = here()
        .map(|field| (field.key.to_owned(), field.described()))
        .collect();
    let required: Vec<_> = here()
        .filter(|field| !field.may_be_absent())
        .map(|field| field.key)
        .collect();
    let mut keys = json!({
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    let conditions = conditions(place, fields);
    if !conditions.is_empty() {
        keys["allOf"] = conditions.into();
    }
    keys
}

fn reference(place: Place) -> Value {
    json!({"$ref": format!("#/definitions/{}", definition(place))})
}

// === impl Field ===

fn field(key: &'static str, places: &'static [Place], takes: Value, about: &'static str) -> Field {
    Field {
        key,
        places,
        takes,
        about,
    }
}

impl Field {
    fn described(&self) -> Value {
        let mut described = self.takes.clone();
        described["description"] = match self.takes.get("default") {
            Some(Value::String(word)) => format!("{} Default: {word}.", self.about),
            Some(default) => format!("{} Default: {default}.", self.about),
            None => self.about.to_owned(),
        }
        .into();
        described
    }

    /// The reader takes null for absent.
    fn may_be_absent(&self) -> bool {
        let types = self.takes["type"].as_array();
        types.is_some_and(|types| types.contains(&json!("null")))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::reader::KEYS, *};

    /// A key that somebody adds to one of the tables is missed in the other.
    #[test]
    fn every_key_is_described_where_it_may_stand_and_nowhere_else() {
        let pairs = |key: &'static str, places: &'static [Place]| {
            places
                .iter()
                .map(move |place| format!("{key} in {place:?}"))
        };
        let known: Vec<String> = KEYS
            .iter()
            .flat_map(|(key, places)| pairs(key, places))
            .collect();
        let mut described: Vec<String> = fields()
            .iter()
            .flat_map(|field| pairs(field.key, field.places))
            .collect();
        described.sort();
        let twice = described.windows(2).find(|two| two[0] == two[1]);
        assert_eq!(twice, None, "described twice");
        let missing: Vec<_> = known.iter().filter(|it| !described.contains(it)).collect();
        let unknown: Vec<_> = described.iter().filter(|it| !known.contains(it)).collect();
        assert!(missing.is_empty(), "fields() lacks {missing:?}");
        assert!(unknown.is_empty(), "KEYS lacks {unknown:?}");
    }

    #[test]
    fn every_description_is_a_sentence() {
        for Field { key, about, .. } in fields() {
            assert!(about.starts_with(char::is_uppercase), "{key}: {about}");
            assert!(about.ends_with('.') && about.len() > 20, "{key}: {about}");
        }
    }

    #[test]
    fn only_what_cannot_be_absent_is_required() {
        let schema = json_schema();
        let required = |definition: &str| schema["definitions"][definition]["required"].clone();
        assert_eq!(required("file"), json!(["domain"]));
        assert_eq!(required("descriptor"), json!(["key"]));
        assert_eq!(required("rate_limit"), json!([]));
        assert_eq!(required("replaced"), json!(["name"]));
        assert_eq!(required("warm_up"), json!(["from", "over"]));
    }
}
