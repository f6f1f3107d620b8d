//! A descriptor's limits → what the engine is given: what their fields mean
//! together.

use std::collections::HashSet;

use crate::engine::{
    algorithm::{Algorithm, Distinct, Method, WarmUp, method::MOST_IN_BUCKET},
    calendar::Calendar,
    limit::{Limit, Quota, Unit, Window},
    plan::MOST_LIMITS,
    rules::{Extra, LimitDef, composite_key},
};

use super::{
    compile::Validator,
    problem::clip,
    schema::{Accuracy, Choice, Count, Descriptor, Field, Kind, RateLimit, WarmUpFields},
    yaml::Mark,
};

/// Hits that a sliding log remembers, at most.
pub(super) const MOST_IN_LOG: u32 = 250;
/// Different values that are kept one by one where nothing else is said.
pub(super) const EXACT_UP_TO: u32 = 1_000;
/// Different values that are kept one by one before they are estimated, at
/// most: the change is one step, for Redis, too.
pub(super) const MOST_EXACT: u32 = 10_000;
/// Different values that are kept one by one, at most.
pub(super) const MOST_VALUES: u32 = 1_000_000;

// === impl Validator: limits ===

impl Validator<'_, '_> {
    /// All limits of a descriptor: the first one, and more.
    pub(super) fn limits(
        &mut self,
        descriptor: &mut Descriptor,
    ) -> (Option<LimitDef>, Vec<LimitDef>) {
        let first = descriptor.rate_limit.take().map(|limit| *limit);
        let several = std::mem::take(&mut descriptor.rate_limits);
        let is_list = !several.is_empty();
        let marks: Vec<Mark> = first.iter().chain(&several).map(|limit| limit.at).collect();
        let all: Vec<LimitDef> = first
            .into_iter()
            .chain(several)
            .map(|limit| self.limit(limit, descriptor.key.as_str()))
            .collect();
        if is_list {
            self.check_several(&marks, &all);
        }
        let special = all.len() > 1 || all.iter().any(|limit| limit.extra != Extra::default());
        if descriptor.quota_mode && special {
            let message = "quota_mode takes one limit, of a plain fixed window";
            self.problem(descriptor.at, message, None);
        }
        let mut all = all.into_iter();
        (all.next(), all.collect())
    }

    /// What several limits must not say.
    fn check_several(&mut self, marks: &[Mark], limits: &[LimitDef]) {
        if let Some(&at) = marks.get(MOST_LIMITS) {
            let message = format!("a descriptor has at most {MOST_LIMITS} limits");
            self.problem(at, message, None);
        }
        let mut counters = HashSet::new();
        for (limit, &at) in limits.iter().zip(marks) {
            let Quota::Limited(Limit { window, .. }) = limit.quota else {
                let message = "unlimited cannot stand beside other limits";
                self.problem(at, message, None);
                continue;
            };
            let kind = limit.extra.method.map_or(0, |method| method.kind());
            let counter = (kind, window.seconds(), window.calendar());
            if !counters.insert((counter, &limit.extra.opened_by)) {
                let message = "two limits of a descriptor have the same window and algorithm";
                let hint = "they would share a counter; the smaller one is enough".to_owned();
                self.problem(at, message, Some(hint));
            }
        }
    }

    fn limit(&mut self, limit: RateLimit, key: &str) -> LimitDef {
        let quota = self.quota(&limit);
        let extra = self.extra(&limit, quota, key);
        self.check_name(&limit.name, limit.at);
        for (at, replaced) in &limit.replaces {
            let at = replaced.at_or(*at);
            if replaced.is_empty() {
                self.problem(at, "should not have an empty replaces entry", None);
            } else if !replaced.is_broken() && replaced.as_str() == limit.name.as_str() {
                let message = "replaces should not contain name of same descriptor";
                self.problem(at, message, None);
            }
            self.check_name(replaced, at);
        }
        LimitDef {
            quota,
            leased: limit.accuracy.get() == Some(Accuracy::Leased),
            extra,
            name: limit.name.into_string(),
            replaces: limit
                .replaces
                .into_iter()
                .map(|(_, name)| name.into_string())
                .collect(),
        }
    }

