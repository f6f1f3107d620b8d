//! ratekeeper: may this request pass now?

pub mod cli;
pub mod clock;
pub mod engine;
pub mod limiter;
pub mod load;
pub mod proto;
pub mod storage;
