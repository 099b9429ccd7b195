//! Any bytes as the documents of a bundle: its index, its manifest, its config and
//! its signature, separated by zero bytes. `@M`, `@C`, `@S` and `@F` in them become
//! the descriptors' digests and sizes, so that the parser's way leads on.
#![no_main]

use std::path::PathBuf;

use gptoss::bundle::Bundle;
use gptoss::model::to_hex;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

fn descriptor(bytes: &[u8]) -> String {
    let hex = to_hex(&Sha256::digest(bytes));
    format!("\"digest\":\"sha256:{hex}\",\"size\":{}", bytes.len())
}

fn put(text: &[u8], marks: &[(&[u8; 2], String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match marks.iter().find(|(mark, _)| text[at..].starts_with(&mark[..])) {
            Some((_, value)) => {
                out.extend_from_slice(value.as_bytes());
                at += 2;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|b| *b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (index, manifest, config, signature) = (next(), next(), next(), next());
    let file = b"{}";
    let inner = [
        (b"@C", descriptor(config)),
        (b"@S", descriptor(signature)),
        (b"@F", descriptor(file)),
    ];
    let manifest = put(manifest, &inner);
    let index = put(index, &[(b"@M", descriptor(&manifest))]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).expect("in memory");
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json", &index);
    let mut seen = Vec::new();
    for blob in [&manifest[..], config, signature, file] {
        let hex = to_hex(&Sha256::digest(blob));
        if !seen.contains(&hex) {
            add(&format!("blobs/sha256/{hex}"), blob);
            seen.push(hex);
        }
    }
    let path = PathBuf::from(format!("/dev/shm/gptoss-fuzz-{}.tar", std::process::id()));
    std::fs::write(&path, builder.into_inner().expect("in memory")).expect("in memory");
    if let Ok(bundle) = Bundle::open(&path) {
        for model in bundle.models() {
            gptoss::model::check_model_name(&model.name).expect("checked");
            for file in &model.files {
                gptoss::model::check_file_name(&file.path).expect("checked");
            }
            let _ = model.signers();
        }
    }
    let _ = std::fs::remove_file(&path);
});
