#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    syncline_producer::share::filter::fuzz::run(input);
});
