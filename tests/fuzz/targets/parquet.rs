//! [`bodies::parquet`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::parquet(bytes));
