//! What one flush sends, and how its replies are split: pure.
//!
//! Changes are given in the order of their arrival. Takes of one key become
//! one `INCRBY`; its reply, the count after all of them, is split back in
//! that order, so that each gets the very answer that a command of its own
//! would have got. Whatever is not a plain take of a key (a refund, a script)
//! ends the key's run: later takes begin another one, behind it.
//!
//! A run can take `extra` hits beyond those that wait: they take the last
//! positions and become a lease.

use hashbrown::HashTable;
use redis::{ServerError, Value};
use smallvec::SmallVec;

use super::{
    charges::{Charge, Charges},
    scripts::{Script, Scripts},
};
use crate::engine::{
    algorithm::{
        Observation, counter,
        elsewhere::{Stored, hits_told},
    },
    descriptor::Hits,
    plan::{PerDescriptor, Refuses},
    time::Timestamp,
};

/// A change of counters, and whom to tell.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub(super) tag: T,
    pub(super) work: Work,
    /// Its slot is on its way to the node it is sent to.
    pub(super) asking: bool,
    /// How often a node has sent it on to another.
    pub(super) redirects: u8,
}

/// What to change.
#[derive(Debug)]
pub(super) enum Work {
    /// Count; 0 hits look.
    Take(Key, u64, Terms),
    /// Give back, down to 0.
    GiveBack(Key, u64, Terms),
    /// Several counters of one slot in one step.
    Together(Together),
}

/// Several counters of one slot.
#[derive(Debug)]
pub(super) struct Together {
    pub(super) parts: Box<[Part]>,
    pub(super) mode: Mode,
    /// The request is refused whatever these counters say.
    pub(super) refused: bool,
}

/// A counter's key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) bytes: Box<[u8]>,
    /// Of `bytes`; equal for equal keys.
    pub(super) hash: u128,
    /// Seconds until nobody needs it any more.
    pub(super) ttl: u64,
}

/// What a take is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) limit: u32,
    /// When the key's window ends.
    pub(super) resets: Timestamp,
    /// Hits may be taken in advance.
    pub(super) leased: bool,
}

/// One counter of several.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) key: Key,
    pub(super) gives_back: bool,
    pub(super) hits: u64,
    pub(super) limit: u32,
    /// When the key's window ends.
    pub(super) resets: Timestamp,
    pub(super) refuses: Refuses,
    /// What there is to say of a counter that is more than a plain fixed
    /// window.
    pub(super) special: Option<Box<Special>>,
}

/// A counter that is more than a plain fixed window.
#[derive(Clone, Debug)]
pub(super) struct Special {
    pub(super) terms: counter::Terms,
    /// When it is charged.
    pub(super) now: Timestamp,
    /// Stands for the value, where different values are counted.
    pub(super) value: [u8; 16],
}

/// What happens to the counters of a request that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They take their hits.
    Each,
    /// Nothing.
    AllOrNothing,
    /// Those over their limit take their hits.
    OthersStandStill,
}

/// Counts before and after a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) before: u64,
    pub(super) after: u64,
    /// All of it, of a counter that is more than a plain fixed window.
    pub(super) special: Option<Observation>,
}

/// What an item saw: one for a single key, one for each part otherwise.
pub(super) type Sight = PerDescriptor<Seen>;

/// Why a command did nothing.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// The server says no.
    Server(ServerError),
    /// It says something else than what was asked.
    Nonsense,
}

/// Commands of one write, and who waits for their replies.
#[derive(Debug)]
pub(super) struct Flush<T> {
    items: Vec<Item<T>>,
    /// The command of each item.
    places: Vec<usize>,
    /// The place of each item's first counter in that command.
    offsets: Vec<usize>,
    commands: Vec<Command>,
}

/// One command; keys are those of the item named.
#[derive(Debug)]
enum Command {
    /// `INCRBY`: hits that wait, and hits in advance.
    Run {
        item: usize,
        sum: u64,
        extra: u64,
        terms: Terms,
        /// It is given its time to live.
        is_first: bool,
    },
    Expire {
        item: usize,
    },
    GiveBack {
        item: usize,
    },
    Together {
        items: SmallVec<[usize; 1]>,
    },
    Charges(Charges),
    Asking,
}

/// What a flush brought for a lease: `extra` hits up to the count `reply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) hash: u128,
    pub(super) terms: Terms,
    pub(super) reply: u64,
    pub(super) extra: u64,
}

