//! The body of an HTTP request, read whole.
//!
//! A body may come slowly, so what it may cost is counted in bytes, not in
//! places: a client that dribbles holds what it has sent and keeps nobody
//! waiting.

use std::sync::{Arc, atomic::AtomicUsize};

use axum::{body::Body, http::StatusCode};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::limits::Budget;

/// Bytes of a body.
const MAX_BYTES: usize = 1 << 20;
/// Bytes of all bodies together.
const MAX_HELD: usize = 16 << 20;
/// Bytes that any body may have, however much the others hold: large ones
/// must not keep small ones out.
const ALWAYS: usize = 16 << 10;

/// A body that is there, and its share of what all may hold.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: Bytes,
    _held: Budget,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    #[error("a body of more than {MAX_BYTES} bytes is too large")]
    TooLarge,
    #[error("too many bytes of unfinished requests are held already")]
    Busy,
    #[error("the body breaks off")]
    Broken(#[source] axum::Error),
}

/// Reads a body; `held` is what all bodies hold.
pub(crate) async fn read(mut body: Body, held: &Arc<AtomicUsize>) -> Result<Whole, Unread> {
    // No need to take in what is too large as it says itself.
    if body.size_hint().lower() > MAX_BYTES as u64 {
        return Err(Unread::TooLarge);
    }
    let mut held = Budget::new(Arc::clone(held), MAX_HELD);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await.transpose().map_err(Unread::Broken)? {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        held.add(data.len());
        bytes.extend_from_slice(&data);
        if bytes.len() > MAX_BYTES {
            return Err(Unread::TooLarge);
        }
        if held.is_exceeded() && bytes.len() > ALWAYS {
            return Err(Unread::Busy);
        }
    }
    Ok(Whole {
        bytes: bytes.freeze(),
        _held: held,
    })
}

// === impl Whole ===

impl Whole {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl Unread ===

impl Unread {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[tokio::test]
    async fn bodies_have_bounds_alone_and_together() {
        for (bytes, held, status) in [
            (0, 0, None),
            (MAX_BYTES, 0, None),
            (MAX_BYTES + 1, 0, Some(StatusCode::PAYLOAD_TOO_LARGE)),
            (ALWAYS, MAX_HELD, None),
            (ALWAYS + 1, MAX_HELD, Some(StatusCode::SERVICE_UNAVAILABLE)),
            (ALWAYS + 1, MAX_HELD - ALWAYS - 1, None),
        ] {
            let all = Arc::new(AtomicUsize::new(held));
            let read = read(Body::from(vec![b'x'; bytes]), &all).await;
            let failed = read.as_ref().err().map(Unread::status);
            assert_eq!(failed, status, "{bytes} bytes beside {held}");
            let mine = read.as_ref().map_or(0, |_| bytes);
            assert_eq!(all.load(Ordering::Relaxed), held + mine);
            drop(read);
            assert_eq!(all.load(Ordering::Relaxed), held);
        }
    }
}
