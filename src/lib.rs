//! ratekeeper: may this request pass now?

pub mod clock;
pub mod engine;
pub mod limiter;
pub mod proto;
pub mod service;
pub mod storage;
