use proptest::prelude::*;

use super::*;
use crate::engine::{
    algorithm::Observation,
    decision::Policy,
    descriptor::{Descriptor, Entry, Hits, Request},
    limit::{Quota, Unit, Window},
    plan::Plan,
    rules::{DomainDef, Extra, LimitDef, RuleDef},
};

/// What is sent about a limit of this name, of which `after` hits are counted.
fn response(responses: ResponsesDef, name: &str, requests: u32, after: u64) -> Response {
    let limit = LimitDef {
        quota: Quota::Limited(Limit {
            requests,
            window: Window::times(Unit::Minute, 5),
        }),
        name: name.to_owned(),
        replaces: vec![],
        leased: false,
        extra: Extra::default(),
    };
    let rule = RuleDef {
        key: "k".to_owned(),
        limit: Some(limit),
        ..RuleDef::default()
    };
    let domain = DomainDef {
        name: "d".to_owned(),
        responses: Some(responses),
        rules: vec![rule],
        ..DomainDef::default()
    };
    let rules = RuleSet::compile(vec![domain]).unwrap();
    let entries = [Entry {
        key: b"k",
        value: b"v",
    }];
    let descriptors = [Descriptor {
        entries: &entries,
        limit: None,
        hits: Hits::Take(1),
    }];
    let request = Request {
        domain: b"d",
        descriptors: &descriptors,
    };
    let plan = Plan::new(&rules, &request, false, &mut vec![]);
    let now = Timestamp::from_secs(1_000);
    let resets = Timestamp::from_secs(1_200);
    let seen = Observation::of_window(after.saturating_sub(1), after, requests, resets);
    let decision = Decision::new(&rules, &plan, &[seen], &Policy::default(), now);
    let told = decision.tightest().unwrap();
    let says = rules.responses(b"d", told.0.rule).unwrap();
    says.render(told, &decision, &rules, "d", now)
}

fn all() -> ResponsesDef {
    ResponsesDef {
        headers: Some(HeaderStyles {
            legacy: true,
            ietf: true,
        }),
        reset: Some(Reset::UnixTimestamp),
        retry_after: Some(true),
        body: Some(Body::Problem),
        ..ResponsesDef::default()
    }
}

#[test]
fn headers_are_sent_always_and_bodies_with_refusals() {
    let passed = response(all(), "otp", 3, 1);
    let expected = [
        ("X-RateLimit-Limit", "3"),
        ("X-RateLimit-Remaining", "2"),
        ("X-RateLimit-Reset", "1200"),
        ("RateLimit-Policy", "\"otp\";q=3;w=300"),
        ("RateLimit", "\"otp\";r=2;t=200"),
    ];
    let expected = expected.map(|(name, value)| (name, value.to_owned()));
    assert_eq!(passed.headers, expected);
    assert_eq!(passed.body, None);
    let refused = response(all(), "", 3, 4);
    assert_eq!(refused.headers[4].1, "\"default\";r=0;t=200");
    let more = [
        ("Retry-After", "200"),
        ("content-type", "application/problem+json"),
    ];
    assert_eq!(refused.headers[5..], more.map(|(n, v)| (n, v.to_owned())));
    assert_eq!(
        refused.body.unwrap(),
        "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
         \"title\":\"Too Many Requests\",\"status\":429,\"detail\":\"3 per 5 minutes\",\
         \"violated-policies\":[\"default\"],\"limit\":3,\"retry_after\":200}"
    );
}

#[test]
fn a_template_is_taken_apart_at_its_fields() {
    let (template, unknown) =
        Template::parse("{\"a\":{retry_after},\"b\":{\"c\":\"{name}\"},{nme}{");
    assert_eq!(unknown, ["nme"]);
    let text = |text: &str| Piece::Text(text.to_owned());
    assert_eq!(
        template.pieces,
        [
            text("{\"a\":"),
            Piece::Field(Field::RetryAfter),
            text(",\"b\":{\"c\":\""),
            Piece::Field(Field::Name),
            text("\"},{nme}{"),
        ]
    );
}

#[test]
fn what_a_rule_leaves_open_its_domain_says() {
    let rule = ResponsesDef {
        reset: Some(Reset::DeltaSeconds),
        body: Some(Body::Problem),
        ..ResponsesDef::default()
    };
    let domain = ResponsesDef {
        content_type: Some("text/html".to_owned()),
        ..all()
    };
    let both = rule.or(&domain);
    assert_eq!(both.reset, Some(Reset::DeltaSeconds));
    assert_eq!(both.headers, domain.headers);
    assert_eq!(both.content_type, None, "that was for another body");
    assert_eq!(ResponsesDef::default().or(&domain), domain);
}

proptest! {
    /// Whatever a limit is called, nothing breaks out of where it stands.
    #[test]
    fn nothing_breaks_a_header_or_a_body(
        name in any::<String>(),
        status_text in any::<String>(),
        requests: u32,
        after: u64,
        json: bool,
    ) {
        let (mut template, _) = Template::parse("{\"n\":\"{name}\",\"s\":\"{status_text}\",\"l\":{limit},\"r\":{reset}}");
        template.json = json;
        for body in [Body::Problem, Body::Template(template)] {
            let responses = ResponsesDef {
                body: Some(body.clone()),
                status_text: Some(status_text.clone()),
                ..all()
            };
            let response = response(responses, &name, requests, after);
            for (header, value) in &response.headers {
                prop_assert!(!value.contains(char::is_control), "{header}: {value:?}");
                if header.starts_with("RateLimit") {
                    let list = sfv::Parser::new(value).parse::<sfv::List>();
                    prop_assert!(list.is_ok_and(|list| list.len() == 1), "{header}: {value:?}");
                }
            }
            let refused = after > requests.into();
            prop_assert_eq!(response.body.is_some(), refused);
            let Some(text) = response.body else { continue };
            if json || body == Body::Problem {
                let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
                let told = parsed.get("s").or(parsed.get("title")).unwrap();
                prop_assert_eq!(told.as_str(), Some(status_text.as_str()));
            } else {
                prop_assert!(!text.contains(char::is_control));
            }
        }
    }
}