    fn quota(&mut self, limit: &RateLimit) -> Quota {
        if limit.unlimited {
            self.check_unlimited(limit);
            return Quota::Unlimited;
        }
        let window = match &limit.opens_for {
            Field::Given(text, at) => self.gate(limit, text, *at),
            _ if limit.window.is_empty() => self.window_of_unit(limit),
            _ => self.window(limit),
        };
        Quota::Limited(Limit {
            requests: limit.requests_per_unit,
            window,
        })
    }

    fn check_unlimited(&mut self, limit: &RateLimit) {
        if Unit::from_name(limit.unit.as_str()).is_some() {
            let at = limit.unit.at_or(limit.at);
            let message = "should not specify rate limit unit when unlimited";
            self.problem(at, message, None);
        }
        let others = [
            ("unit_multiplier", limit.unit_multiplier.at()),
            ("window", limit.window.at()),
        ];
        for (what, at) in others.into_iter().chain(limit.extras()) {
            if let Some(at) = at {
                self.problem(
                    at,
                    format!("should not specify {what} when unlimited"),
                    None,
                );
            }
        }
    }

    /// How long a gate stays open.
    fn gate(&mut self, limit: &RateLimit, text: &str, at: Mark) -> Window {
        let others = [
            ("unit", limit.unit.at()),
            ("unit_multiplier", limit.unit_multiplier.at()),
            ("window", limit.window.at()),
        ];
        let of_gates = ["opens_for", "opened_by", "flag_only"];
        let extras = limit.extras().into_iter();
        let extras = extras.filter(|(what, _)| !of_gates.contains(what));
        for (what, at) in others.into_iter().chain(extras) {
            if let Some(at) = at {
                self.problem(
                    at,
                    format!("should not specify {what} beside opens_for"),
                    None,
                );
            }
        }
        if limit.opened_by.is_empty() {
            let hint = "the value of the descriptor beside it whose requests open it".to_owned();
            self.problem(at, "opens_for needs opened_by", Some(hint));
        }
        self.duration(text, "opens_for", at)
    }

    /// A duration of whole seconds, at least one.
    fn duration(&mut self, text: &str, what: &str, at: Mark) -> Window {
        let window = seconds(text).and_then(Window::of_seconds);
        window.unwrap_or_else(|| {
            let message = format!("invalid {what} '{}'", clip(text));
            let hint =
                format!("a {what} is whole seconds up to 366 days, such as 5s, 5m, 1h30m, 14d");
            self.problem(at, message, Some(hint));
            Window::of(Unit::Second)
        })
    }

    /// The same in seconds; 0 where nothing is said.
    fn seconds(&mut self, field: &Field<String>, what: &str) -> u32 {
        match field {
            Field::Given(text, at) => {
                let seconds = self.duration(text, what, *at).seconds();
                u32::try_from(seconds).unwrap_or(u32::MAX)
            }
            Field::Absent | Field::Broken => 0,
        }
    }

