#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| format_fuzz::run("parity_sealed", input));