/// What a reply tells beside the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A leased counter was counted.
    Granted(Granted),
    /// A key was made that may have no time to live, though it once had one.
    Mortal(u128),
}

/// Where refunds are told of, so that other processes forget what they know.
#[derive(Clone, Debug)]
pub(super) struct Newsroom {
    pub(super) channel: Box<str>,
    /// This process's name: what it has told itself is no news.
    pub(super) name: Box<str>,
}

/// Whom the flush asks while it is put together.
pub(super) trait Advice {
    /// This process has not sent the key before, as far as is remembered.
    fn is_first(&mut self, key: &Key) -> bool;
    /// All keys are in one slot.
    fn is_one_slot(&self) -> bool;
    /// Hits to take in advance, beyond `waiting` ones.
    fn extra(&mut self, key: &Key, terms: Terms, waiting: u64) -> u64;
}

/// Stands for the key of a run of several counters; no key has this hash.
const ANY_KEY: u128 = 0;
/// The same for a run of [`Charges`].
const ANY_CHARGE: u128 = 1;
/// Charges that share a script's run.
const MOST_SHARING: usize = 64;
/// A count that Redis can still tell.
const MOST: u64 = i64::MAX as u64;
/// The most hits of one command that stands for several.
const MOST_TOGETHER: u64 = 1 << 52;
/// The most that a script, which counts in floating point, takes at once.
const MOST_IN_SCRIPT: u64 = 1 << 52;

// === impl Item ===

impl<T> Item<Option<T>> {
    /// Work of which nobody waits to hear.
    pub(super) fn nobodys(work: Work) -> Self {
        Self {
            tag: None,
            work,
            asking: false,
            redirects: 0,
        }
    }
}

// === impl Work ===

impl Work {
    /// Its key, or the first of them.
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Take(key, ..) | Self::GiveBack(key, ..) => key,
            Self::Together(together) => &together.parts[0].key,
        }
    }

    /// Some counter may go down by it.
    pub(super) fn gives_back(&self) -> bool {
        match self {
            Self::Take(..) => false,
            Self::GiveBack(..) => true,
            Self::Together(together) => together.parts.iter().any(|part| part.gives_back),
        }
    }
}

// === impl Together ===

impl Together {
    /// One counter by itself.
    pub(super) fn each(part: Part) -> Self {
        Self {
            parts: [part].into(),
            mode: Mode::Each,
            refused: false,
        }
    }
}

// === impl Terms ===

impl Terms {
    /// Of a counter whose answers tell everything.
    pub(super) fn of_special(now: Timestamp) -> Self {
        Self {
            limit: 0,
            resets: now,
            leased: false,
        }
    }
}

// === impl Part ===

impl Part {
    /// The change that is asked for.
    pub(super) fn hits(&self) -> Hits {
        if self.gives_back {
            Hits::GiveBack(self.hits)
        } else {
            Hits::Take(self.hits)
        }
    }
}

// === impl Seen ===

impl Seen {
    /// Of a plain fixed window.
    pub(super) fn of(before: u64, after: u64) -> Self {
        Self {
            before,
            after,
            special: None,
        }
    }
}

// === impl Flush ===

impl<T> Flush<T> {
    /// Puts the commands together.
    pub(super) fn new(items: Vec<Item<T>>, advice: &mut impl Advice) -> Self {
        let mut flush = Self {
            places: Vec::with_capacity(items.len()),
            offsets: vec![0; items.len()],
            commands: Vec::with_capacity(items.len()),
            items,
        };
        let mut open = Open::default();
        for index in 0..flush.items.len() {
            let place = flush.place(index, &mut open, advice);
            flush.places.push(place);
        }
        flush.take_in_advance(advice);
        flush
    }

    /// How many replies there will be.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Those who wait, in order.
    pub(super) fn items(&self) -> &[Item<T>] {
        &self.items
    }

    /// Gives them back, unanswered.
    pub(super) fn into_items(self) -> Vec<Item<T>> {
        self.items
    }

