//! Telling what happens: [`logging`].

pub mod logging;
