//! When the next request is due.
//!
//! Closed loop: as soon as an answer makes room. Open loop: at fixed times,
//! whatever the server does. A latency counts from the time at which the
//! request was *due*: a server that stalls keeps later requests waiting, and
//! a client that measured from the time at which it got round to sending
//! them would hide just that ("coordinated omission").

/// The times at which one connection's requests are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    Closed,
    /// Every `step` nanoseconds, `first` being the first time.
    Open {
        first: f64,
        step: f64,
        sent: u64,
    },
}

// === impl Pace ===

impl Pace {
    /// As fast as answers come.
    pub(crate) fn closed() -> Self {
        Self::Closed
    }

    /// `rate` requests a second over all connections, which take turns.
    #[allow(clippy::cast_precision_loss, reason = "few connections")]
    pub(crate) fn open(rate: f64, index: usize, connections: usize) -> Self {
        let gap = 1e9 / rate;
        Self::Open {
            first: gap * index as f64,
            step: gap * connections as f64,
            sent: 0,
        }
    }

    /// When the next request is due, in nanoseconds since the start; `now`
    /// when it has no time of its own.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "saturates; exact to a nanosecond for a hundred days"
    )]
    pub(crate) fn due(&self, now: u64) -> u64 {
        match self {
            Self::Closed => now,
            Self::Open { first, step, sent } => (first + step * *sent as f64) as u64,
        }
    }

    /// The request that was due has been sent.
    pub(crate) fn advance(&mut self) {
        if let Self::Open { sent, .. } = self {
            *sent += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection of a stalled server does: whatever is due goes out.
    fn due_until(pace: &mut Pace, now: u64) -> Vec<u64> {
        let mut due = vec![];
        while pace.due(now) <= now {
            due.push(pace.due(now));
            pace.advance();
        }
        due
    }

    #[test]
    fn connections_take_turns() {
        let mut all: Vec<u64> = (0..4)
            .flat_map(|index| due_until(&mut Pace::open(1_000.0, index, 4), 9_999_999))
            .collect();
        all.sort_unstable();
        let expected: Vec<u64> = (0..10).map(|n| n * 1_000_000).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_stall_does_not_move_what_is_due() {
        let mut pace = Pace::open(1_000.0, 0, 1);
        assert_eq!(due_until(&mut pace, 0), [0]);
        // Nothing could be sent for five milliseconds.
        let late = due_until(&mut pace, 5_000_000);
        assert_eq!(
            late,
            [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]
        );
        assert_eq!(pace.due(5_000_000), 6_000_000);
    }

    #[test]
    fn times_do_not_drift() {
        let mut pace = Pace::open(3.0, 0, 1);
        for _ in 0..3_000_000 {
            pace.advance();
        }
        assert_eq!(pace.due(0), 1_000_000_000_000_000);
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        assert_eq!(Pace::closed().due(17), 17);
    }
}
