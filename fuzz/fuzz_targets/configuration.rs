#![no_main]
#![expect(dead_code, reason = "the rest of the program, which calls it, is not here")]

// The configuration as a whole belongs to the program, and a program has no interface: its files are taken in by path.
#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/failure.rs"]
mod failure;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    config::fuzz::run(input);
});