    /// What a limit says beyond its requests and its window.
    fn extra(&mut self, limit: &RateLimit, quota: Quota, key: &str) -> Extra {
        let Quota::Limited(granted) = quota else {
            return Extra::default();
        };
        let opened_by = match (&limit.opens_for, &limit.opened_by) {
            (Field::Given(..), Field::Given(value, at)) if value.contains('*') => {
                let hint = "it is one value, which opens for itself".to_owned();
                self.problem(*at, "opened_by cannot hold *", Some(hint));
                None
            }
            (Field::Given(..), Field::Given(value, _)) => Some((key.to_owned(), value.clone())),
            (Field::Absent, Field::Given(_, at)) => {
                self.problem(*at, "opened_by needs opens_for", None);
                None
            }
            _ => None,
        };
        let algorithm = if opened_by.is_some() {
            Algorithm::Opened
        } else {
            self.algorithm(limit, granted)
        };
        let method = Method {
            algorithm,
            lockout: self.lockout(limit, algorithm),
            warm_up: self.warm_up(limit, granted, algorithm),
        };
        if granted.window.calendar().is_some()
            && !matches!(
                algorithm,
                Algorithm::FixedWindow | Algorithm::DistinctValues(_)
            )
        {
            let at = limit
                .time_zone
                .at()
                .or(limit.week_starts.at())
                .unwrap_or(limit.at);
            let message = "time_zone and week_starts go with fixed windows only";
            self.problem(at, message, None);
        }
        let is_plain = method == Method::plain(Algorithm::FixedWindow);
        if let (Choice::Given(Accuracy::Leased, at), false) = (limit.accuracy, is_plain) {
            let message = "accuracy leased goes with plain fixed windows only";
            let hint = "other limits are counted exactly, in one step".to_owned();
            self.problem(at, message, Some(hint));
        }
        Extra {
            method: (!is_plain).then_some(method),
            flag_only: limit.flag_only.get().unwrap_or(false),
            notify_below: self.notify_below(limit),
            opened_by,
        }
    }

    fn algorithm(&mut self, limit: &RateLimit, granted: Limit) -> Algorithm {
        let kind = limit.algorithm.get().unwrap_or(Kind::FixedWindow);
        let queues = kind == Kind::LeakyBucket;
        let fills = queues || kind == Kind::TokenBucket;
        self.only_with(
            limit.burst.at(),
            fills,
            "burst",
            "token_bucket or leaky_bucket",
        );
        self.only_with(limit.max_queue.at(), queues, "max_queue", "leaky_bucket");
        let distinct = limit.count.get() == Some(Count::DistinctValues);
        for (what, at) in [
            ("approximate", limit.approximate.at()),
            ("exact_up_to", limit.exact_up_to.at()),
            ("remember", limit.remember.at()),
        ] {
            self.only_with(at, distinct, what, "count: distinct_values");
        }
        if distinct {
            if let (Choice::Given(_, at), true) = (limit.algorithm, kind != Kind::FixedWindow) {
                let message = "different values are counted in fixed windows only";
                self.problem(at, message, None);
            }
            return Algorithm::DistinctValues(self.distinct(limit, granted));
        }
        match kind {
            Kind::FixedWindow => Algorithm::FixedWindow,
            Kind::SlidingWindow => Algorithm::SlidingWindow,
            Kind::SlidingLog => {
                if granted.requests > MOST_IN_LOG {
                    let message = format!(
                        "a sliding_log remembers every hit: at most {MOST_IN_LOG} requests, \
                         but found {}",
                        granted.requests
                    );
                    let hint = "sliding_window has no such bound".to_owned();
                    self.problem(limit.at, message, Some(hint));
                }
                Algorithm::SlidingLog
            }
            Kind::TokenBucket => {
                let burst = limit.burst.get().unwrap_or(granted.requests);
                self.check_bucket(limit, burst, 0)
            }
            Kind::LeakyBucket => {
                if limit.max_queue.get().is_none() && !limit.max_queue.is_broken() {
                    let hint = "how many may wait for their turn".to_owned();
                    self.problem(limit.at, "leaky_bucket needs max_queue", Some(hint));
                }
                let burst = limit.burst.get().unwrap_or(1);
                self.check_bucket(limit, burst, limit.max_queue.get().unwrap_or(1))
            }
        }
    }

    fn check_bucket(&mut self, limit: &RateLimit, burst: u32, max_queue: u32) -> Algorithm {
        if u64::from(burst) + u64::from(max_queue) > MOST_IN_BUCKET {
            let message = format!("burst and max_queue are more than {MOST_IN_BUCKET}");
            self.problem(limit.at, message, None);
        }
        Algorithm::Bucket { burst, max_queue }
    }

