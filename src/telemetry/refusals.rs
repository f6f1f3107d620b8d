//! Refusals in the log: a sample of them, and never more than so many a
//! second, so that a flood of refused calls does not become a flood of lines.

use std::{
    fmt::Write as _,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use tracing::Level;

use crate::engine::{
    decision::{Code, Decision},
    descriptor::{Descriptor, Request},
    rules::RuleSet,
    time::Timestamp,
};

/// Settings of refusals in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many of them. `--log-refusals`, default none.
    pub share: Share,
    /// Lines in a second. `--log-refusals-per-second`, default 100.
    pub per_second: u32,
    /// What clients send is told, too. `--log-values`.
    pub shows_values: bool,
}

/// Some out of so many: `1/1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    some: u64,
    of: u64,
}

/// Logs some of the calls that are refused.
#[derive(Debug)]
pub struct Refusals {
    config: Config,
    seen: AtomicU64,
    logged: AtomicU64,
    suppressed: AtomicU64,
    /// The second, and the lines in it: see [`LINE_BITS`].
    second: AtomicU64,
}

/// Figures of refusals in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// Calls that were refused.
    pub seen: u64,
    /// Lines that were logged.
    pub logged: u64,
    /// Lines that were too many in their second.
    pub suppressed: u64,
}

/// Lines in a second take the low bits of a number, the second those above.
const LINE_BITS: u32 = 28;
/// Clocks of several threads may differ by this many seconds, not by more.
const MOST_APART: u64 = 2;
/// Bytes of a descriptor that are told.
const MOST_DESCRIPTOR: usize = 1_024;

// === impl Refusals ===

impl Refusals {
    /// Logs as `config` says.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            seen: AtomicU64::new(0),
            logged: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
            second: AtomicU64::new(0),
        }
    }

    /// Hears of a decision that was made at `now`.
    pub fn note(
        &self,
        rules: &RuleSet,
        request: &Request<'_>,
        decision: &Decision,
        now: Timestamp,
    ) {
        if decision.code == Code::OverLimit
            && self.is_sampled()
            && tracing::enabled!(Level::INFO)
            && self.has_room(now)
        {
            self.log(rules, request, decision);
        }
    }

    /// Figures for metrics.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            seen: read(&self.seen),
            logged: read(&self.logged),
            suppressed: read(&self.suppressed),
        }
    }

    fn is_sampled(&self) -> bool {
        let Share { some, of } = self.config.share;
        self.seen.fetch_add(1, Ordering::Relaxed) % of < some
    }

    /// Takes a line of the second that `now` is in. A thread that is a little
    /// behind takes one of the later second that others are in; a clock that
    /// was set back begins anew.
    fn has_room(&self, now: Timestamp) -> bool {
        const ONE: u64 = 1 << LINE_BITS;
        let (now, most) = (now.as_secs(), u64::from(self.config.per_second));
        let takes = |word: u64| {
            let (second, lines) = (word >> LINE_BITS, word % ONE);
            let is_same = second >= now && second - now <= MOST_APART;
            if !is_same {
                return (most > 0).then_some((now << LINE_BITS) + 1);
            }
            (lines < most.min(ONE - 1)).then_some(word + 1)
        };
        let taken = self
            .second
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes);
        let count = if taken.is_ok() {
            &self.logged
        } else {
            &self.suppressed
        };
        count.fetch_add(1, Ordering::Relaxed);
        taken.is_ok()
    }

    fn log(&self, rules: &RuleSet, request: &Request<'_>, decision: &Decision) {
        let Some((status, limit)) = decision.told() else {
            return;
        };
        let domain = String::from_utf8_lossy(request.domain);
        // The limit that a request brings has no rule.
        let rule = status.rule.map(|id| rules.path_text(id));
        let rule = rule.as_deref().unwrap_or("a limit of the request's own");
        let source = status.rule.and_then(|id| rules.detail(id).source.as_ref());
        let at = source.map(|source| format!("{}:{}", source.file, source.line));
        let at = at.as_deref().unwrap_or_default();
        let code = "OVER_LIMIT";
        let place = decision
            .statuses
            .iter()
            .position(|it| std::ptr::eq(it, status));
        let asked = place.and_then(|place| request.descriptors.get(place));
        if self.config.shows_values {
            let descriptor = asked.map(tell).unwrap_or_default();
            tracing::info!(%domain, rule, at, %limit, code, descriptor, "refused");
            return;
        }
        tracing::info!(%domain, rule, at, %limit, code, "refused");
        if tracing::enabled!(Level::DEBUG) {
            let descriptor = asked.map(tell).unwrap_or_default();
            tracing::debug!(%domain, rule, descriptor, "refused this one");
        }
    }
}

/// `key=value,key=value`, not all of a long one.
fn tell(descriptor: &Descriptor<'_>) -> String {
    let mut told = String::new();
    for (place, entry) in descriptor.entries.iter().enumerate() {
        if told.len() > MOST_DESCRIPTOR {
            break;
        }
        let comma = if place == 0 { "" } else { "," };
        let (key, value) = (entry.key.escape_ascii(), entry.value.escape_ascii());
        // Text takes what is written to it.
        let _ = write!(told, "{comma}{key}={value}");
    }
    if told.len() > MOST_DESCRIPTOR {
        // What is escaped is ASCII: any place is between two characters.
        told.truncate(MOST_DESCRIPTOR);
        told.push('…');
    }
    told
}

// === impl Share ===

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "some out of so many, such as 1/1000";
        let (some, of) = text.split_once('/').ok_or(WRONG)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| WRONG);
        let share = Self {
            some: number(some)?,
            of: number(of)?,
        };
        if share.some == 0 || share.of < share.some {
            return Err(WRONG);
        }
        Ok(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals(share: &str, per_second: u32) -> Refusals {
        Refusals::new(Config {
            share: share.parse().unwrap(),
            per_second,
            shows_values: false,
        })
    }

    #[test]
    fn a_share_is_exactly_that() {
        for (share, expected) in [("1/1", 3_000), ("1/1000", 3), ("2/3", 2_000), ("3/1000", 9)] {
            let refusals = refusals(share, 1);
            let sampled = (0..3_000).filter(|_| refusals.is_sampled()).count();
            assert_eq!(sampled, expected, "{share}");
        }
        for wrong in ["", "1", "0/1", "2/1", "1/0", "-1/2", "1/x"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_second_has_room_for_so_many_lines() {
        let refusals = refusals("1/1", 3);
        let lines = |second: u64| {
            let now = Timestamp::from_secs(second);
            (0..10).filter(|_| refusals.has_room(now)).count()
        };
        assert_eq!(lines(1_000), 3);
        assert_eq!(lines(1_000), 0);
        assert_eq!(lines(1_001), 3);
        // A thread that is behind.
        assert_eq!(lines(1_000), 0);
        // A clock that was set back.
        assert_eq!(lines(500), 3);
        assert_eq!(
            refusals.figures(),
            Figures {
                seen: 0,
                logged: 9,
                suppressed: 41
            }
        );
    }

    #[test]
    fn no_lines_are_no_lines() {
        let refusals = refusals("1/1", 0);
        assert!(!refusals.has_room(Timestamp::from_secs(7)));
    }
}
