//! The bodies of the targets, which a test runs over the kept inputs, too.

#[path = "../../tests/it/corpus/targets.rs"]
pub mod targets;
