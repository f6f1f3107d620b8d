//! Telling what happens: [`logging`], some [`refusals`] in it, [`metrics`],
//! [`traces`], [`profile`].

pub mod logging;
pub mod metrics;
pub mod profile;
pub mod refusals;
pub mod traces;
