//! Harmony against its oracle, the official library.
//!
//! `conversations.json` is a table of conversations in this crate's own form.
//! For each, the ids of our prompt equal those of openai-harmony. An entry may
//! name `same_as`, the same conversation spelt out, for what only we fill in,
//! or `differs`, the reason for a deliberate difference, with the prompt's
//! `text` behind the system message (control tokens as `«name»`).
//!
//! The library reads its vocabulary from a folder that only an environment
//! variable names, so these tests run in a child process; see [`oracle`].

mod oracle;
mod small;
mod vocabulary;

use std::process::Command;

/// Runs the ignored tests of [`oracle`] where their vocabulary is.
#[test]
fn agrees_with_the_official_library() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    vocabulary::write_tiktoken_file(folder.path());
    let output = Command::new(std::env::current_exe().expect("this test's own path"))
        .args(["--ignored", "oracle::", "--test-threads=1"])
        .env("TIKTOKEN_ENCODINGS_BASE", folder.path())
        .output()
        .expect("this test runs again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ok. 5 passed"), "not all tests ran:\n{text}");
}

/// The rebuilt vocabulary is the published one. Run by hand:
/// `GPTOSS_TOKENIZER=tokenizer.json cargo test --test harmony -- --ignored published`,
/// with the file of the published checkpoints (SHA-256 0614fe83…).
#[test]
#[ignore = "needs the published tokenizer.json"]
fn the_published_file_says_the_same() {
    let path = std::env::var_os("GPTOSS_TOKENIZER").expect("GPTOSS_TOKENIZER names the file");
    let published = std::fs::read(path).expect("a readable file");
    let read = |bytes: &[u8]| serde_json::from_slice(bytes).expect("JSON");
    let theirs: serde_json::Value = read(&published);
    let ours: serde_json::Value = read(vocabulary::tokenizer_json().as_bytes());
    for part in [
        "/added_tokens",
        "/pre_tokenizer",
        "/model/vocab",
        "/model/merges",
    ] {
        let (ours, theirs) = (ours.pointer(part), theirs.pointer(part));
        assert!(ours.is_some() && ours == theirs, "{part} differs");
    }
}
