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

use super::{
    Shared,
    batch::{Item, Mode, Part, Seen, Sight, Terms, Together, Work},
    finish, first_of_each,
    known_over::Verdict,
    no_answer,
    ticket::Caller,
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
type IsOver = SmallVec<[bool; 4]>;

/// See [`RedisStore::charge`](super::RedisStore::charge).
pub(super) async fn charge(
    shared: &Arc<Shared>,
    charges: &[Charge<'_>],
    mode: ChargeMode,
    now: Timestamp,
    caller: Caller,
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
        in_one_step(shared, &parts, mode, refused, caller).await
    } else {
        // Not to be stopped half-way when the caller goes.
        let shared = Arc::clone(shared);
        let (caller, _leaving) = caller.leaving();
        let steps = async move {
            match mode {
                // Nothing is to be counted: it is only told what there is.
                Mode::AllOrNothing if refused => look_at_all(&shared, &parts, caller)
                    .await
                    .map(|(seen, is_over)| untouched(&parts, &seen, &is_over)),
                Mode::AllOrNothing | Mode::Each => reserve_all(&shared, &parts, caller).await,
                Mode::OthersStandStill => look_then_count(&shared, &parts, refused, caller).await,
            }
        };
        match tokio::spawn(steps).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::new("redis", "charging was stopped")),
        }
    };
    match answer {
        Ok(sights) => {
            for (index, sight) in asked.into_iter().zip(sights) {
                seen[index] = Some(sight.told(&wishes[index].terms));
            }
            finish(seen, None)
        }
        Err(error) => finish(seen, Some(error)),
    }
}

fn wish(shared: &Shared, charge: &Charge<'_>, now: Timestamp) -> Wish {
    if let Some(part) = shared.special_part(charge, now) {
        return Wish {
            part,
            terms: Terms::of_special(now),
            window: charge.key.window,
        };
    }
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
            special: None,
        },
        terms,
        window: charge.key.window,
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
        *seen = known(wish, counts).map(|seen| Observation {
            known: true,
            ..seen.told(&wish.terms)
        });
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
    caller: Caller,
) -> Result<Sight, StoreError> {
    let work = Work::Together(Together {
        parts: wishes.iter().map(|wish| wish.part.clone()).collect(),
        mode,
        refused,
    });
    let works = [(wishes[0].window, work)].into_iter();
    let mut answers = shared.ask(works, caller).await;
    answers.pop().flatten().unwrap_or_else(|| Err(no_answer()))
}

/// Reserves each where it fits; then charges what could not be reserved, or
/// gives all back.
async fn reserve_all(
    shared: &Shared,
    wishes: &[Wish],
    caller: Caller,
) -> Result<Sight, StoreError> {
    let reserves = |wish: &Wish| !wish.part.gives_back && wish.part.refuses != Refuses::Never;
    let first = wishes.iter().map(|wish| {
        let work = if reserves(wish) {
            reserve(&wish.part)
        } else {
            look(wish)
        };
        (wish.window, work)
    });
    let first = shared.ask(first, caller.clone()).await;
    let first: SmallVec<[Result<Seen, StoreError>; 4]> = first_of_each(first).collect();
    // One that did not fit saw what it would have seen.
    let is_over: IsOver = wishes
        .iter()
        .zip(&first)
        .map(|(wish, seen)| {
            seen.as_ref().is_ok_and(|seen| {
                let looked = !reserves(wish);
                wish.is_over(if looked {
                    wish.hypothetical(*seen)
                } else {
                    *seen
                })
            })
        })
        .collect();
    // One whose answer did not come may have been reserved or not.
    let give_all_back = || {
        for ((wish, seen), is_over) in wishes.iter().zip(&first).zip(&is_over) {
            let counted = seen.as_ref().is_ok_and(|seen| seen.before != seen.after);
            if reserves(wish) && counted && !is_over && wish.part.hits > 0 {
                give_back(shared, wish);
            }
        }
    };
    let seen = match first.iter().cloned().collect::<Result<Sight, _>>() {
        Ok(seen) => seen,
        Err(error) => {
            give_all_back();
            return Err(error);
        }
    };
    let kinds = wishes.iter().map(|wish| wish.part.refuses);
    if Refuses::any(kinds.zip(is_over.iter().copied())) {
        give_all_back();
        return Ok(untouched(wishes, &seen, &is_over));
    }
    let is_left = |index: usize| !reserves(&wishes[index]) || is_over[index];
    let counted = count_some(shared, wishes, seen, is_left, &caller).await;
    if counted.is_err() {
        give_all_back();
    }
    counted
}

