//! ratekeeper: may this request pass now?

pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod limiter;
pub mod proto;
pub mod storage;
