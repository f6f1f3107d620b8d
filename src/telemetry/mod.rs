//! Telling what happens: [`logging`], [`metrics`], [`traces`], [`profile`].

pub mod logging;
pub mod metrics;
pub mod profile;
pub mod traces;
