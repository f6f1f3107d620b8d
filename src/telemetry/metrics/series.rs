//! One row of numbers for each rule (or each value of a rule that asks for
//! it), bounded: what comes beyond the bound is added up by domain.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::{
    counts::Shares,
    engine::{
        decision::{Code, Status},
        descriptor::{Entry, Request},
        plan::Grant,
        rules::RuleSet,
        time::Timestamp,
    },
};

use super::path;

/// What a series is called that stands for all that have none of their own.
pub const OVERFLOW: &str = "__overflow__";

/// Domains that have a series of their own beyond the bound.
const MOST_OVERFLOWING: usize = 1_000;
/// Rows are made so many at a time.
const CHUNK: usize = 256;
/// For as long the most used of a limit is shown, and up to twice.
const PEAK_SECONDS: u64 = 15;
/// A peak's unit: a share of 1 is this many.
const WHOLE: u64 = 10_000;

/// All series of the process.
#[derive(Debug)]
pub struct Series {
    names: RwLock<Names>,
    most: usize,
    rows: Shares<Slab>,
}

#[derive(Debug, Default)]
struct Names {
    by_name: HashMap<Box<str>, u32>,
    list: Vec<Arc<Name>>,
    overflowing: usize,
}

thread_local! {
    /// Where names are put together; kept to save its allocation.
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a series is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The domain.
    pub domain: Box<str>,
    /// The path: what each level is called, joined by dots.
    pub path: Box<str>,
}

/// Which series rules have: found once for each rule of a rule set.
#[derive(Debug)]
pub struct Index(Box<[AtomicU32]>);

/// Of a rule that has not been hit yet.
const UNKNOWN: u32 = 0;
/// Of a rule whose series go by values.
const BY_VALUE: u32 = 1;
/// Added to the numbers of series in an index.
const FIRST: u32 = 2;

#[derive(Debug)]
struct Slab(Box<[OnceLock<Box<[Row]>>]>);

/// One thread's numbers of one series. What nearly every call adds to is on
/// the first cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Row {
    passed: AtomicU64,
    within_limit: AtomicU64,
    /// The largest share of the limit that a counter has used, by when.
    peak: AtomicU64,
    near_limit: AtomicU64,
    /// Hits of calls that this series was over for.
    over_hits: AtomicU64,
    over_limit: AtomicU64,
    refused: AtomicU64,
    shadowed: AtomicU64,
    shadow_mode: AtomicU64,
    known_over: AtomicU64,
    given_back: AtomicU64,
    flagged: AtomicU64,
}

/// The numbers of one series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Decisions that passed.
    pub passed: u64,
    /// Decisions that were over, and say so.
    pub refused: u64,
    /// Decisions that were over, of a rule in shadow mode.
    pub shadowed: u64,
    /// All hits.
    pub total_hits: u64,
    /// See [`Tally`](crate::engine::decision::Tally), as all below.
    pub over_limit: u64,
    /// Hits near the limit.
    pub near_limit: u64,
    /// Hits that passed.
    pub within_limit: u64,
    /// Hits beyond the limit of a rule in shadow mode.
    pub shadow_mode: u64,
    /// Hits refused without asking a store.
    pub known_over: u64,
    /// Hits given back.
    pub given_back: u64,
    /// Hits that a limit which only flags would have refused.
    pub flagged: u64,
    /// The largest share of the limit that a counter has used lately, in
    /// units of 1/10,000.
    pub peak: u64,
}

// === impl Series ===

