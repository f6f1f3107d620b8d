//! The integration tests, in one binary.

mod cases;
mod envoy;
mod rules;
mod support;
