//! See `ratekeeper_fuzz::targets::json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ratekeeper_fuzz::targets::json(bytes));
