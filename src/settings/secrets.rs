//! Settings as they may be shown: passwords and the like are masked.

use clap::error::{ContextKind, ContextValue};

const MASK: &str = "***";

/// Words in the name of a setting that is a secret as a whole.
const SECRET: [&str; 4] = ["auth", "password", "secret", "token"];

/// Names of query parameters that are secrets.
const PARAMETERS: [&str; 4] = ["password", "pass", "auth", "token"];

/// The value of the setting `name` (a flag or a variable), as it may be shown.
pub(crate) fn masked(name: &str, value: &str) -> String {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let mut words = name.split('_');
    if words.any(|word| SECRET.contains(&word)) && !value.is_empty() {
        return MASK.to_owned();
    }
    if name.ends_with("headers") && name != "limit_headers" && !value.is_empty() {
        let headers: Vec<String> = value.split(',').map(header).collect();
        return headers.join(",");
    }
    let is_address = ["url", "store", "endpoint", "addr"]
        .iter()
        .any(|end| name.ends_with(end));
    if is_address || value.contains("://") {
        return address(value);
    }
    value.to_owned()
}

/// A mistake in the setting `name`, or in the one that `error` is about, as it
/// may be shown.
pub(crate) fn without(mut error: clap::Error, name: Option<&str>) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.trim_start_matches('-').split([' ', '[', '=']);
    let name = name.or(flag.into_iter().next()).unwrap_or_default();
    if let Some(value) = text(ContextKind::InvalidValue) {
        let shown = ContextValue::String(masked(name, &value));
        error.insert(ContextKind::InvalidValue, shown);
    }
    error
}

/// A header's name stays.
fn header(header: &str) -> String {
    match header.find([':', '=']) {
        Some(at) => format!("{}{MASK}", &header[..=at]),
        None => MASK.to_owned(),
    }
}

/// The user stays, the password does not.
fn address(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    let (rest, query) = match rest.split_once('?') {
        // A password with a `?` that should have been escaped.
        Some((login, query))
            if !login.contains('@') && query.contains('@') && parameter(query) == query =>
        {
            (rest, None)
        }
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let rest = match rest.rsplit_once('@') {
        Some((login, hosts)) => match login.split_once(':') {
            Some((user, _)) => format!("{user}:{MASK}@{hosts}"),
            None => format!("{MASK}@{hosts}"),
        },
        None => rest.to_owned(),
    };
    let query = query.map(|query| {
        let parameters: Vec<String> = query.split('&').map(parameter).collect();
        format!("?{}", parameters.join("&"))
    });
    format!("{scheme}{rest}{}", query.unwrap_or_default())
}

fn parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _))
            if PARAMETERS
                .iter()
                .any(|secret| name.to_ascii_lowercase().ends_with(secret)) =>
        {
            format!("{name}={MASK}")
        }
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        for (name, value, shown) in [
            ("redis-auth", "user:geheim", "***"),
            ("REDIS_SENTINEL_AUTH", "geheim", "***"),
            ("redis-auth", "", ""),
            (
                "store",
                "redis://u:ge@heim@host:6379/2",
                "redis://u:***@host:6379/2",
            ),
            ("store", "redis://geheim@host", "redis://***@host"),
            (
                "store",
                "unix:///run/x.sock?db=1&user=u&password=geheim",
                "unix:///run/x.sock?db=1&user=u&password=***",
            ),
            (
                "store",
                "redis-sentinel://u:p@a:1,b:2/m?sentinel_password=p",
                "redis-sentinel://u:***@a:1,b:2/m?sentinel_password=***",
            ),
            ("store", "redis://u:ge?heim@host", "redis://u:***@host"),
            (
                "store",
                "redis://host?password=ge@heim",
                "redis://host?password=***",
            ),
            ("redis-url", "host:6379", "host:6379"),
            ("redis-url", "u:p@host:6379", "u:***@host:6379"),
            ("redis-url", "mymaster,a:1,b:2", "mymaster,a:1,b:2"),
            (
                "otel-exporter-otlp-headers",
                "authorization=Bearer x,a=b",
                "authorization=***,a=***",
            ),
            (
                "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
                "authorization:x",
                "authorization:***",
            ),
            ("xds-headers", "geheim", "***"),
            ("xds-headers", "", ""),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://u:p@collector:4317",
                "http://u:***@collector:4317",
            ),
            ("limit-header", "RateLimit-Limit", "RateLimit-Limit"),
            ("limit-headers", "true", "true"),
            ("runtime-root", "/data@2", "/data@2"),
        ] {
            assert_eq!(masked(name, value), shown, "{name} {value}");
        }
    }
}
