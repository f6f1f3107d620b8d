//! What is asked: a request's domain, descriptors, entries and hits.
//!
//! Everything borrows from the received message. Keys and values are bytes:
//! proxies send header bytes as they came, which need not be UTF-8.

use super::limit::Limit;

/// One key and value of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name, such as `remote_address`.
    pub key: &'a [u8],
    /// The value; may be empty.
    pub value: &'a [u8],
}

/// How a request changes a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// Take this many; 0 looks and takes none.
    Take(u64),
    /// Give this many back; a counter does not go below 0.
    GiveBack(u64),
}

/// An ordered list of entries, limited as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor<'a> {
    /// The path into the rules; may be empty, then only an override limits it.
    pub entries: &'a [Entry<'a>],
    /// A limit that the caller brings; it replaces the rules' limit.
    pub limit: Option<Limit>,
    /// What to count.
    pub hits: Hits,
}

/// One question: may all of these descriptors pass?
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Which rules apply.
    pub domain: &'a [u8],
    /// In the caller's order; the answer has one status for each.
    pub descriptors: &'a [Descriptor<'a>],
}

// === impl Hits ===

impl Hits {
    /// The number of hits, whichever way they go.
    #[must_use]
    pub const fn amount(self) -> u64 {
        match self {
            Self::Take(amount) | Self::GiveBack(amount) => amount,
        }
    }

    /// `count` after these hits; saturates at 0 and at `u64::MAX`.
    #[must_use]
    pub const fn apply(self, count: u64) -> u64 {
        match self {
            Self::Take(amount) => count.saturating_add(amount),
            Self::GiveBack(amount) => count.saturating_sub(amount),
        }
    }
}
