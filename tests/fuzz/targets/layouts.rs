//! [`bodies::layouts`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::layouts(bytes));
