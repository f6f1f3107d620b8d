//! Telling what happens: [`logging`], [`metrics`],
//! [`profile`].

pub mod logging;
pub mod metrics;
pub mod profile;
