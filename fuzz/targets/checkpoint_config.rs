//! Any bytes as `config.json` and `generation_config.json`, separated by a zero byte.
#![no_main]

use gptoss_onnx::checkpoint::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (config, generation) = match bytes.iter().position(|b| *b == 0) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    if let Some(dimensions) = gptoss::model::Dimensions::from_config(config) {
        let _ = dimensions.export_bytes("cpu", u64::MAX);
        let options = gptoss::runtime::Options::default();
        let _ = gptoss::runtime::MemoryPlan::of_dimensions(&dimensions, &options);
    }
    let _ = Config::parse(config, generation);
});