impl Series {
    /// At most `most` series, and one for each domain beyond; none for 0.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            names: RwLock::default(),
            most,
            rows: Shares::new(),
        }
    }

    /// Adds what was decided for the `place`th descriptor of `request`.
    pub fn record(
        &self,
        rules: &RuleSet,
        index: &Index,
        request: &Request<'_>,
        place: usize,
        status: &Status,
        now: Timestamp,
    ) {
        let entries = request
            .descriptors
            .get(place)
            .map_or(&[][..], |it| it.entries);
        let series = self.series_of(rules, index, request.domain, entries, status);
        let slab = self
            .rows
            .mine(|| Slab::new(self.most + MOST_OVERFLOWING + 1));
        slab.row(series).add(status, now);
    }

    fn series_of(
        &self,
        rules: &RuleSet,
        index: &Index,
        domain: &[u8],
        entries: &[Entry<'_>],
        status: &Status,
    ) -> u32 {
        let Some(rule) = status.rule else {
            return self.named(domain, |key| path::of_override(entries, key));
        };
        let by_value = |key: &mut String| path::by_value(rules, rule, entries, key);
        let slot = &index.0[rules.number(rule)];
        match slot.load(Ordering::Relaxed) {
            UNKNOWN => {}
            BY_VALUE => return self.named(domain, by_value),
            series => return series - FIRST,
        }
        if path::is_by_value(rules, rule) {
            slot.store(BY_VALUE, Ordering::Relaxed);
            return self.named(domain, by_value);
        }
        let series = self.named(domain, |key| path::as_written(rules, rule, key));
        slot.store(series + FIRST, Ordering::Relaxed);
        series
    }

    /// The series that `write` names; one that stands for it when there are
    /// too many.
    fn named(&self, domain: &[u8], write: impl FnOnce(&mut String)) -> u32 {
        KEY.with_borrow_mut(|key| {
            key.clear();
            path::push(key, domain);
            key.push('\0');
            let path = key.len();
            write(key);
            self.known(key, path)
        })
    }

    /// `key`: domain and path, which begins at `path`.
    fn known(&self, key: &str, path: usize) -> u32 {
        let (domain, path) = (&key[..path - 1], &key[path..]);
        {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(series) = names.by_name.get(key) {
                return *series;
            }
            if names.is_full(self.most)
                && let Some(series) = names.overflow(domain)
            {
                return series;
            }
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = names.by_name.get(key) {
            return *series;
        }
        if !names.is_full(self.most) {
            return names.add(key.to_owned(), domain, path);
        }
        if let Some(series) = names.overflow(domain) {
            return series;
        }
        let domain = if names.overflowing < MOST_OVERFLOWING {
            domain
        } else {
            OVERFLOW
        };
        names.overflowing += 1;
        names.add(overflow_of(domain), domain, OVERFLOW)
    }

    /// All series and their numbers, in the order of their beginning.
    #[must_use]
    pub fn read(&self, now: Timestamp) -> Vec<(Arc<Name>, Numbers)> {
        let list = {
            let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
            names.list.clone()
        };
        let numbers = |series: usize| {
            let mut numbers = Numbers::default();
            for slab in self.rows.iter() {
                if let Some(row) = slab.made(series) {
                    row.add_to(&mut numbers, now);
                }
            }
            numbers
        };
        let list = list.into_iter().enumerate();
        list.map(|(series, name)| (name, numbers(series))).collect()
    }

    /// There may be any.
    pub(super) fn is_told(&self) -> bool {
        self.most > 0
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.list.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there may be, without those of what comes beyond.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }
}

fn overflow_of(domain: &str) -> String {
    format!("{domain}\0{OVERFLOW}")
}

// === impl Names ===

impl Names {
    /// What counts for `domain` when there are too many: its own, or, where
    /// too many domains have one, that of all the others.
    fn overflow(&self, domain: &str) -> Option<u32> {
        let find = |domain| self.by_name.get(overflow_of(domain).as_str());
        let others = || (self.overflowing > MOST_OVERFLOWING).then(|| find(OVERFLOW));
        find(domain).or_else(|| others()?).copied()
    }

    fn is_full(&self, most: usize) -> bool {
        self.list.len() - self.overflowing >= most
    }

    fn add(&mut self, key: String, domain: &str, path: &str) -> u32 {
        let series = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        self.list.push(Arc::new(Name {
            domain: domain.into(),
            path: path.into(),
        }));
        self.by_name.insert(key.into(), series);
        series
    }
}

// === impl Numbers ===

impl Numbers {
    /// All decisions.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.passed + self.refused + self.shadowed
    }
}

// === impl Index ===

impl Index {
    /// For a rule set of which nothing has been hit yet.
    #[must_use]
    pub fn new(rules: &RuleSet) -> Self {
        Self(
            (0..rules.numbers())
                .map(|_| AtomicU32::new(UNKNOWN))
                .collect(),
        )
    }

    /// The rule of that number has been hit.
    #[must_use]
    pub fn is_known(&self, number: usize) -> bool {
        self.0[number].load(Ordering::Relaxed) != UNKNOWN
    }
}

// === impl Slab ===

impl Slab {
    fn new(most: usize) -> Self {
        let chunks = most.div_ceil(CHUNK);
        Self((0..chunks).map(|_| OnceLock::new()).collect())
    }

