//! The integration tests, in one binary.

mod cases;
mod commands;
mod layers;
mod rules;
mod wire;