    /// The command that `index` is part of.
    fn place(&mut self, index: usize, open: &mut Open, advice: &mut impl Advice) -> usize {
        let item = &self.items[index];
        let asking = item.asking;
        match &item.work {
            Work::Take(key, hits, terms) => {
                let (hits, terms) = ((*hits).min(MOST), *terms);
                let hash = key.hash;
                if !asking
                    && let Some(run) = open.get(hash)
                    && join(&mut self.commands[run], hits, terms)
                {
                    return run;
                }
                let is_first = advice.is_first(key);
                let run = self.push(asking, |item| Command::Run {
                    item,
                    sum: hits,
                    extra: 0,
                    terms,
                    is_first,
                });
                if is_first {
                    self.push(asking, |item| Command::Expire { item });
                }
                if !asking {
                    open.insert(hash, run);
                }
                run
            }
            Work::GiveBack(key, ..) => {
                open.remove(key.hash);
                self.push(asking, |item| Command::GiveBack { item })
            }
            Work::Together(together) => {
                if let ([part], Mode::Each) = (&*together.parts, together.mode)
                    && let Some(charge) = Charge::of(part)
                {
                    return self.place_charge(index, charge, open, advice.is_one_slot());
                }
                let alone = match &*together.parts {
                    // One command for all of them, where all keys are together.
                    [_] if together.mode == Mode::Each && !asking && advice.is_one_slot() => {
                        Some(ANY_KEY)
                    }
                    [part] if together.mode == Mode::Each && !asking => Some(part.key.hash),
                    _ => None,
                };
                if let Some(hash) = alone
                    && let Some(place) = open.get(hash)
                    && let Command::Together { items } = &mut self.commands[place]
                    && items.len() < MOST_SHARING
                {
                    self.offsets[index] = items.len();
                    items.push(index);
                    return place;
                }
                for part in &together.parts {
                    open.remove(part.key.hash);
                }
                open.remove(ANY_KEY);
                if alone.is_none() {
                    open.remove(ANY_CHARGE);
                }
                let place = self.push(asking, |item| Command::Together {
                    items: SmallVec::from_slice(&[item]),
                });
                if let Some(hash) = alone {
                    open.insert(hash, place);
                }
                place
            }
        }
    }

    /// The command that a charge is part of. It may pass one of the same counter
    /// that another script counts; but then the rules are being replaced.
    fn place_charge(
        &mut self,
        index: usize,
        charge: Charge,
        open: &mut Open,
        is_one_slot: bool,
    ) -> usize {
        let asking = self.items[index].asking;
        let run = if is_one_slot {
            ANY_CHARGE
        } else {
            charge.hash()
        };
        if !asking
            && let Some(place) = open.get(run)
            && let Command::Charges(charges) = &mut self.commands[place]
            && let Some(offset) = charges.join(index, charge)
        {
            self.offsets[index] = offset;
            return place;
        }
        open.remove(run);
        let place = self.push(asking, |item| Command::Charges(Charges::new(item, charge)));
        if !asking {
            open.insert(run, place);
        }
        place
    }

    fn push(&mut self, asking: bool, command: impl FnOnce(usize) -> Command) -> usize {
        if asking {
            self.commands.push(Command::Asking);
        }
        self.commands.push(command(self.places.len()));
        self.commands.len() - 1
    }

    fn take_in_advance(&mut self, advice: &mut impl Advice) {
        for command in &mut self.commands {
            let Command::Run {
                item,
                sum,
                extra,
                terms,
                ..
            } = command
            else {
                continue;
            };
            if let (Work::Take(key, ..), true) = (&self.items[*item].work, terms.leased) {
                let wanted = advice.extra(key, *terms, *sum);
                *extra = wanted.min(MOST - *sum);
            }
        }
    }

    /// The commands as they are sent.
    pub(super) fn pipeline(&self, news: &Newsroom, scripts: &Scripts) -> redis::Pipeline {
        let mut pipeline = redis::Pipeline::with_capacity(self.commands.len());
        for command in &self.commands {
            self.write(command, news, scripts, &mut pipeline);
        }
        pipeline
    }

    fn write(
        &self,
        command: &Command,
        news: &Newsroom,
        scripts: &Scripts,
        pipeline: &mut redis::Pipeline,
    ) {
        match command {
            Command::Asking => {
                pipeline.cmd("ASKING");
            }
            Command::Run {
                item, sum, extra, ..
            } => {
                let key = self.key(*item);
                pipeline.cmd("INCRBY").arg(&*key.bytes).arg(sum + extra);
            }
            Command::Expire { item } => {
                let key = self.key(*item);
                pipeline.cmd("EXPIRE").arg(&*key.bytes).arg(key.ttl);
            }
            Command::GiveBack { item } => {
                let Work::GiveBack(key, hits, _) = &self.items[*item].work else {
                    return;
                };
                let hits = (*hits).min(MOST_IN_SCRIPT);
                let script = scripts.run(Script::GiveBack, 1, pipeline);
                script.arg(&*key.bytes).arg(hits).arg(key.ttl);
                script.arg(&*news.channel).arg(&*news.name);
            }
            Command::Together { items } => {
                let together = items.iter().map(|&item| &self.items[item].work);
                let together: SmallVec<[&Together; 1]> = together
                    .filter_map(|work| match work {
                        Work::Together(together) => Some(together),
                        Work::Take(..) | Work::GiveBack(..) => None,
                    })
                    .collect();
                write_together(&together, news, scripts, pipeline);
            }
            Command::Charges(charges) => {
                let keys = charges.keys();
                let command = scripts.run(Script::Charges, keys.len(), pipeline);
                for item in keys {
                    command.arg(&*self.key(item).bytes);
                }
                command.arg(charges.text(&self.parts(charges.items())));
            }
        }
    }

