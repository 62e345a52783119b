#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| moso_tests::fuzz::run("token", data));
