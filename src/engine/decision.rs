//! Plan and observations → the answer.

use super::{
    algorithm::{Algorithm, Observation},
    descriptor::Hits,
    limit::Limit,
    metadata,
    plan::{Grant, PerDescriptor, Plan, Planned},
    rules::{LimitRule, Rule, RuleId, RuleSet},
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
    /// Whole seconds until all of the limit is there again (a fixed window:
    /// until it ends), rounded up; where another algorithm refuses, until the
    /// same hits pass. 0 without limit.
    pub reset_seconds: u64,
    /// Whole seconds after which the same hits pass, rounded up; 0 where they
    /// pass now, and where nobody can say.
    pub retry_seconds: u64,
    /// Of a special rule: which of its limits is told, and what else there is
    /// to tell.
    pub special: Special,
    /// The limit refuses only together with all others of its kind.
    pub quota_mode: bool,
    /// How its hits are counted in statistics.
    pub tally: Tally,
}

/// What the limits of a special rule say beside a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// The place of the limit that is told.
    pub told: u8,
    /// Limits that are over and only say so, by their place: a bit for each.
    pub flagged: u32,
    /// What is left of a limit that gives notice of it, and of how much: of
    /// several the one with the least left.
    pub notice: Option<(u32, u32)>,
    /// Microseconds that the request is to wait for its turn.
    pub delay_micros: u64,
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
    /// Those of a call that a limit which only flags would have refused.
    pub flagged: u64,
    /// Those beyond the limit that were refused without asking a store.
    pub known_over: u64,
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
                if planned.special {
                    return Status::special(planned, rules, &mut observations, policy, now);
                }
                match planned.grant {
                    Grant::Nothing => Status::unlimited(planned, 0, policy.quota_mode),
                    Grant::Unlimited => Status::unlimited(planned, u32::MAX, false),
                    Grant::Limited(_) => match observations.next() {
                        Some(seen) => Status::limited(planned, rule, seen, policy, now),
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

    /// The status that clients are told about: of those that refuse the one
    /// that does so longest.
    #[must_use]
    pub fn told(&self) -> Option<(&Status, Limit)> {
        let refusing = self.statuses.iter().filter_map(|status| {
            let Grant::Limited(limit) = status.grant else {
                return None;
            };
            let refuses = status.code == Code::OverLimit && !status.quota_mode;
            refuses.then_some((status, limit))
        });
        // 0: nobody can say when, so that is longest.
        let longest = |(status, _): &(&Status, Limit)| status.retry_seconds.wrapping_sub(1);
        match self.code {
            Code::OverLimit => refusing.max_by_key(longest).or_else(|| self.tightest()),
            Code::Ok => self.tightest(),
        }
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
            retry_seconds: 0,
            special: Special::default(),
            quota_mode,
            tally: Tally::default(),
        }
    }

    /// Of all limits of a rule the tightest: of those that refuse the one that
    /// refuses longest, otherwise the one with the least left.
    fn special<'o>(
        planned: &Planned,
        rules: &RuleSet,
        observations: &mut impl Iterator<Item = &'o Observation>,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let shadow = planned.rule.is_some_and(|id| rules.rule(id).shadow_mode);
        let gives_back = matches!(planned.hits, Hits::GiveBack(_));
        let remaining = match planned.grant {
            Grant::Unlimited => u32::MAX,
            Grant::Nothing | Grant::Limited(_) => 0,
        };
        let mut status = Self::unlimited(planned, remaining, false);
        let mut special = Special::default();
        let mut tightest: Option<Sight<'_>> = None;
        for (place, limit) in planned.limits(rules) {
            let Some(seen) = observations.next() else {
                break;
            };
            let sight = Sight {
                place,
                limit,
                seen,
                over: seen.is_over() && !gives_back,
            };
            if sight.is_silent() {
                continue;
            }
            let bit = 1 << place;
            if sight.over && limit.extra.flag_only {
                special.flagged |= bit;
            }
            if sight.gives_notice() {
                let left = sight.remaining();
                let most = u32::try_from(seen.most).unwrap_or(u32::MAX);
                if special.notice.is_none_or(|(least, _)| left < least) {
                    special.notice = Some((left, most));
                }
            }
            if sight.refuses() && !shadow {
                status.code = Code::OverLimit;
            }
            special.delay_micros = special.delay_micros.max(sight.delay_micros(now));
            if tightest
                .as_ref()
                .is_none_or(|other| sight.is_tighter(other))
            {
                tightest = Some(sight);
            }
        }
        if tightest.is_none() && matches!(planned.grant, Grant::Limited(_)) {
            status.grant = Grant::Nothing;
        }
        if let Some(sight) = tightest {
            special.told = u8::try_from(sight.place).unwrap_or(0);
            let limit = sight.told();
            status.grant = Grant::Limited(limit);
            status.remaining = sight.remaining();
            status.reset_seconds = now.secs_until(sight.seen.resets);
            status.retry_seconds = sight.retry_seconds(now);
            if status.retry_seconds > 0 {
                status.reset_seconds = status.retry_seconds;
            }
            status.tally = Tally::new(planned.hits, sight.refuses(), shadow, sight.seen, policy);
        }
        if special.flagged != 0 {
            status.tally.flagged = planned.hits.amount();
        }
        if status.code == Code::OverLimit {
            // Nobody waits for a turn that does not come.
            special.delay_micros = 0;
        }
        Self { special, ..status }
    }

    /// Its reset is at a whole second, as the end of a fixed window is.
    #[must_use]
    pub fn resets_on_the_second(&self, rules: &RuleSet) -> bool {
        let detail = self.rule.map(|id| rules.detail(id));
        let limit = detail.and_then(|it| it.limits.get(usize::from(self.special.told)));
        let method = limit.and_then(|limit| limit.extra.method);
        method.is_none_or(|method| {
            let windows = matches!(
                method.algorithm,
                Algorithm::FixedWindow | Algorithm::DistinctValues(_)
            );
            windows && method.lockout == 0
        })
    }

    /// The name of the limit that is told; empty for none.
    #[must_use]
    pub fn name<'r>(&self, rules: &'r RuleSet) -> &'r str {
        let Some(detail) = self.rule.map(|id| rules.detail(id)) else {
            return "";
        };
        match detail.limits.get(usize::from(self.special.told)) {
            Some(limit) => &limit.name,
            None => &detail.name,
        }
    }

    fn limited(
        planned: &Planned,
        rule: Option<&Rule>,
        seen: &Observation,
        policy: &Policy,
        now: Timestamp,
    ) -> Self {
        let gives_back = matches!(planned.hits, Hits::GiveBack(_));
        let left = seen.most.checked_sub(seen.after);
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
            retry_seconds: if over && planned.hits.amount() <= seen.most {
                now.secs_until(seen.passes)
            } else {
                0
            },
            special: Special::default(),
            quota_mode: policy.quota_mode || rule.is_some_and(|rule| rule.quota_mode),
            tally: Tally::new(planned.hits, over, shadow, seen, policy),
        }
    }
}