    /// The counters of some items, in order.
    fn parts(&self, items: impl Iterator<Item = usize>) -> SmallVec<[&Part; 4]> {
        let parts = items.flat_map(|item| match &self.items[item].work {
            Work::Together(together) => &*together.parts,
            Work::Take(..) | Work::GiveBack(..) => &[],
        });
        parts.collect()
    }

    /// What the counters of a command have seen, in order.
    fn sights(&self, items: &[usize], reply: Option<Value>) -> Result<Vec<Seen>, Refused> {
        let parts = self.parts(items.iter().copied());
        if parts.iter().any(|part| part.special.is_some()) {
            special_sights(reply, &parts)
        } else {
            sights(reply, parts.len())
        }
    }

    fn key(&self, item: usize) -> &Key {
        self.items[item].work.key()
    }

    /// Splits `replies`, one for each command, among those who wait; tells
    /// each, in order of arrival, and of what else there is to know.
    pub(super) fn settle(
        self,
        replies: Vec<Value>,
        mut news: impl FnMut(News),
        mut tell: impl FnMut(Item<T>, Result<Sight, Refused>),
    ) {
        let mut counts: Vec<Result<i128, Refused>> = Vec::with_capacity(self.commands.len());
        let mut replies: Vec<Option<Value>> = replies.into_iter().map(Some).collect();
        replies.resize_with(self.commands.len(), || None);
        let mut together: Vec<Option<Result<Vec<Seen>, Refused>>> = vec![];
        together.resize_with(self.commands.len(), || None);
        for (command, place) in self.commands.iter().zip(0..) {
            match command {
                Command::Together { items } => {
                    together[place] = Some(self.sights(items, replies[place].take()));
                }
                Command::Charges(charges) => {
                    let parts = self.parts(charges.items());
                    together[place] = Some(charges.sights(replies[place].take(), &parts));
                }
                _ => {}
            }
        }
        for (command, reply) in self.commands.iter().zip(&mut replies) {
            let Command::Run {
                item,
                sum,
                extra,
                terms,
                is_first,
            } = command
            else {
                counts.push(Err(Refused::Nonsense));
                continue;
            };
            let count = count(reply.take());
            if let (Ok(reply), true) = (&count, terms.leased)
                && let Ok(reply) = u64::try_from(*reply)
            {
                news(News::Granted(Granted {
                    hash: self.key(*item).hash,
                    terms: *terms,
                    reply,
                    extra: *extra,
                }));
            }
            let before = count.map(|after| after - i128::from(*sum) - i128::from(*extra));
            if matches!(before, Ok(0)) && !is_first || before.is_err() {
                news(News::Mortal(self.key(*item).hash));
            }
            counts.push(before);
        }
        let places = self.places.into_iter().zip(self.offsets);
        for (item, (place, offset)) in self.items.into_iter().zip(places) {
            let sight = match &item.work {
                Work::Take(_, hits, _) => match &mut counts[place] {
                    Ok(position) => {
                        let before = *position;
                        *position += i128::from((*hits).min(MOST));
                        Ok(one(before, *position, *hits))
                    }
                    Err(refused) => Err(refused.clone()),
                },
                Work::GiveBack(_, hits, _) => count(replies[place].take()).map(|after| {
                    let hits = i128::from((*hits).min(MOST_IN_SCRIPT));
                    one(after + hits, after, 0)
                }),
                Work::Together(Together { parts, .. }) => match &together[place] {
                    Some(Ok(seen)) => seen
                        .get(offset..offset + parts.len())
                        .map(SmallVec::from_slice)
                        .ok_or(Refused::Nonsense),
                    Some(Err(refused)) => Err(refused.clone()),
                    None => Err(Refused::Nonsense),
                },
            };
            tell(item, sight);
        }
    }
}

