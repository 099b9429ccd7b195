//! Any bytes as a bundle's tar file. Right checksums are put into what looks like
//! headers, so that the damage reaches what is behind them.
#![no_main]

use std::path::PathBuf;

use gptoss::bundle::Bundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let mut header = tar::Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    let path = PathBuf::from(format!("/dev/shm/gptoss-fuzz-{}.tar", std::process::id()));
    std::fs::write(&path, &bytes).expect("a file in memory");
    if let Ok(bundle) = Bundle::open(&path) {
        for model in bundle.models() {
            assert!(model.total_size() <= bytes.len() as u64);
            let _ = model.signers();
        }
    }
    let _ = std::fs::remove_file(&path);
});
