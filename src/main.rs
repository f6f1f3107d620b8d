//! The `ratekeeper` program.

fn main() {}
