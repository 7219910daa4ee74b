#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fusewire_fuzz::targets::of("yaml")(data));
