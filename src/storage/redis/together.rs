//! Several counters as one: all or nothing, or the others stand still.
//!
//! Counters of one slot (always, but for a cluster) are looked at and charged
//! by one script. Others are charged in two steps. All or nothing: reserve
//! each where it fits, in parallel, and give back if the request is refused;
//! meanwhile others may see fewer hits left than there are, never more. The
//! others stand still: look first, then count, as the reference does; between
//! the two others may count.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    Shared,
    batch::{Item, Mode, Part, Seen, Sight, Terms, Together, Work},
    finish,
    known_over::Verdict,
    ticket::{Answers, Caller, Ticket},
};
use crate::{
    engine::{
        algorithm::Observation,
        descriptor::Hits,
        limit::Window,
        plan::{Charge, PerDescriptor, Refuses},
        time::Timestamp,
    },
    storage::{ChargeMode, StoreError, Unanswered},
};

/// A charge, owned: the work goes on when the caller has gone.
#[derive(Clone, Debug)]
struct Wish {
    part: Part,
    terms: Terms,
    window: Window,
}

type Wishes = SmallVec<[Wish; 4]>;

/// See [`RedisStore::charge`](super::RedisStore::charge).
pub(super) async fn charge(
    shared: &Arc<Shared>,
    charges: &[Charge<'_>],
    mode: ChargeMode,
    now: Timestamp,
    until: Option<Instant>,
) -> Result<PerDescriptor<Observation>, Box<Unanswered>> {
    let mode = match mode {
        ChargeMode::OthersStandStill => Mode::OthersStandStill,
        ChargeMode::AllOrNothing | ChargeMode::Always => Mode::AllOrNothing,
    };
    let wishes: Wishes = charges
        .iter()
        .map(|charge| wish(shared, charge, now))
        .collect();
    let mut seen: PerDescriptor<Option<Observation>> = SmallVec::from_elem(None, wishes.len());
    let refused = refuse_known(shared, &wishes, mode, &mut seen);
    let asked: SmallVec<[usize; 4]> = (0..wishes.len()).filter(|&i| seen[i].is_none()).collect();
    if asked.is_empty() {
        return finish(seen, None);
    }
    for &index in &asked {
        let Wish {
            part,
            terms,
            window,
        } = &wishes[index];
        shared.settle_refused(*window, &part.key.bytes, part.key.hash, *terms);
    }
    let parts: Wishes = asked.iter().map(|&index| wishes[index].clone()).collect();
    let answer = if is_in_one_slot(shared, &parts) {
        in_one_step(shared, &parts, mode, refused, until).await
    } else {
        // Not to be stopped half-way when the caller goes.
        let shared = Arc::clone(shared);
        let (caller, _leaving) = Caller::until(until).leaving();
        let steps = async move { in_two_steps(&shared, &parts, mode, refused, caller).await };
        match tokio::spawn(steps).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::new("redis", "charging was stopped")),
        }
    };
    match answer {
        Ok(sights) => {
            for (index, sight) in asked.into_iter().zip(sights) {
                seen[index] = Some(sight.until(wishes[index].terms.resets));
            }
            finish(seen, None)
        }
        Err(error) => finish(seen, Some(error)),
    }
}

fn wish(shared: &Shared, charge: &Charge<'_>, now: Timestamp) -> Wish {
    let (key, terms) = shared.key_and_terms(charge, now);
    let (gives_back, hits) = match charge.hits {
        Hits::Take(hits) => (false, hits),
        Hits::GiveBack(hits) => (true, hits),
    };
    Wish {
        part: Part {
            key,
            gives_back,
            hits,
            limit: charge.limit.requests,
            resets: terms.resets,
            refuses: charge.refuses,
        },
        terms,
        window: charge.limit.window,
    }
}

