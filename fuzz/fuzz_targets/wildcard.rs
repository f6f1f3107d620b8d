//! See `ratekeeper_fuzz::targets::wildcard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ratekeeper_fuzz::targets::wildcard(bytes));