/// Adds `hits` to a run; false when Redis could not count that far.
fn join(run: &mut Command, hits: u64, newer: Terms) -> bool {
    let Command::Run { sum, terms, .. } = run else {
        return false;
    };
    match sum.checked_add(hits) {
        // A hit too many for Redis must not take others with it.
        Some(more) if more <= MOST_TOGETHER => {
            *sum = more;
            *terms = newer;
            true
        }
        _ => false,
    }
}

fn one(before: i128, after: i128, hits: u64) -> Sight {
    let clamp = |count: i128| u64::try_from(count.max(0)).unwrap_or(u64::MAX);
    let before = clamp(before);
    // More hits than Redis counts to were cut for it, not for the answer.
    let after = if hits > MOST {
        before.saturating_add(hits)
    } else {
        clamp(after)
    };
    SmallVec::from_slice(&[Seen::of(before, after)])
}

/// Several of `all` only where each counter is charged by itself.
fn write_together(
    all: &[&Together],
    news: &Newsroom,
    scripts: &Scripts,
    pipeline: &mut redis::Pipeline,
) {
    let Some(Together { mode, refused, .. }) = all.first() else {
        return;
    };
    let parts = || all.iter().flat_map(|together| &together.parts);
    let special = parts().any(|part| part.special.is_some());
    let script = if special {
        Script::Counters
    } else {
        Script::Together
    };
    let command = scripts.run(script, parts().count(), pipeline);
    for part in parts() {
        command.arg(&*part.key.bytes);
    }
    command.arg(match mode {
        Mode::Each => "each",
        Mode::AllOrNothing => "nothing",
        Mode::OthersStandStill => "still",
    });
    command.arg(if *refused { "refused" } else { "" });
    command.arg(&*news.channel).arg(&*news.name);
    for part in parts() {
        if special {
            command.arg(part_text(part));
            continue;
        }
        let sign = if part.gives_back { "-" } else { "" };
        let hits = part.hits.min(MOST_IN_SCRIPT);
        let refuses = match part.refuses {
            Refuses::Never => "never",
            Refuses::Alone => "alone",
            Refuses::WithOthers => "others",
        };
        command.arg(format!("{sign}{hits}")).arg(part.limit);
        command.arg(refuses).arg(part.key.ttl);
    }
}

/// A part as the script for counters of any algorithm reads it: three letters,
/// numbers in 64-bit floating point, and the value where there is one.
fn part_text(part: &Part) -> Vec<u8> {
    let refuses = match part.refuses {
        Refuses::Never => b'n',
        Refuses::Alone => b'a',
        Refuses::WithOthers => b'o',
    };
    let sign = if part.gives_back { b'-' } else { b'+' };
    let mut text = Vec::with_capacity(3 + 13 * 8 + 16);
    let Some(special) = &part.special else {
        text.extend_from_slice(&[b'p', refuses, sign]);
        let hits = part.hits.min(MOST_IN_SCRIPT);
        put_numbers(&mut text, &[hits, part.limit.into(), part.key.ttl]);
        return text;
    };
    let numbers = special.terms.numbers(special.now);
    text.extend_from_slice(&[numbers.kind, refuses, sign]);
    let all = [
        hits_told(part.hits()),
        numbers.now,
        numbers.full,
        numbers.requests.into(),
        numbers.tick,
        numbers.length,
        numbers.start,
        numbers.ends,
        numbers.lockout,
    ];
    put_numbers(&mut text, &all);
    match numbers.warm_up {
        Some((from, over)) => put_numbers(&mut text, &[from.into(), over.into()]),
        None => {
            text.extend_from_slice(&(-1.0_f64).to_le_bytes());
            put_numbers(&mut text, &[0]);
        }
    }
    if let Some((remember, exact_up_to)) = numbers.values {
        put_numbers(&mut text, &[remember, exact_up_to.into()]);
        text.extend_from_slice(&special.value);
    }
    text
}

#[allow(
    clippy::cast_precision_loss,
    reason = "what is told to a script is below 2⁵³"
)]
fn put_numbers(text: &mut Vec<u8>, numbers: &[u64]) {
    for number in numbers {
        text.extend_from_slice(&(*number as f64).to_le_bytes());
    }
}

