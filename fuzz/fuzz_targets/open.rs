#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    syncline_shared::seal::fuzz::run(input);
});
