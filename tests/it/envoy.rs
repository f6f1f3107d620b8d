//! ratekeeper behind a real Envoy: what a user's requests get to see.
//!
//! Limits are per year, so that no window ends while a test runs. Each test
//! has its own ratekeeper, Envoy and upstream.

mod decisions;
mod lab;
mod load;
mod providers;
mod restarts;
mod shipped;
mod tls;
mod traffic;
