//! The integration tests, in one binary.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod commands;
mod corpus;
mod docs;
mod envoy;
mod hostile;
mod import;
mod layers;
mod logs;
mod metrics;
mod packaging;
mod pki;
mod process;
mod redis;
mod reload;
mod rules;
mod ruletest;
mod schema;
mod settings;
mod support;
mod tls;
mod traces;
mod wire;
mod xds;