    fn distinct(&mut self, limit: &RateLimit, granted: Limit) -> Distinct {
        let approximate = limit.approximate.get().unwrap_or(false);
        if let (Some(at), false) = (limit.exact_up_to.at(), approximate) {
            let message = "exact_up_to goes with approximate: true only";
            self.problem(at, message, None);
        }
        if let Field::Given(number, at) = limit.exact_up_to
            && number > MOST_EXACT
        {
            let message = format!("exact_up_to is at most {MOST_EXACT}, but found {number}");
            let hint = "all of them go into the estimate at once".to_owned();
            self.problem(at, message, Some(hint));
        }
        if granted.requests > MOST_VALUES && !approximate {
            let message =
                format!("more than {MOST_VALUES} different values cannot be kept one by one");
            let hint = "approximate: true estimates their number".to_owned();
            self.problem(limit.at, message, Some(hint));
        }
        let exact_up_to = if approximate {
            limit.exact_up_to.get().unwrap_or(EXACT_UP_TO)
        } else {
            u32::MAX
        };
        let remember = self.seconds(&limit.remember, "remember");
        if let Field::Given(_, at) = &limit.remember {
            if approximate {
                let message = "what is remembered cannot be approximate";
                self.problem(*at, message, None);
            }
            if u64::from(remember) < granted.window.seconds() {
                let message = "remember is shorter than the window";
                let hint = "values are known until the window ends in any case".to_owned();
                self.problem(*at, message, Some(hint));
            }
        }
        Distinct {
            exact_up_to,
            remember,
        }
    }

    fn lockout(&mut self, limit: &RateLimit, algorithm: Algorithm) -> u32 {
        let fits = matches!(
            algorithm,
            Algorithm::FixedWindow
                | Algorithm::SlidingWindow
                | Algorithm::SlidingLog
                | Algorithm::Bucket { max_queue: 0, .. }
        );
        self.only_with(
            limit.lockout.at(),
            fits,
            "lockout",
            "limits that refuse hits",
        );
        self.seconds(&limit.lockout, "lockout")
    }

    fn warm_up(
        &mut self,
        limit: &RateLimit,
        granted: Limit,
        algorithm: Algorithm,
    ) -> Option<WarmUp> {
        let fields = limit.warm_up.as_ref()?;
        let WarmUpFields { at, from, over } = fields;
        let fits = matches!(algorithm, Algorithm::FixedWindow | Algorithm::SlidingWindow);
        self.only_with(Some(*at), fits, "warm_up", "fixed_window or sliding_window");
        if over.is_empty() {
            self.problem(*at, "warm_up needs over", None);
        }
        if *from == 0 {
            let message = "warm_up needs from, at least 1";
            self.problem(*at, message, None);
        }
        if *from > granted.requests {
            let message = "warm_up begins with more than the limit";
            self.problem(*at, message, None);
        }
        Some(WarmUp {
            from: *from,
            over: self.seconds(over, "over").max(1),
        })
    }

    /// `10%`, or `10`.
    fn notify_below(&mut self, limit: &RateLimit) -> u8 {
        let Field::Given(text, at) = &limit.notify_below else {
            return 0;
        };
        let number = text.strip_suffix('%').unwrap_or(text);
        match number.parse() {
            Ok(percent @ 1..=100) => percent,
            _ => {
                let message = format!("invalid notify_below '{}'", clip(text));
                let hint = "a share of the limit, from 1% to 100%".to_owned();
                self.problem(*at, message, Some(hint));
                0
            }
        }
    }

    fn only_with(&mut self, at: Option<Mark>, fits: bool, what: &str, with: &str) {
        if let (Some(at), false) = (at, fits) {
            self.problem(at, format!("{what} goes with {with} only"), None);
        }
    }

    fn window_of_unit(&mut self, limit: &RateLimit) -> Window {
        let unit = Unit::from_name(limit.unit.as_str());
        if unit.is_none() && !limit.unit.is_broken() && !limit.window.is_broken() {
            let name = clip(limit.unit.as_str());
            let names = Unit::ALL.map(Unit::name).join(", ");
            let hint = format!("the units are {names}");
            let message = format!("invalid rate limit unit '{name}'");
            self.problem(limit.unit.at_or(limit.at), message, Some(hint));
        }
        let unit = unit.unwrap_or(Unit::Second);
        if let Some(window) = self.calendar(limit, unit) {
            return window;
        }
        let Field::Given(multiplier, at) = limit.unit_multiplier else {
            return Window::of(unit);
        };
        let window = Window::times(unit, multiplier);
        if window.seconds() > Window::LONGEST_SECONDS {
            let message = format!("a window of {window} is longer than 366 days");
            self.problem(at, message, None);
        }
        window
    }

