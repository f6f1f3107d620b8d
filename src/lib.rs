//! ratekeeper: may this request pass now?
//!
//! A rate-limit decision service. One request goes [`service`] →
//! [`limiter`] → [`engine`] (match, plan) → [`storage`] → [`engine`] (decide)
//! → [`service`]. Rules come from [`config`], by way of the [`rulebook`] when
//! they change ([`watch`], [`reload`]), or from a management server ([`xds`]),
//! or made of other limiters' files ([`import`]); [`app`] puts everything
//! together; [`ruletest`] tests rules; [`cli`] is the program; [`clock`] is
//! where time comes from; [`counts`] and [`catalogue`] are what is counted.

pub mod app;
pub mod aside;
pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod config;
pub mod counts;
pub mod engine;
pub mod import;
pub mod limiter;
pub mod load;
pub mod proto;
pub mod reload;
pub mod rulebook;
pub mod ruletest;
pub mod service;
pub mod settings;
pub mod storage;
pub mod telemetry;
pub mod trace;
pub mod watch;
pub mod xds;
