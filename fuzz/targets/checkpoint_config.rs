//! Any bytes as `config.json` and `generation_config.json`, separated by a zero byte.
#![no_main]

use gptoss_onnx::checkpoint::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (config, generation) = match bytes.iter().position(|b| *b == 0) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let _ = gptoss::model::Dimensions::from_config(config).map(|d| d.export_bytes("cpu"));
    let _ = Config::parse(config, generation);
});
