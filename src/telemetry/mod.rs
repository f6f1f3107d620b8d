//! Telling what happens: [`logging`], [`metrics`].

pub mod logging;
pub mod metrics;
