#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| arqonbus::storage::fuzz::stored(input));