/// What each of `parts` has seen: a list of numbers, or a number and a state.
fn special_sights(reply: Option<Value>, parts: &[&Part]) -> Result<Vec<Seen>, Refused> {
    let values = match reply {
        Some(Value::Array(values)) if values.len() == parts.len() => values,
        Some(Value::ServerError(error)) => return Err(Refused::Server(error)),
        _ => return Err(Refused::Nonsense),
    };
    // The state that was told last of each counter: told again it is `=`.
    let mut said: SmallVec<[(u128, Vec<u8>); 4]> = SmallVec::new();
    let seen = parts.iter().zip(values);
    let seen = seen.map(|(part, value)| {
        let Value::Array(mut values) = value else {
            return Err(Refused::Nonsense);
        };
        let hash = part.key.hash;
        if let Some(Value::BulkString(state)) = values.get_mut(1) {
            let last = said.iter_mut().find(|(key, _)| *key == hash);
            match last {
                Some((_, last)) if state == b"=" => state.clone_from(last),
                Some((_, last)) => last.clone_from(state),
                None => said.push((hash, state.clone())),
            }
        }
        special_sight(part, &values).ok_or(Refused::Nonsense)
    });
    seen.collect()
}

fn special_sight(part: &Part, values: &[Value]) -> Option<Seen> {
    let number = |value: &Value| match value {
        Value::Int(number) => Some(u64::try_from(*number).unwrap_or(u64::MAX)),
        _ => None,
    };
    let Some(special) = &part.special else {
        return match values {
            [_, before, after] => Some(Seen::of(number(before)?, number(after)?)),
            _ => None,
        };
    };
    let stored = match values {
        [_, Value::BulkString(state)] => Stored::State(state),
        [_, before, after, known] => Stored::Values {
            before: number(before)?,
            after: number(after)?,
            known: number(known)? == 1,
        },
        _ => return None,
    };
    // 0 where its hits were not counted.
    let hits = match values.first() {
        Some(Value::Int(1)) => part.hits(),
        _ => Hits::Take(0),
    };
    let told = special.terms.observe(stored, hits, special.now)?;
    Some(Seen {
        before: told.before,
        after: told.after,
        special: Some(told),
    })
}

/// The count that a reply tells. One that Redis could not count to is as good
/// as the highest.
fn count(reply: Option<Value>) -> Result<i128, Refused> {
    match reply {
        Some(Value::Int(count)) => Ok(count.into()),
        Some(Value::ServerError(error)) if is_overflow(&error) => Ok(i128::from(u64::MAX)),
        Some(Value::ServerError(error)) => Err(Refused::Server(error)),
        _ => Err(Refused::Nonsense),
    }
}

fn is_overflow(error: &ServerError) -> bool {
    error
        .details()
        .is_some_and(|text| text.contains("overflow"))
}

/// Counts before and after for each of `parts` parts.
fn sights(reply: Option<Value>, parts: usize) -> Result<Vec<Seen>, Refused> {
    let values = match reply {
        Some(Value::Array(values)) if values.len() == 2 * parts => values,
        Some(Value::ServerError(error)) => return Err(Refused::Server(error)),
        _ => return Err(Refused::Nonsense),
    };
    let number = |value: &Value| match value {
        // Beyond what Redis counts to.
        Value::Int(count) => Ok(u64::try_from(*count).unwrap_or(u64::MAX)),
        _ => Err(Refused::Nonsense),
    };
    values
        .chunks_exact(2)
        .map(|pair| Ok(Seen::of(number(&pair[0])?, number(&pair[1])?)))
        .collect()
}

/// The runs that takes can still join, by their key's hash.
#[derive(Default)]
struct Open(HashTable<(u128, usize)>);

#[allow(
    clippy::cast_possible_truncation,
    reason = "any 64 bits of the hash do"
)]
impl Open {
    fn get(&self, hash: u128) -> Option<usize> {
        let found = self.0.find(hash as u64, |(other, _)| *other == hash);
        found.map(|(_, run)| *run)
    }

    fn insert(&mut self, hash: u128, run: usize) {
        self.remove(hash);
        self.0
            .insert_unique(hash as u64, (hash, run), |(hash, _)| *hash as u64);
    }

    fn remove(&mut self, hash: u128) {
        if let Ok(found) = self.0.find_entry(hash as u64, |(other, _)| *other == hash) {
            found.remove();
        }
    }
}

// === impl Refused ===

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(error) => {
                f.write_str(error.code())?;
                error.details().map_or(Ok(()), |text| write!(f, " {text}"))
            }
            Self::Nonsense => f.write_str("a reply that does not fit the command"),
        }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
