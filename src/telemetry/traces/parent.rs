//! What a call's headers say of the caller's trace.
//!
//! Read are `traceparent` with `tracestate` (W3C), and where there is none that
//! can be read B3: `b3` or the `x-b3-…` headers. Baggage is not looked at.

use http::HeaderMap;
use opentelemetry::trace::{SpanId, TraceId, TraceState};

use crate::trace::{Parent, Span, Tracer};

/// The span of a call with these headers; `None` where it is not traced.
#[must_use]
pub fn begin(tracer: &Tracer, name: &'static str, headers: &HeaderMap) -> Option<Span> {
    let w3c = traceparent(headers);
    let parent = w3c.or_else(|| b3(headers)).unwrap_or_default();
    tracer.begin(name, parent, || match w3c {
        Some(_) => tracestate(headers),
        None => TraceState::NONE,
    })
}

/// `version-trace-span-flags`; versions to come may add fields behind.
fn traceparent(headers: &HeaderMap) -> Option<Parent> {
    let mut fields = text(headers, "traceparent")?.trim().split('-');
    let version = fields.next()?;
    if version.len() != 2 || !is_hex(version) || version == "ff" {
        return None;
    }
    let ids = (trace(fields.next()?, &[32])?, span(fields.next()?)?);
    let flags = fields.next()?;
    if flags.len() != 2 || !is_hex(flags) || (version == "00" && fields.next().is_some()) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some(Parent {
        ids: Some(ids),
        sampled: Some(flags & 1 == 1),
    })
}

/// Bytes that are kept with each span: the standard asks for 512.
const MOST_STATE_BYTES: usize = 1_024;

/// All of them together; one that is not right, or too much, makes all of them
/// nothing.
fn tracestate(headers: &HeaderMap) -> TraceState {
    let values = headers.get_all("tracestate").into_iter();
    let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    if bytes > MOST_STATE_BYTES {
        return TraceState::default();
    }
    texts.join(",").parse().unwrap_or_default()
}

fn b3(headers: &HeaderMap) -> Option<Parent> {
    match text(headers, "b3") {
        Some(single) => b3_single(single),
        None => b3_multi(headers),
    }
}

/// `trace-span`, `trace-span-sampled`, `trace-span-sampled-parent`, or what
/// says whether it is sampled alone.
fn b3_single(text: &str) -> Option<Parent> {
    let Some((first, rest)) = text.split_once('-') else {
        return Some(Parent {
            ids: None,
            sampled: Some(sampled(text)?),
        });
    };
    let mut rest = rest.split('-');
    let ids = (trace(first, &[16, 32])?, span(rest.next()?)?);
    let sampled = match rest.next() {
        Some(text) => Some(sampled(text)?),
        None => None,
    };
    Some(Parent {
        ids: Some(ids),
        sampled,
    })
}

fn b3_multi(headers: &HeaderMap) -> Option<Parent> {
    let is_debugged = text(headers, "x-b3-flags") == Some("1");
    let sampled = match text(headers, "x-b3-sampled") {
        _ if is_debugged => Some(true),
        Some(text) => Some(sampled(text)?),
        None => None,
    };
    let ids = match text(headers, "x-b3-traceid") {
        Some(text) => Some(trace(text, &[16, 32])?),
        None => None,
    };
    let ids = match ids {
        Some(trace) => Some((trace, span(text(headers, "x-b3-spanid")?)?)),
        None => None,
    };
    (ids.is_some() || sampled.is_some()).then_some(Parent { ids, sampled })
}

/// `d` is for debugging: recorded in any case.
fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn trace(text: &str, lengths: &[usize]) -> Option<TraceId> {
    let id = (lengths.contains(&text.len()) && is_hex(text)).then(|| TraceId::from_hex(text));
    id?.ok().filter(|id| *id != TraceId::INVALID)
}

