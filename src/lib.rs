//! ratekeeper: may this request pass now?

pub mod engine;
pub mod proto;
