//! Any bytes as `manifest.json` of an installed model.
#![no_main]

use gptoss::model::{Manifest, check_file_name, check_model_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = Manifest::parse(bytes) else {
        return;
    };
    check_model_name(&manifest.name).expect("checked");
    for entry in manifest.all_files() {
        let last = entry.path.rsplit('/').next().unwrap_or_default();
        check_file_name(last).expect("checked");
        assert!(entry.path.split('/').count() <= 2);
    }
    let _ = manifest.total_size();
});
