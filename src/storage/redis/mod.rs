//! Counters in Redis.

mod batch;
pub mod key;
mod scripts;
