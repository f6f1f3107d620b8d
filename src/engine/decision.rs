//! Plan and observations → the answer.

use super::{
    algorithm::Observation,
    descriptor::Hits,
    limit::Limit,
    metadata,
    plan::{Grant, PerDescriptor, Plan, Planned},
    rules::{Rule, RuleId, RuleSet},
    time::Timestamp,
};

/// May it pass?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Yes.
    Ok,
    /// No.
    OverLimit,
}

/// Settings of the whole process that bear on answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Refuse nobody; statuses still tell the truth.
    pub shadow_mode: bool,
    /// Treat every rule as one in quota mode.
    pub quota_mode: bool,
    /// From which share of a limit on hits count as near it.
    pub near_limit_ratio: f32,
}

/// The answer for one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether this descriptor would pass by itself.
    pub code: Code,
    /// What it is subject to.
    pub grant: Grant,
    /// The rule behind it; `None` for an override.
    pub rule: Option<RuleId>,
    /// Its limit was dropped in favour of another one of the request.
    pub replaced: bool,
    /// Hits left in the window; `u32::MAX` where unlimited, 0 without limit.
    pub remaining: u32,
    /// Whole seconds until the window ends, rounded up; 0 without limit.
    pub reset_seconds: u64,
    /// The limit refuses only together with all others of its kind.
    pub quota_mode: bool,
    /// How its hits are counted in statistics.
    pub tally: Tally,
}

/// Hits of one descriptor by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub total: u64,
    /// Those beyond the limit.
    pub over_limit: u64,
    /// Those beyond the near-limit mark, up to the limit.
    pub near_limit: u64,
    /// Those of a call that passed.
    pub within_limit: u64,
    /// Those beyond the limit of a shadow rule.
    pub shadow_mode: u64,
    /// Those given back.
    pub given_back: u64,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The one that counts.
    pub code: Code,
    /// One for each descriptor, in order.
    pub statuses: PerDescriptor<Status>,
    /// Shadow mode of the process turned a refusal into a pass.
    pub shadowed: bool,
}

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            shadow_mode: false,
            quota_mode: false,
            near_limit_ratio: 0.8,
        }
    }
}

// === impl Decision ===

impl Decision {
    /// Decides from what the store saw: one observation for each charge of
    /// the plan, in order.
    #[must_use]
    pub fn new(
        rules: &RuleSet,
        plan: &Plan<'_>,
        observations: &[Observation],
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let mut observations = observations.iter();
        let statuses: PerDescriptor<Status> = plan
            .planned
            .iter()
            .map(|planned| {
                let rule = planned.rule.map(|id| rules.rule(id));
                match planned.grant {
                    Grant::Nothing => Status::unlimited(planned, 0, policy.quota_mode),
                    Grant::Unlimited => Status::unlimited(planned, u32::MAX, false),
                    Grant::Limited(limit) => match observations.next() {
                        Some(seen) => Status::limited(planned, limit, rule, seen, policy, now),
                        // A store that answers less than it was asked has
                        // not counted: its contract is broken.
                        None => Status::unlimited(planned, 0, policy.quota_mode),
                    },
                }
            })
            .collect();
        let refused = is_refused(&statuses);
        Self {
            code: if refused && !policy.shadow_mode {
                Code::OverLimit
            } else {
                Code::Ok
            },
            shadowed: refused && policy.shadow_mode,
            statuses,
        }
    }

    /// The status that response headers tell about: the one with the least
    /// left, the first of equals; but the last one that refuses.
    #[must_use]
    pub fn tightest(&self) -> Option<(&Status, Limit)> {
        let mut best = None;
        let mut least = u32::MAX;
        for status in &self.statuses {
            let Grant::Limited(limit) = status.grant else {
                continue;
            };
            let refuses = status.code == Code::OverLimit && !status.quota_mode;
            if refuses || status.remaining < least {
                best = Some((status, limit));
                least = status.remaining;
            }
        }
        best
    }

    /// The metadata of the rules that let their descriptor pass, merged in
    /// order; empty when there is none.
    #[must_use]
    pub fn metadata(&self, rules: &RuleSet) -> metadata::Map {
        let mut merged = metadata::Map::new();
        for status in &self.statuses {
            let limited = matches!(status.grant, Grant::Limited(_));
            if let (Some(id), true, Code::Ok) = (status.rule, limited, status.code) {
                metadata::merge(&mut merged, &rules.detail(id).metadata);
            }
        }
        merged
    }
}

