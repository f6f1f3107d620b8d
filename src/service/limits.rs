//! What a client may cost: bounds, time-outs, and the account of one
//! connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Bounds of the transport. All are per process unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of a listener; for one more, the one with the fewest calls
    /// answered goes, of several the longest idle. `--max-connections`, default 1,024.
    pub max_connections: usize,
    /// Calls at once on a connection. `--max-concurrent-streams`, default 1,024:
    /// a proxy may send that many before it knows our bound.
    pub max_concurrent_streams: u32,
    /// Bytes of a message. `--max-message-bytes`, default 1,048,576.
    pub max_message_bytes: usize,
    /// Bytes of unfinished messages held. `--max-buffered-bytes`, default 33,554,432.
    pub max_buffered_bytes: usize,
    /// Bytes of a call's headers. `--max-header-bytes`, default 16,384.
    pub max_header_bytes: u32,
    /// From the connection to its HTTP/2 preface, TLS included; over HTTP/1 to
    /// the end of TLS, and again to a request's head. `--handshake-timeout`,
    /// default 10 s.
    pub handshake_timeout: Duration,
    /// From a call's head to its end. `--call-timeout`, default 10 s.
    pub call_timeout: Duration,
    /// Without any call, until the connection is closed. `--idle-timeout`, default 1 h.
    pub idle_timeout: Duration,
    /// Without a byte read, until the client is asked for a sign of life, and
    /// again until it is given up. `--keepalive-interval`, default 60 s.
    pub keepalive_interval: Duration,
    /// From a gRPC connection's beginning, give or take a tenth, until its
    /// client is asked to make a new one; `None`: never. `--max-connection-age`,
    /// default 24 h.
    pub max_connection_age: Option<Duration>,
    /// From then on, until it is closed though calls are under way; `None`:
    /// never. `--max-connection-age-grace`, default 1 h.
    pub max_connection_age_grace: Option<Duration>,
}

/// What calls hold (bytes, places) of all connections together; and one
/// call's share, given back at its end.
#[derive(Debug)]
pub(crate) struct Budget {
    total: Arc<AtomicUsize>,
    most: usize,
    mine: usize,
}

/// What a connection did in the last second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Bytes read from the socket.
    pub bytes_read: u64,
    /// Calls begun.
    pub calls: u64,
    /// Bytes of these calls' messages.
    pub message_bytes: u64,
    /// Bytes of these calls' headers.
    pub head_bytes: u64,
    /// Bytes of the answers handed to HTTP/2.
    pub answer_bytes: u64,
    /// Calls taken back by the client before their answer.
    pub aborted: u64,
    /// Calls given up by us.
    pub given_up: u64,
    /// Calls answered before their message was read to its end.
    pub refused: u64,
}

/// Bytes a second beside messages and heads that are never held against
/// anyone: settings, pings, window updates.
const FREE_BYTES: u64 = 64 * 1024;
/// Bytes that a call's frames and those about its answer may take, beside its
/// headers and its message.
const HEAD_BYTES: u64 = 4 * 1024;
/// Calls that may be taken back in a second, however many were answered: as many
/// as a proxy has at once, all of which may time out.
const FREE_ABORTS: u64 = 1_024;
/// Bytes of a message that a client may send before we have read some.
pub(crate) const STREAM_WINDOW: u32 = 65_535;
/// Calls refused in a second of which the rest may still come in.
const FREE_REFUSALS: u64 = 64;
/// Calls that may time out in a second.
const FREE_TIMEOUTS: u64 = 64;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1_024,
            max_concurrent_streams: 1_024,
            max_message_bytes: 1 << 20,
            max_buffered_bytes: 32 << 20,
            max_header_bytes: 16 << 10,
            handshake_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3_600),
            keepalive_interval: Duration::from_secs(60),
            max_connection_age: Some(Duration::from_secs(24 * 3_600)),
            max_connection_age_grace: Some(Duration::from_secs(3_600)),
        }
    }
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(total: Arc<AtomicUsize>, most: usize) -> Self {
        Self {
            total,
            most,
            mine: 0,
        }
    }

    pub(crate) fn add(&mut self, amount: usize) {
        self.mine += amount;
        self.total.fetch_add(amount, Ordering::Relaxed);
    }

    /// Nothing was added through this one.
    pub(crate) fn is_empty(&self) -> bool {
        self.mine == 0
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.total.load(Ordering::Relaxed) > self.most
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.total.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

// === impl Account ===

impl Account {
    /// Why the client should be cut off, if it should.
    pub(crate) fn verdict(&self) -> Option<&'static str> {
        let explained = self
            .message_bytes
            .saturating_add(self.head_bytes)
            .saturating_add(self.calls.saturating_mul(HEAD_BYTES))
            .saturating_add(self.refused.min(FREE_REFUSALS) * u64::from(STREAM_WINDOW))
            .saturating_add(FREE_BYTES);
        if self.bytes_read > explained {
            return Some("a flood of frames that are no calls");
        }
        if self.aborted > FREE_ABORTS && self.aborted > self.calls / 2 {
            return Some("a flood of calls that are taken back");
        }
        if self.given_up > FREE_TIMEOUTS {
            return Some("a flood of calls that are never finished");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_floods_are_cut_off() {
        let account = |bytes_read, calls, message_bytes, aborted, given_up| Account {
            bytes_read,
            calls,
            message_bytes,
            aborted,
            given_up,
            ..Account::default()
        };
        for (account, cut) in [
            (account(0, 0, 0, 0, 0), false),
            (account(65_000, 0, 0, 0, 0), false),
            (account(66_000, 0, 0, 0, 0), true),
            (account(20_000_000, 100_000, 10_000_000, 0, 0), false),
            (account(20_000_000, 1_000, 100, 0, 0), true),
            (account(0, 100_000, 0, 40_000, 0), false),
            (account(0, 1_024, 0, 1_024, 0), false),
            (account(0, 1_100, 0, 1_025, 0), true),
            (account(0, 1_024, 0, 0, 64), false),
            (account(0, 1_024, 0, 0, 65), true),
        ] {
            assert_eq!(account.verdict().is_some(), cut, "{account:?}");
        }
    }

    #[test]
    fn the_rest_of_a_refused_message_is_no_flood() {
        for (refused, bytes_read, cut) in [
            (0, 130_000, true),
            (1, 130_000, false),
            (64, 4_000_000, false),
            (1_000, 5_000_000, true),
        ] {
            let account = Account {
                bytes_read,
                refused,
                ..Account::default()
            };
            assert_eq!(account.verdict().is_some(), cut, "{account:?}");
        }
    }

    #[test]
    fn a_budget_is_given_back() {
        let total = Arc::new(AtomicUsize::new(0));
        let mut one = Budget::new(Arc::clone(&total), 10);
        let mut two = Budget::new(Arc::clone(&total), 10);
        one.add(6);
        two.add(5);
        assert!(one.is_exceeded());
        drop(two);
        assert!(!one.is_exceeded());
        drop(one);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