    fn row(&self, series: u32) -> &Row {
        let series = series as usize;
        let chunk = &self.0[(series / CHUNK).min(self.0.len() - 1)];
        let rows = chunk.get_or_init(|| (0..CHUNK).map(|_| Row::default()).collect());
        &rows[series % CHUNK]
    }

    fn made(&self, series: usize) -> Option<&Row> {
        self.0.get(series / CHUNK)?.get()?.get(series % CHUNK)
    }
}

// === impl Row ===

impl Row {
    fn add(&self, status: &Status, now: Timestamp) {
        let add = |count: &AtomicU64, more: u64| {
            if more > 0 {
                count.fetch_add(more, Ordering::Relaxed);
            }
        };
        let tally = &status.tally;
        add(&self.within_limit, tally.within_limit);
        add(&self.near_limit, tally.near_limit);
        let over = tally.total > tally.within_limit || status.code == Code::OverLimit;
        if over {
            add(&self.over_hits, tally.total - tally.within_limit);
            add(&self.over_limit, tally.over_limit);
            add(&self.shadow_mode, tally.shadow_mode);
            add(&self.known_over, tally.known_over);
            let decisions = match status.code {
                Code::OverLimit => &self.refused,
                Code::Ok => &self.shadowed,
            };
            add(decisions, 1);
        } else {
            add(&self.passed, 1);
            add(&self.given_back, tally.given_back);
        }
        add(&self.flagged, tally.flagged);
        self.note_peak(status, now);
    }

    /// Looks are counted, too: they tell how full a counter is.
    fn note_peak(&self, status: &Status, now: Timestamp) {
        let Grant::Limited(limit) = status.grant else {
            return;
        };
        let most = u64::from(limit.requests);
        let used = most.saturating_sub(status.remaining.into());
        let share = (used * WHOLE).checked_div(most).unwrap_or(WHOLE);
        let now = now.as_secs() / PEAK_SECONDS;
        let old = self.peak.load(Ordering::Relaxed);
        let new = Peak::read(old).then(now, share).write();
        if new != old {
            // Of two at once one may be lost: it is a figure to look at.
            self.peak.store(new, Ordering::Relaxed);
        }
    }

    fn add_to(&self, numbers: &mut Numbers, now: Timestamp) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let within_limit = read(&self.within_limit);
        numbers.passed += read(&self.passed);
        numbers.refused += read(&self.refused);
        numbers.shadowed += read(&self.shadowed);
        numbers.total_hits += within_limit + read(&self.over_hits);
        numbers.over_limit += read(&self.over_limit);
        numbers.near_limit += read(&self.near_limit);
        numbers.within_limit += within_limit;
        numbers.shadow_mode += read(&self.shadow_mode);
        numbers.known_over += read(&self.known_over);
        numbers.given_back += read(&self.given_back);
        numbers.flagged += read(&self.flagged);
        let peak = Peak::read(read(&self.peak)).then(now.as_secs() / PEAK_SECONDS, 0);
        numbers.peak = numbers.peak.max(peak.now).max(peak.before);
    }
}

/// The largest share in the span of time that goes on, and in the one before.
#[derive(Clone, Copy)]
struct Peak {
    span: u64,
    now: u64,
    before: u64,
}

// === impl Peak ===

impl Peak {
    const BITS: u32 = 16;

    fn read(packed: u64) -> Self {
        let mask = (1 << Self::BITS) - 1;
        Self {
            span: packed >> (2 * Self::BITS),
            now: packed >> Self::BITS & mask,
            before: packed & mask,
        }
    }

    fn write(self) -> u64 {
        self.span << (2 * Self::BITS) | self.now << Self::BITS | self.before
    }

    /// With a `share` seen in `span`.
    fn then(self, span: u64, share: u64) -> Self {
        let share = share.min(WHOLE);
        // The clock may be set back.
        match span.saturating_sub(self.span) {
            0 => Self {
                now: self.now.max(share),
                ..self
            },
            1 => Self {
                span,
                now: share,
                before: self.now,
            },
            _ => Self {
                span,
                now: share,
                before: 0,
            },
        }
    }
}

/// Whether a status counts at all: what is unlimited, replaced or not matched
/// does not.
#[must_use]
pub fn counts(status: &Status) -> bool {
    matches!(status.grant, Grant::Limited(_))
}
