#![no_main]

#[allow(dead_code, reason = "each program runs one target of all")]
#[path = "../../session.rs"]
mod session;
#[allow(dead_code, reason = "each program runs one target of all")]
#[path = "../../targets.rs"]
mod targets;
#[allow(dead_code, reason = "each program runs one target of all")]
#[path = "../../world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::frames(input));