/// Fills in what is known to be over; whether that refuses the request.
///
/// Only where it does: otherwise the store has to see all counters at once.
fn refuse_known(
    shared: &Shared,
    wishes: &[Wish],
    mode: Mode,
    seen: &mut [Option<Observation>],
) -> bool {
    let known = |wish: &Wish, counts| {
        let Part {
            key,
            gives_back,
            hits,
            limit,
            ..
        } = &wish.part;
        if *gives_back {
            return None;
        }
        match shared.known_over.ask(key.hash, *hits, *limit, counts) {
            Verdict::Over(seen) => Some(seen),
            Verdict::Unknown | Verdict::Ask => None,
        }
    };
    let refuses = |wish: &Wish| wish.part.refuses == Refuses::Alone && known(wish, false).is_some();
    if !wishes.iter().any(refuses) {
        return false;
    }
    for (wish, seen) in wishes.iter().zip(seen) {
        let counts = mode == Mode::OthersStandStill;
        *seen = known(wish, counts).map(|seen| seen.until(wish.terms.resets));
    }
    true
}

fn is_in_one_slot(shared: &Shared, wishes: &[Wish]) -> bool {
    let Some((first, others)) = wishes.split_first() else {
        return true;
    };
    let backend = shared.backend(first.window);
    others.iter().all(|other| {
        Arc::ptr_eq(backend, shared.backend(other.window))
            && backend.is_together(&first.part.key.bytes, &other.part.key.bytes)
    })
}

async fn in_one_step(
    shared: &Shared,
    wishes: &[Wish],
    mode: Mode,
    refused: bool,
    until: Option<Instant>,
) -> Result<Sight, StoreError> {
    let parts: Box<[Part]> = wishes.iter().map(|wish| wish.part.clone()).collect();
    let window = wishes[0].window;
    if parts.iter().any(|part| part.gives_back) {
        shared.backend(window).gives_back();
    }
    let work = Work::Together(Together {
        parts,
        mode,
        refused,
    });
    let mut answers = ask(shared, [(window, work)], Caller::until(until)).await;
    answers
        .pop()
        .flatten()
        .unwrap_or_else(|| Err(StoreError::new("redis", "no answer")))
}

