//! Libraries that will not do: absent, no library, too old. Each in a process
//! of its own, since a process loads ONNX Runtime once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `gptoss-ctl runtime` with this library.
fn runtime_with(library: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .arg("runtime")
        .env("LC_ALL", "C")
        .env("ORT_DYLIB_PATH", library)
        .output()
        .unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Compiles `source` to a shared library in `folder`.
fn compiled(folder: &Path, name: &str, source: &str) -> PathBuf {
    let code = folder.join(name).with_extension("c");
    let library = folder.join(name).with_extension("so");
    std::fs::write(&code, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &code])
        .status()
        .expect("cc is a stated prerequisite of the tests");
    assert!(status.success());
    library
}

#[test]
fn absent() {
    let output = runtime_with(Path::new("/nonexistent/libonnxruntime.so"));
    assert_eq!(output.status.code(), Some(3));
    let message = message(&output);
    assert!(
        message.contains("/nonexistent/libonnxruntime.so"),
        "{message}"
    );
    assert!(message.contains("make runtime"), "{message}");
}

#[test]
fn not_a_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    std::fs::write(&path, "this is a text").unwrap();
    let output = runtime_with(&path);
    assert_eq!(output.status.code(), Some(1));
    let message = message(&output);
    assert!(
        message.contains("is not an ONNX Runtime library"),
        "{message}"
    );
}

#[test]
fn another_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = compiled(folder.path(), "other", "int answer(void) { return 42; }\n");
    let output = runtime_with(&path);
    assert_eq!(output.status.code(), Some(1));
    let message = message(&output);
    assert!(
        message.contains("does not export OrtGetApiBase"),
        "{message}"
    );
}

#[test]
fn too_old() {
    let folder = tempfile::tempdir().unwrap();
    let source = r#"
        static const void *api(unsigned version) { (void)version; return 0; }
        static const char *version(void) { return "1.21.0"; }
        static const struct { const void *(*api)(unsigned); const char *(*version)(void); }
            base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }
    "#;
    let path = compiled(folder.path(), "old", source);
    let output = runtime_with(&path);
    assert_eq!(output.status.code(), Some(1));
    let message = message(&output);
    assert!(
        message.contains("1.21.0") && message.contains("1.31"),
        "{message}"
    );
}

#[test]
fn the_right_one_says_what_it_is() {
    let library = super::harness::library();
    let output = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
        .args(["runtime", "--json"])
        .env("ORT_DYLIB_PATH", &library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", message(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["library"], library.to_str().unwrap());
    assert!(told["version"].as_str().unwrap().starts_with("1."));
    let compiled = told["compiled_providers"].as_array().unwrap();
    assert!(compiled.iter().any(|name| name == "CPUExecutionProvider"));
    assert!(told["provider"].is_string());
    for rejected in told["rejected"].as_array().unwrap() {
        assert_ne!(rejected["reason"], "");
    }
}

#[test]
fn selftest_runs_nano_on_each_provider() {
    let selftest = |library: &Path| {
        Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"))
            .args(["selftest", "--json"])
            .env("ORT_DYLIB_PATH", library)
            .output()
            .unwrap()
    };
    let output = selftest(&super::harness::library());
    assert!(output.status.success(), "{}", message(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = told["providers"].as_array().unwrap();
    let passed =
        |name: &str| rows.iter().find(|r| r["provider"] == name).unwrap()["passed"].clone();
    assert_eq!(passed("cpu"), true, "{told}");
    for row in rows.iter().filter(|r| r["passed"] == false) {
        assert_ne!(row["reason"], "", "{told}");
    }
    let output = selftest(Path::new("/nonexistent/libonnxruntime.so"));
    assert_eq!(output.status.code(), Some(3));
}