/// Looks at all, then charges them; where that refuses the request, only those
/// that go over.
async fn look_then_count(
    shared: &Shared,
    wishes: &[Wish],
    refused: bool,
    caller: Caller,
) -> Result<Sight, StoreError> {
    let (seen, is_over) = look_at_all(shared, wishes, caller.clone()).await?;
    let mut limits = wishes.iter().zip(&is_over);
    let refused =
        refused || limits.any(|(wish, over)| *over && wish.part.refuses != Refuses::Never);
    let counts = |index: usize| !refused || is_over[index];
    count_some(shared, wishes, seen, counts, &caller).await
}

/// What each has, and whether its hits would be too many.
async fn look_at_all(
    shared: &Shared,
    wishes: &[Wish],
    caller: Caller,
) -> Result<(Sight, IsOver), StoreError> {
    let looks = wishes.iter().map(|wish| (wish.window, look(wish)));
    let answers = shared.ask(looks, caller).await;
    let seen = first_of_each(answers).collect::<Result<Sight, _>>()?;
    let is_over = wishes
        .iter()
        .zip(&seen)
        .map(|(wish, seen)| wish.is_over(wish.hypothetical(*seen)))
        .collect();
    Ok((seen, is_over))
}

/// How a refused request reads of which nothing was counted.
fn untouched(wishes: &[Wish], seen: &[Seen], is_over: &[bool]) -> Sight {
    wishes
        .iter()
        .zip(seen)
        .zip(is_over)
        .map(|((wish, seen), is_over)| {
            if *is_over {
                wish.hypothetical(*seen)
            } else {
                let special = seen.special.map(|told| Observation {
                    after: told.before,
                    ..told
                });
                Seen {
                    special,
                    ..Seen::of(seen.before, seen.before)
                }
            }
        })
        .collect()
}

/// Counts those for which `counts` says so; `seen` is what is told of the
/// others. From now on the caller is not asked whether it still waits.
async fn count_some(
    shared: &Shared,
    wishes: &[Wish],
    mut seen: Sight,
    counts: impl Fn(usize) -> bool,
    caller: &Caller,
) -> Result<Sight, StoreError> {
    let places: SmallVec<[usize; 4]> = (0..wishes.len()).filter(|&index| counts(index)).collect();
    let works = places
        .iter()
        .map(|&index| (wishes[index].window, count(&wishes[index])));
    let answers = shared.ask(works, caller.staying()).await;
    for (index, counted) in places.iter().zip(first_of_each(answers)) {
        seen[*index] = counted?;
    }
    Ok(seen)
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

/// What it would see; of a special counter also whether it would be over.
fn look(wish: &Wish) -> Work {
    if wish.part.special.is_some() {
        return Work::Together(Together {
            parts: [wish.part.clone()].into(),
            mode: Mode::AllOrNothing,
            refused: true,
        });
    }
    Work::Take(wish.part.key.clone(), 0, wish.exact())
}

fn count(wish: &Wish) -> Work {
    if wish.part.special.is_some() {
        return Work::Together(Together::each(wish.part.clone()));
    }
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
    let work = if part.special.is_some() {
        Work::Together(Together::each(Part {
            gives_back: true,
            ..part.clone()
        }))
    } else {
        Work::GiveBack(part.key.clone(), part.hits, *terms)
    };
    backend.push(Item::nobodys(work));
}

// === impl Wish ===

impl Wish {
    /// What it would see if it were counted after `seen`.
    fn hypothetical(&self, seen: Seen) -> Seen {
        if seen.special.is_some() {
            return seen;
        }
        let after = if self.part.gives_back {
            seen.before.saturating_sub(self.part.hits)
        } else {
            seen.before.saturating_add(self.part.hits)
        };
        Seen::of(seen.before, after)
    }

    /// Whether that is too much; a refund never is.
    fn is_over(&self, seen: Seen) -> bool {
        let over = match seen.special {
            Some(seen) => seen.is_over(),
            None => seen.after > self.part.limit.into(),
        };
        !self.part.gives_back && over
    }

    fn exact(&self) -> Terms {
        Terms {
            leased: false,
            ..self.terms
        }
    }
}
