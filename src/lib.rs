//! ratekeeper: may this request pass now?

pub mod cli;
pub mod config;
pub mod engine;
pub mod proto;