/// One limit of a special rule, and what it saw.
struct Sight<'r> {
    place: usize,
    limit: &'r LimitRule,
    seen: &'r Observation,
    over: bool,
}

// === impl Sight ===

impl Sight<'_> {
    /// It limits nothing, or has nothing to tell.
    fn is_silent(&self) -> bool {
        let method = self.limit.extra.method.map(|method| method.algorithm);
        match method {
            Some(Algorithm::Event) => true,
            Some(Algorithm::Opened) => !self.over,
            _ => false,
        }
    }

    fn refuses(&self) -> bool {
        self.over && !self.limit.extra.flag_only
    }

    fn remaining(&self) -> u32 {
        let left = self.seen.most.saturating_sub(self.seen.after);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    fn gives_notice(&self) -> bool {
        let percent = u64::from(self.limit.extra.notify_below);
        percent > 0
            && !self.over
            && u64::from(self.remaining()).saturating_mul(100)
                < self.seen.most.saturating_mul(percent)
    }

    /// How long a request that passes is to wait.
    fn delay_micros(&self, now: Timestamp) -> u64 {
        let method = self.limit.extra.method.map(|method| method.algorithm);
        match method {
            Some(Algorithm::Bucket { .. }) if !self.over => {
                let nanos = self.seen.passes.as_nanos().saturating_sub(now.as_nanos());
                nanos.div_ceil(1_000)
            }
            _ => 0,
        }
    }

    fn retry_seconds(&self, now: Timestamp) -> u64 {
        if self.over && self.seen.passes < Timestamp::MAX {
            now.secs_until(self.seen.passes)
        } else {
            0
        }
    }

    /// The limit as it is told: with the size that it has grown to.
    fn told(&self) -> Limit {
        let grows = self
            .limit
            .extra
            .method
            .is_some_and(|it| it.warm_up.is_some());
        Limit {
            requests: if grows {
                u32::try_from(self.seen.most).unwrap_or(u32::MAX)
            } else {
                self.limit.limit.requests
            },
            ..self.limit.limit
        }
    }

    fn is_tighter(&self, other: &Self) -> bool {
        if self.refuses() != other.refuses() {
            return self.refuses();
        }
        if self.refuses() {
            return self.seen.passes > other.seen.passes;
        }
        // What only says that it is over is told where there is nothing else.
        let flags = (other.limit.extra.flag_only, self.limit.extra.flag_only);
        match flags {
            (true, false) => true,
            (false, true) => false,
            _ => self.remaining() < other.remaining(),
        }
    }
}

// === impl Tally ===

impl Tally {
    fn new(hits: Hits, over: bool, shadow: bool, seen: &Observation, policy: &Policy) -> Self {
        let hits = match hits {
            Hits::Take(hits) => hits,
            Hits::GiveBack(given_back) => {
                return Self {
                    given_back,
                    ..Self::default()
                };
            }
        };
        let most = u32::try_from(seen.most).unwrap_or(u32::MAX);
        let near = near_mark(most, policy.near_limit_ratio);
        let limit = seen.most;
        if over {
            let over_limit = hits.min(seen.after.saturating_sub(limit));
            return Self {
                total: hits,
                over_limit,
                near_limit: limit.saturating_sub(near.max(seen.before)),
                within_limit: 0,
                shadow_mode: if shadow { over_limit } else { 0 },
                known_over: if seen.known { over_limit } else { 0 },
                ..Self::default()
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

    fn tally(limit: u32, before: u64, hits: u64) -> Tally {
        let seen = Observation::of_window(before, before + hits, limit, Timestamp::MAX);
        let over = seen.is_over();
        Tally::new(Hits::Take(hits), over, false, &seen, &Policy::default())
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
