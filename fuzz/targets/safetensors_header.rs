//! Any bytes as the shard of a checkpoint whose configuration is good.
#![no_main]

use gptoss_onnx::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

const CONFIG: &[u8] = include_bytes!("../../tests/parity/grid64/config.json");

fuzz_target!(|bytes: &[u8]| {
    let bytes: *mut [u8] = Box::into_raw(bytes.to_vec().into_boxed_slice());
    // SAFETY: just made, and given back below, after the checkpoint is gone.
    let shard: &'static [u8] = unsafe { &*bytes };
    if let Ok(checkpoint) =
        Checkpoint::from_static(&[("config.json", CONFIG), ("model.safetensors", shard)])
    {
        for name in ["lm_head.weight", "model.layers.0.mlp.experts.gate_up_proj_blocks"] {
            let _ = checkpoint.tensor(name).map(|t| t.bytes.iter().map(|b| u64::from(*b)).sum::<u64>());
        }
    }
    // SAFETY: nothing borrows it any more.
    drop(unsafe { Box::from_raw(bytes) });
});