    /// A window that is told as a duration, instead of a unit.
    fn window(&mut self, limit: &RateLimit) -> Window {
        let at = limit.window.at_or(limit.at);
        let others = [
            ("unit", limit.unit.at()),
            ("unit_multiplier", limit.unit_multiplier.at()),
            ("time_zone", limit.time_zone.at()),
            ("week_starts", limit.week_starts.at()),
        ];
        for (what, at) in others {
            if let Some(at) = at {
                self.problem(at, format!("should not specify {what} beside window"), None);
            }
        }
        self.duration(limit.window.as_str(), "window", at)
    }

    /// A unit that goes by a calendar, where the limit says so.
    fn calendar(&mut self, limit: &RateLimit, unit: Unit) -> Option<Window> {
        let at = limit.time_zone.at().or(limit.week_starts.at())?;
        if let Some(at) = limit.unit_multiplier.at() {
            let message = "should not specify unit_multiplier beside time_zone or week_starts";
            self.problem(at, message, None);
        }
        if let (Some(at), true) = (limit.week_starts.at(), unit != Unit::Week) {
            self.problem(at, "week_starts goes with unit week only", None);
        }
        let zone = match &limit.time_zone {
            Field::Given(zone, _) => zone,
            Field::Absent | Field::Broken => "UTC",
        };
        let week_starts = limit.week_starts.get().unwrap_or(chrono::Weekday::Mon);
        let Some(calendar) = Calendar::new(zone, week_starts) else {
            let message = format!("unknown time_zone '{}'", clip(zone));
            self.problem(at, message, nearest_zone(zone));
            return None;
        };
        let window = Window::of_calendar(unit, calendar);
        if window.is_none() {
            let message = format!("a {unit} is the same in every time zone");
            let hint = "time_zone goes with day, week, month and year".to_owned();
            self.problem(at, message, Some(hint));
        }
        window
    }

    /// Proxies put a limit's name between quotes into a header, as it is.
    fn check_name(&mut self, name: &Field<String>, around: Mark) {
        let breaks = |char: char| matches!(char, '"' | '\\') || char.is_control();
        if name.as_str().contains(breaks) {
            let message = format!(
                "a limit's name cannot contain quotes, backslashes or control characters, \
                 but found {:?}",
                clip(name.as_str())
            );
            let hint = "Envoy puts the name into response headers as it is".to_owned();
            self.problem(name.at_or(around), message, Some(hint));
        }
    }
}

/// `5s`, `5m`, `1h30m`, `14d`: numbers with a unit each, as seconds.
fn seconds(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &tail[1..];
    }
    Some(total)
}

/// The descriptors that a descriptor's limits name as opening them: their
/// composite keys, and where they are named.
pub(super) fn gates(descriptor: &Descriptor) -> Vec<(Mark, String)> {
    let limits = descriptor.rate_limit.as_deref().into_iter();
    let limits = limits.chain(&descriptor.rate_limits);
    let named = limits.filter_map(|limit| match (&limit.opens_for, &limit.opened_by) {
        (Field::Given(..), Field::Given(value, at)) => {
            Some((*at, composite_key(descriptor.key.as_str(), value)))
        }
        _ => None,
    });
    named.collect()
}

fn nearest_zone(zone: &str) -> Option<String> {
    let score = |name: &str| strsim::jaro_winkler(&name.to_lowercase(), &zone.to_lowercase());
    let nearest = Calendar::zones().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (zone.len() <= 40 && score(nearest) > 0.8).then(|| format!("did you mean {nearest}?"))
}
