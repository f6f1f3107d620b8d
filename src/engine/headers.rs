//! Decision → response headers.

use super::{
    decision::{Code, Decision},
    rules::RuleSet,
};

/// Under which names the three headers are sent. Whoever sends them has these
/// names, or none when headers are off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderNames {
    /// Carries the limit.
    pub limit: Box<str>,
    /// Carries the hits left.
    pub remaining: Box<str>,
    /// Carries the seconds until the window ends.
    pub reset: Box<str>,
}

/// The values of the three headers, all decimal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Requests per window.
    pub limit: u32,
    /// Hits left.
    pub remaining: u32,
    /// Whole seconds until the window ends.
    pub reset_seconds: u64,
}

/// What few limits have to tell beyond that: it is told wherever they apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The request's turn comes after so many milliseconds.
    pub delay_millis: Option<u64>,
    /// Less is left than a limit gives notice of: so much, and of how much.
    pub notice: Option<(u64, u64)>,
    /// Names of limits that are over and only say so, or the paths of their
    /// rules.
    pub flagged: Vec<String>,
}

/// A header name cannot be sent safely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHeaderName(pub String);

// === impl Headers ===

impl Headers {
    /// What to tell about a decision; `None` when no limit applied.
    #[must_use]
    pub fn of(decision: &Decision) -> Option<Self> {
        let (status, limit) = decision.tightest()?;
        Some(Self {
            limit: limit.requests,
            remaining: status.remaining,
            reset_seconds: status.reset_seconds,
        })
    }
}

// === impl Told ===

impl Told {
    /// What there is to tell; `None` if nothing, as nearly always.
    #[must_use]
    pub fn of(decision: &Decision, rules: &RuleSet) -> Option<Self> {
        let mut told = Self::default();
        let mut least = u32::MAX;
        for status in &decision.statuses {
            let special = &status.special;
            if special.delay_micros > 0 && decision.code == Code::Ok {
                let millis = special.delay_micros.div_ceil(1_000);
                told.delay_millis = told.delay_millis.max(Some(millis));
            }
            if let Some((left, most)) = special.notice
                && left < least
            {
                least = left;
                told.notice = Some((left.into(), most.into()));
            }
            if special.flagged != 0
                && let Some(rule) = status.rule
            {
                let limits = rules.detail(rule).limits.iter().enumerate();
                let flagged = limits.filter(|(place, _)| special.flagged >> place & 1 == 1);
                let names = flagged.map(|(_, limit)| match &*limit.name {
                    "" => rules.path_text(rule),
                    name => name.to_owned(),
                });
                told.flagged.extend(names);
            }
        }
        (told != Self::default()).then_some(told)
    }
}

// === impl HeaderNames ===

impl HeaderNames {
    /// Checks the names: proxies pass them on as they are.
    ///
    /// # Errors
    /// A name is empty, or has a character that is neither a letter nor a
    /// digit nor one of those that RFC 9110 allows in a token beside them.
    pub fn new(limit: &str, remaining: &str, reset: &str) -> Result<Self, BadHeaderName> {
        Ok(Self {
            limit: token(limit)?,
            remaining: token(remaining)?,
            reset: token(reset)?,
        })
    }
}

fn token(name: &str) -> Result<Box<str>, BadHeaderName> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(valid) {
        Ok(name.into())
    } else {
        Err(BadHeaderName(name.to_owned()))
    }
}

// === impl BadHeaderName ===

impl std::fmt::Display for BadHeaderName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not a header name", self.0)
    }
}

impl std::error::Error for BadHeaderName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_a_message_are_refused() {
        let build = |name| HeaderNames::new(name, "b", "c").is_ok();
        assert!(build("X-RateLimit-Limit"));
        for bad in ["", "a b", "a:b", ":status", "a\r\nx: 1", "ä", "a\0"] {
            assert!(!build(bad), "{bad:?}");
        }
    }
}