/// A limit that is over refuses; quota limits only when all of them are.
fn is_refused(statuses: &[Status]) -> bool {
    let (mut quotas, mut quotas_over) = (0_usize, 0_usize);
    for status in statuses {
        let over = status.code == Code::OverLimit;
        if status.quota_mode {
            quotas += 1;
            quotas_over += usize::from(over);
        } else if over {
            return true;
        }
    }
    quotas > 0 && quotas == quotas_over
}

// === impl Status ===

impl Status {
    fn unlimited(planned: &Planned, remaining: u32, quota_mode: bool) -> Self {
        Self {
            code: Code::Ok,
            grant: planned.grant,
            rule: planned.rule,
            replaced: planned.replaced,
            remaining,
            reset_seconds: 0,
            quota_mode,
            tally: Tally::default(),
        }
    }

    fn limited(
        planned: &Planned,
        limit: Limit,
        rule: Option<&Rule>,
        seen: &Observation,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let gives_back = matches!(planned.hits, Hits::GiveBack(_));
        let left = u64::from(limit.requests).checked_sub(seen.after);
        let over = left.is_none() && !gives_back;
        let shadow = rule.is_some_and(|rule| rule.shadow_mode);
        Self {
            code: if over && !shadow {
                Code::OverLimit
            } else {
                Code::Ok
            },
            grant: planned.grant,
            rule: planned.rule,
            replaced: false,
            remaining: u32::try_from(left.unwrap_or(0)).unwrap_or(u32::MAX),
            reset_seconds: now.secs_until(seen.resets),
            quota_mode: policy.quota_mode || rule.is_some_and(|rule| rule.quota_mode),
            tally: Tally::new(limit, planned.hits, over, shadow, seen, policy),
        }
    }
}

// === impl Tally ===

impl Tally {
    fn new(
        limit: Limit,
        hits: Hits,
        over: bool,
        shadow: bool,
        seen: &Observation,
        policy: &Policy,
    ) -> Self {
        let hits = match hits {
            Hits::Take(hits) => hits,
            Hits::GiveBack(given_back) => {
                return Self {
                    given_back,
                    ..Self::default()
                };
            }
        };
        let near = near_mark(limit.requests, policy.near_limit_ratio);
        let limit = u64::from(limit.requests);
        if over {
            let over_limit = hits.min(seen.after - limit);
            return Self {
                total: hits,
                over_limit,
                near_limit: limit.saturating_sub(near.max(seen.before)),
                within_limit: 0,
                shadow_mode: if shadow { over_limit } else { 0 },
                given_back: 0,
            };
        }
        Self {
            total: hits,
            near_limit: hits.min(seen.after.saturating_sub(near)),
            within_limit: hits,
            ..Self::default()
        }
    }
}

/// The count from which on hits are near the limit. The product is rounded
/// to 32-bit float first, as the reference does.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounding is the point; the cast saturates"
)]
fn near_mark(requests: u32, ratio: f32) -> u64 {
    (requests as f32 * ratio).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::limit::{Unit, Window};

    fn tally(limit: u32, before: u64, hits: u64) -> Tally {
        let limit = Limit {
            requests: limit,
            window: Window::of(Unit::Hour),
        };
        let seen = Observation {
            before,
            after: before + hits,
            resets: Timestamp::MAX,
        };
        let over = seen.after > u64::from(limit.requests);
        Tally::new(
            limit,
            Hits::Take(hits),
            over,
            false,
            &seen,
            &Policy::default(),
        )
    }

    #[test]
    fn hits_are_told_apart_as_the_reference_does() {
        // limit, before, hits → over, near, within
        for (limit, before, hits, expected) in [
            (20, 0, 1, (0, 0, 1)),
            (20, 15, 1, (0, 0, 1)),
            (20, 15, 3, (0, 2, 3)),
            (20, 16, 2, (0, 2, 2)),
            (20, 15, 10, (5, 4, 0)),
            (20, 18, 4, (2, 2, 0)),
            (20, 20, 4, (4, 0, 0)),
            (20, 30, 4, (4, 0, 0)),
            (0, 0, 3, (3, 0, 0)),
            (10, 10, 0, (0, 0, 0)),
        ] {
            let tally = tally(limit, before, hits);
            assert_eq!(
                (tally.over_limit, tally.near_limit, tally.within_limit),
                expected,
                "limit {limit}, {hits} hits after {before}"
            );
            assert_eq!(tally.total, hits);
        }
    }

    #[test]
    fn the_near_mark_is_rounded_to_32_bits_first() {
        assert_eq!(near_mark(10, 0.8), 8);
        assert_eq!(near_mark(0, 0.8), 0);
        assert_eq!(near_mark(u32::MAX, 1.0), 4_294_967_296);
        assert_eq!(near_mark(5, f32::NAN), 0);
    }
}