async fn in_two_steps(
    shared: &Shared,
    wishes: &[Wish],
    mode: Mode,
    refused: bool,
    caller: Caller,
) -> Result<Sight, StoreError> {
    let reserves = |wish: &Wish| {
        mode == Mode::AllOrNothing
            && !refused
            && !wish.part.gives_back
            && wish.part.refuses != Refuses::Never
    };
    let first = wishes.iter().map(|wish| {
        let work = if reserves(wish) {
            reserve(&wish.part)
        } else {
            look(wish)
        };
        (wish.window, work)
    });
    let first = counted(ask(shared, first, caller.clone()).await);
    let over = |wish: &Wish, seen: &Seen| {
        let after = if reserves(wish) {
            seen.after
        } else {
            wish.hypothetical(seen).after
        };
        !wish.part.gives_back && after > wish.part.limit.into()
    };
    let is_over: SmallVec<[bool; 4]> = wishes
        .iter()
        .zip(&first)
        .map(|(wish, seen)| seen.as_ref().is_ok_and(|seen| over(wish, seen)))
        .collect();
    let failure = first.iter().find_map(|seen| seen.as_ref().err().cloned());
    let kinds = wishes.iter().map(|wish| wish.part.refuses);
    let mut limits = kinds.zip(is_over.iter().copied());
    let refused = refused
        || match mode {
            Mode::AllOrNothing => Refuses::any(limits),
            Mode::OthersStandStill => {
                limits.any(|(refuses, over)| over && refuses != Refuses::Never)
            }
        };
    // One whose answer did not come may have been reserved or not.
    let give_all_back = || {
        let reserved = wishes.iter().zip(&first).zip(&is_over);
        for ((wish, seen), is_over) in reserved {
            if reserves(wish) && seen.is_ok() && !is_over && wish.part.hits > 0 {
                give_back(shared, wish);
            }
        }
    };
    if refused || failure.is_some() {
        give_all_back();
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let first_seen: SmallVec<[Seen; 4]> = first.iter().flatten().copied().collect();
    // What is still to be counted, and how it reads.
    let counts = |index: usize| match mode {
        Mode::AllOrNothing => !refused && (!reserves(&wishes[index]) || is_over[index]),
        Mode::OthersStandStill => !refused || is_over[index],
    };
    let second: SmallVec<[usize; 4]> = (0..wishes.len()).filter(|&index| counts(index)).collect();
    let works = second
        .iter()
        .map(|&index| (wishes[index].window, count(&wishes[index])));
    let second_seen = counted(ask(shared, works, caller.staying()).await);
    let mut sights: Sight = wishes
        .iter()
        .zip(&first_seen)
        .zip(&is_over)
        .map(|((wish, seen), &is_over)| match (is_over, refused) {
            (true, _) => wish.hypothetical(seen),
            (false, true) => Seen {
                before: seen.before,
                after: seen.before,
            },
            (false, false) => *seen,
        })
        .collect();
    for (index, seen) in second.into_iter().zip(second_seen) {
        match seen {
            Ok(seen) => sights[index] = seen,
            Err(error) => {
                give_all_back();
                return Err(error);
            }
        }
    }
    Ok(sights)
}

/// Asks for each of `works`; an answer for each, in order.
async fn ask(
    shared: &Shared,
    works: impl IntoIterator<Item = (Window, Work)>,
    caller: Caller,
) -> Answers {
    let works: SmallVec<[(Window, Work); 4]> = works.into_iter().collect();
    let (ticket, waiting) = Ticket::new(works.len(), caller);
    for (place, (window, work)) in works.into_iter().enumerate() {
        let backend = shared.backend(window);
        let lane = backend.lane(&work.key().bytes);
        let item = Item {
            tag: Some((Arc::clone(&ticket), place)),
            work,
            asking: false,
            redirects: 0,
        };
        backend.push_to(lane, item);
    }
    drop(ticket);
    waiting.await
}

fn counted(answers: Answers) -> SmallVec<[Result<Seen, StoreError>; 4]> {
    let none = || StoreError::new("redis", "no answer");
    answers
        .into_iter()
        .map(|answer| {
            answer
                .unwrap_or_else(|| Err(none()))?
                .first()
                .copied()
                .ok_or_else(none)
        })
        .collect()
}

/// Counts if it fits, for itself.
fn reserve(part: &Part) -> Work {
    let part = Part {
        refuses: Refuses::Alone,
        ..part.clone()
    };
    Work::Together(Together {
        parts: [part].into(),
        mode: Mode::AllOrNothing,
        refused: false,
    })
}

fn look(wish: &Wish) -> Work {
    Work::Take(wish.part.key.clone(), 0, wish.exact())
}

fn count(wish: &Wish) -> Work {
    let key = wish.part.key.clone();
    if wish.part.gives_back {
        Work::GiveBack(key, wish.part.hits, wish.exact())
    } else {
        Work::Take(key, wish.part.hits, wish.exact())
    }
}

/// Off the reply path: nobody waits for it.
fn give_back(shared: &Shared, wish: &Wish) {
    let backend = shared.backend(wish.window);
    let Wish {
        part,
        terms,
        window,
    } = wish;
    shared.settle_refused(*window, &part.key.bytes, part.key.hash, *terms);
    backend.gives_back();
    let item = Item::nobodys(Work::GiveBack(part.key.clone(), part.hits, *terms));
    backend.push(&part.key.bytes, item);
}

// === impl Wish ===

impl Wish {
    /// What it would see if it were counted after `seen`.
    fn hypothetical(&self, seen: &Seen) -> Seen {
        let after = if self.part.gives_back {
            seen.before.saturating_sub(self.part.hits)
        } else {
            seen.before.saturating_add(self.part.hits)
        };
        Seen {
            before: seen.before,
            after,
        }
    }

    fn exact(&self) -> Terms {
        Terms {
            leased: false,
            ..self.terms
        }
    }
}