fn span(text: &str) -> Option<SpanId> {
    let id = (text.len() == 16 && is_hex(text)).then(|| SpanId::from_hex(text));
    id?.ok().filter(|id| *id != SpanId::INVALID)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    /// `name: value` lines.
    fn headers(lines: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn said(lines: &str) -> Option<(Option<String>, Option<bool>)> {
        let headers = headers(lines);
        let parent = traceparent(&headers).or_else(|| b3(&headers))?;
        let ids = parent.ids.map(|(trace, span)| format!("{trace}-{span}"));
        Some((ids, parent.sampled))
    }

    #[test]
    fn callers_say_what_they_trace_in_several_ways() {
        let both = Some(format!("{TRACE}-{SPAN}"));
        let short = Some(format!("{:0>32}-{SPAN}", &TRACE[16..]));
        let multi = format!("x-b3-traceid: {TRACE}\nx-b3-spanid: {SPAN}");
        for (lines, ids, sampled) in [
            (
                format!("traceparent: 00-{TRACE}-{SPAN}-01"),
                &both,
                Some(true),
            ),
            (
                format!("traceparent: 00-{TRACE}-{SPAN}-00"),
                &both,
                Some(false),
            ),
            (
                format!("traceparent: 00-{TRACE}-{SPAN}-02"),
                &both,
                Some(false),
            ),
            (
                format!("traceparent: 01-{TRACE}-{SPAN}-03-x"),
                &both,
                Some(true),
            ),
            (format!("b3: {TRACE}-{SPAN}-1"), &both, Some(true)),
            (format!("b3: {TRACE}-{SPAN}-0"), &both, Some(false)),
            (format!("b3: {TRACE}-{SPAN}-d-{SPAN}"), &both, Some(true)),
            (format!("b3: {TRACE}-{SPAN}"), &both, None),
            (format!("b3: {}-{SPAN}-1", &TRACE[16..]), &short, Some(true)),
            ("b3: 0".to_owned(), &None, Some(false)),
            (format!("{multi}\nx-b3-sampled: 1"), &both, Some(true)),
            (format!("{multi}\nx-b3-sampled: 0"), &both, Some(false)),
            (format!("{multi}\nx-b3-flags: 1"), &both, Some(true)),
            (multi.clone(), &both, None),
            ("x-b3-sampled: 0".to_owned(), &None, Some(false)),
            // The first that can be read counts.
            (
                format!("traceparent: 00-{TRACE}-{SPAN}-01\nb3: 0"),
                &both,
                Some(true),
            ),
            (
                format!("traceparent: nonsense\nb3: {TRACE}-{SPAN}-0"),
                &both,
                Some(false),
            ),
        ] {
            assert_eq!(said(&lines), Some((ids.clone(), sampled)), "{lines}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let zeros = "0".repeat(32);
        for lines in [
            String::new(),
            "traceparent: ".to_owned(),
            format!("traceparent: ff-{TRACE}-{SPAN}-01"),
            format!("traceparent: 00-{TRACE}-{SPAN}-01-more"),
            format!("traceparent: 00-{zeros}-{SPAN}-01"),
            format!("traceparent: 00-{TRACE}-{}-01", &zeros[16..]),
            format!("traceparent: 00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("traceparent: 00-{TRACE}-{SPAN}"),
            format!("b3: {TRACE}"),
            format!("b3: {TRACE}-{SPAN}-9"),
            format!("b3: {SPAN}1-{SPAN}-1"),
            format!("x-b3-traceid: {TRACE}"),
            format!("x-b3-spanid: {SPAN}"),
            "x-b3-sampled: maybe".to_owned(),
        ] {
            assert_eq!(said(&lines), None, "{lines}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_or_dropped_as_a_whole() {
        for (lines, expected) in [
            ("tracestate: a=1,b=2\ntracestate: c=3", "a=1,b=2,c=3"),
            ("tracestate: nonsense", ""),
            ("other: x", ""),
        ] {
            assert_eq!(tracestate(&headers(lines)).header(), expected, "{lines}");
        }
        for (bytes, kept) in [(200, true), (300, false)] {
            let lines: String = ["a", "b", "c", "d"]
                .map(|key| format!("tracestate: {key}={}\n", "x".repeat(bytes)))
                .concat();
            let is_kept = !tracestate(&headers(lines.trim_end())).header().is_empty();
            assert_eq!(is_kept, kept, "{bytes}");
        }
    }
}
