//! One call's wait for what it has asked of the store.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::batch::Sight;
use crate::{storage::StoreError, trace::Traced};

/// What a call asked for, until it is answered.
#[derive(Debug)]
pub(super) struct Ticket {
    caller: Caller,
    /// Nobody waits any more.
    gone: AtomicBool,
    state: Mutex<State>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    arrived: Instant,
    /// From then on nobody waits for the answer.
    until: Option<Instant>,
    /// Turns true when nobody waits any more, where that is not seen from the
    /// ticket's other side.
    gone: Option<Arc<AtomicBool>>,
    /// What the work for it links to.
    trace: Option<Traced>,
}

/// Says, when it is dropped, that the caller has gone.
#[derive(Debug)]
pub(super) struct Leaving(Arc<AtomicBool>);

#[derive(Debug)]
struct State {
    answers: Answers,
    missing: usize,
    waker: Option<Waker>,
}

/// One for each thing asked.
pub(super) type Answers = SmallVec<[Option<Result<Sight, StoreError>>; 4]>;

/// Whom an item's answer is for: the ticket, and the place in its answers.
/// `None` for what nobody waits for.
pub(super) type Tag = Option<(Arc<Ticket>, usize)>;

/// The call's side of a ticket. Dropping it tells the other side.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Ticket>);

// === impl Ticket ===

impl Ticket {
    /// A ticket for `asked` answers, and the call's side of it.
    pub(super) fn new(asked: usize, caller: Caller) -> (Arc<Self>, Waiting) {
        let ticket = Arc::new(Self {
            caller,
            gone: AtomicBool::new(false),
            state: Mutex::new(State {
                answers: SmallVec::from_elem(None, asked),
                missing: asked,
                waker: None,
            }),
        });
        (Arc::clone(&ticket), Waiting(ticket))
    }

    /// When the call came.
    pub(super) fn arrived(&self) -> Instant {
        self.caller.arrived
    }

    /// What the work for it links to; `None` where it is not traced.
    pub(super) fn trace(&self) -> Option<&Traced> {
        self.caller.trace.as_ref()
    }

    /// Somebody waits for the answer.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let caller = &self.caller;
        let gone = caller.gone.as_ref();
        !self.gone.load(Ordering::Relaxed)
            && !gone.is_some_and(|gone| gone.load(Ordering::Relaxed))
            && caller.until.is_none_or(|until| now < until)
    }

    /// Gives one answer; only the first for a place counts.
    pub(super) fn tell(&self, place: usize, answer: Result<Sight, StoreError>) {
        let mut state = self.lock();
        let State {
            answers, missing, ..
        } = &mut *state;
        let Some(free @ None) = answers.get_mut(place) else {
            return;
        };
        *free = Some(answer);
        *missing -= 1;
        let waker = if *missing == 0 {
            state.waker.take()
        } else {
            None
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nothing under the lock can panic half-way.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Caller ===

impl Caller {
    /// One that comes now, and waits until then.
    pub(super) fn new(until: Option<Instant>, trace: Option<&Traced>) -> Self {
        Self {
            arrived: Instant::now(),
            until,
            gone: None,
            trace: trace.cloned(),
        }
    }

    /// The same, for work that goes on when the caller has gone, and what says
    /// that it has.
    pub(super) fn leaving(self) -> (Self, Leaving) {
        let gone = Arc::new(AtomicBool::new(false));
        let caller = Self {
            gone: Some(Arc::clone(&gone)),
            ..self
        };
        (caller, Leaving(gone))
    }

    /// As if it always waited, but for the store's deadline.
    pub(super) fn staying(&self) -> Self {
        Self {
            arrived: self.arrived,
            until: None,
            gone: None,
            trace: self.trace.clone(),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// === impl Waiting ===

/// Ready when everything is answered.
impl Future for Waiting {
    type Output = Answers;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answers> {
        let mut state = self.0.lock();
        if state.missing == 0 {
            return Poll::Ready(std::mem::take(&mut state.answers));
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn waits_for_all_answers_and_keeps_the_first_of_each() {
        let (ticket, mut waiting) = Ticket::new(2, Caller::new(None, None));
        ticket.tell(1, Ok(Sight::new()));
        ticket.tell(1, Err(StoreError::new("a", "late")));
        assert!((&mut waiting).now_or_never().is_none());
        ticket.tell(0, Err(StoreError::new("a", "down")));
        ticket.tell(7, Ok(Sight::new()));
        let answers = waiting.now_or_never().expect("all are there");
        assert!(matches!(answers[0], Some(Err(_))));
        assert!(matches!(answers[1], Some(Ok(_))));
    }

    #[tokio::test]
    async fn knows_whether_anybody_waits() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (ticket, waiting) = Ticket::new(1, Caller::new(Some(later), None));
        assert!(ticket.is_wanted(now));
        assert!(!ticket.is_wanted(later), "its time is up");
        drop(waiting);
        assert!(!ticket.is_wanted(now), "the call is gone");
        let (caller, leaving) = Caller::new(None, None).leaving();
        let (ticket, _waiting) = Ticket::new(1, caller.clone());
        assert!(ticket.is_wanted(now));
        drop(leaving);
        assert!(!ticket.is_wanted(now), "the caller is gone");
        let (ticket, _waiting) = Ticket::new(1, caller.staying());
        assert!(ticket.is_wanted(now));
    }
}
