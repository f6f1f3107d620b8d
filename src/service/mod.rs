//! Speaking to callers: gRPC over HTTP/2, and HTTP.
//!
//! In reading order: [`listener`] sockets and places · [`worker`] event loops ·
//! [`tls`] handshakes · [`certificates`] the files that they go by ·
//! [`connection`] one HTTP/2 connection · [`call`] one call on it · [`grpc`]
//! message in, message out · [`wire`] protobuf ⇄ engine · [`protobuf`] the
//! encoding · [`spans`] what traced calls tell · [`other_services`] what tonic
//! serves · [`health`] · [`http`] the HTTP side · [`http_json`] `/json` ·
//! [`debug`] for people who look into it · [`log_level`] what is logged ·
//! [`page`] texts that are large · [`patient_io`] clients that do not read · [`limits`] what a client may cost ·
//! [`held_io`] one write for many answers · [`counted`] what is read.

pub(crate) mod call;
pub mod certificates;
pub(crate) mod connection;
pub(crate) mod counted;
pub(crate) mod debug;
pub mod grpc;
pub(crate) mod health;
pub(crate) mod held_io;
pub(crate) mod http;
pub(crate) mod http_json;
pub mod limits;
pub mod listener;
pub(crate) mod log_level;
pub(crate) mod other_services;
pub(crate) mod page;
pub(crate) mod patient_io;
pub(crate) mod protobuf;
pub(crate) mod spans;
pub mod tls;
pub mod wire;
pub(crate) mod worker;

/// Waits until `seen` is true, or nobody is left to set it.
pub(crate) async fn turns_true(seen: &mut tokio::sync::watch::Receiver<bool>) {
    // The value is a lock's guard: not to be held any longer.
    drop(seen.wait_for(|&seen| seen).await);
}
