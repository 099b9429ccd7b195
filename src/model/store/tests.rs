use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::{Catalog, FileEntry, FileState, Report, sha256_file, verify_with};

/// The report on a model, by the built-in catalog.
fn proven(model: &Installed, threads: usize) -> Report {
    verify_with(model, &[Catalog::builtin()], threads, &|_, _| ())
}

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Writes files below `dir` and gives their entries.
fn write(dir: &Path, files: &[(&str, &str)]) -> Vec<FileEntry> {
    let put = |(path, text): &(&str, &str)| {
        let full = dir.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, text).unwrap();
        let (size, sha256) = sha256_file(&full, |_| ()).unwrap();
        FileEntry {
            path: (*path).into(),
            size,
            sha256,
        }
    };
    files.iter().map(put).collect()
}

fn manifest(name: &str, revision: &str, files: Vec<FileEntry>) -> Manifest {
    Manifest {
        schema: crate::model::SCHEMA,
        name: name.into(),
        revision: revision.into(),
        source: "test".into(),
        catalog: None,
        catalog_file: None,
        license: None,
        signature: None,
        tool_version: "0".into(),
        installed_at: format!("2025-01-01T00:00:00Z {revision}"),
        verified_at: "2025-01-01T00:00:00Z".into(),
        files,
        targets: BTreeMap::new(),
        exports: BTreeMap::new(),
    }
}

/// Installs a model of two files and one target.
fn install(store: &Store, name: &str, revision: &str) -> Installed {
    let staging = store.stage(name, revision).unwrap();
    let files = write(
        &staging.dir,
        &[("config.json", "{}"), ("a.safetensors", revision)],
    );
    let mut manifest = manifest(name, revision, files);
    manifest.targets.insert(
        "cpu".into(),
        write(&staging.dir, &[("cpu/model.onnx", "first")]),
    );
    staging.commit(manifest).unwrap()
}

/// Every path and its bytes below a folder.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_store_that_is_not_there_is_empty_and_is_not_created() {
    let (_dir, store) = store();
    assert!(store.models().is_empty());
    let error = store.find("20b").unwrap_err();
    assert!(matches!(error, StoreError::NotInstalled { .. }));
    assert!(error.to_string().contains("gptoss-ctl pull 20b"), "{error}");
    assert!(!store.root().exists());
}

#[test]
fn a_file_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(&file), Err(StoreError::Io { .. })));
}

#[test]
fn what_is_committed_is_found_with_fixed_modes() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r1");
    let found = store.find("m").unwrap();
    assert_eq!(found.manifest, model.manifest);
    assert_eq!(found.dir, store.root().join("models/m/r1"));
    for path in tree(&found.dir).keys() {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    }
    let cpu = found.dir.join("cpu").metadata().unwrap();
    assert_eq!(cpu.permissions().mode() & 0o777, 0o755);
    assert!(
        fs::read_dir(store.root().join(".staging"))
            .unwrap()
            .next()
            .is_none(),
        "nothing is left in staging"
    );
}

#[test]
fn revisions_are_found_by_their_beginning() {
    let (_dir, store) = store();
    for revision in ["abc1", "abc2", "b"] {
        install(&store, "m", revision);
    }
    assert_eq!(store.find("m").unwrap().revision, "b", "the newest");
    assert_eq!(store.find("m@abc1").unwrap().revision, "abc1");
    assert_eq!(store.find("m@b").unwrap().revision, "b");
    assert!(matches!(
        store.find("m@abc"),
        Err(StoreError::Ambiguous { .. })
    ));
    assert!(matches!(
        store.find("m@x"),
        Err(StoreError::NotInstalled { .. })
    ));
    assert!(matches!(
        store.find("../m"),
        Err(StoreError::BadName { .. })
    ));
}

#[test]
fn an_incomplete_folder_is_not_installed() {
    let spoilers: [fn(&Path); 4] = [
        |d| fs::remove_file(d.join("a.safetensors")).unwrap(),
        |d| fs::write(d.join("a.safetensors"), "other size").unwrap(),
        |d| {
            fs::remove_file(d.join("config.json")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", d.join("config.json")).unwrap();
        },
        |d| {
            fs::remove_file(d.join("config.json")).unwrap();
            fs::create_dir(d.join("config.json")).unwrap();
        },
    ];
    for (i, spoil) in spoilers.iter().enumerate() {
        let (_dir, store) = store();
        let staging = store.stage("m", "r").unwrap();
        let files = write(
            &staging.dir,
            &[("config.json", "{}"), ("a.safetensors", "x")],
        );
        spoil(&staging.dir);
        let error = staging.commit(manifest("m", "r", files)).unwrap_err();
        assert!(
            matches!(error, StoreError::Incomplete { .. }),
            "{i}: {error}"
        );
        assert!(store.scan().is_empty());
    }
}

#[test]
fn what_the_manifest_does_not_list_is_not_installed() {
    let (_dir, store) = store();
    let staging = store.stage("m", "r").unwrap();
    let files = write(&staging.dir, &[("config.json", "{}")]);
    write(
        &staging.dir,
        &[
            ("b.safetensors.part", "x"),
            ("cpu/model.onnx", "x"),
            ("stray", "x"),
        ],
    );
    let model = staging.commit(manifest("m", "r", files)).unwrap();
    let names: Vec<_> = tree(&model.dir).into_keys().collect();
    assert_eq!(
        names,
        [
            model.dir.join("config.json"),
            model.dir.join("manifest.json")
        ]
    );
}

#[test]
fn two_at_once_on_one_model_are_refused_and_others_go_on() {
    let (_dir, store) = store();
    let first = store.stage("m", "r").unwrap();
    assert!(matches!(
        store.stage("m", "r"),
        Err(StoreError::Busy { .. })
    ));
    let other = store.stage("m", "s").unwrap();
    drop(first);
    let again = store.stage("m", "r").unwrap();
    assert!(again.dir.exists() && other.dir.exists());
}

#[test]
fn a_second_install_of_a_revision_leaves_the_first() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r");
    let before = tree(&model.dir);
    let staging = store.stage("m", "r").unwrap();
    let files = write(&staging.dir, &[("config.json", "other")]);
    let error = staging.commit(manifest("m", "r", files)).unwrap_err();
    assert!(matches!(error, StoreError::AlreadyInstalled { .. }));
    assert_eq!(tree(&model.dir), before);
}

#[test]
fn a_kept_folder_is_there_again() {
    let (_dir, store) = store();
    let staging = store.stage("m", "r").unwrap();
    write(&staging.dir, &[("a.safetensors.part", "half")]);
    drop(staging);
    assert_eq!(store.staged(), [("m".to_owned(), "r".to_owned())]);
    let again = store.stage("m", "r").unwrap();
    assert_eq!(
        fs::read(again.dir.join("a.safetensors.part")).unwrap(),
        b"half"
    );
    again.clear().unwrap();
    assert!(tree(&again.dir).is_empty() && again.dir.exists());
    again.discard().unwrap();
    assert!(store.staged().is_empty());
}

/// An export staged in the place of the installed one.
fn staged_replacement(store: &Store, old: &Installed) -> (Staging, Manifest) {
    let staging = store.stage(&old.name, &old.revision).unwrap();
    let mut new = old.manifest.clone();
    new.targets.insert(
        "cpu".into(),
        write(
            &staging.dir,
            &[("cpu/model.onnx", "second"), ("cpu/dense.bin", "d")],
        ),
    );
    (staging, new)
}

#[test]
fn a_replaced_target_comes_with_everything_else() {
    let (_dir, store) = store();
    let old = install(&store, "m", "r");
    let (staging, new) = staged_replacement(&store, &old);
    let mapped = fs::File::open(old.dir.join("a.safetensors")).unwrap();
    staging.replace(&old, new.clone()).unwrap();
    let now = store.find("m").unwrap();
    assert_eq!(now.manifest, new);
    assert!(proven(&now, 2).is_sound());
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        mapped.metadata().unwrap().ino(),
        now.dir.join("a.safetensors").metadata().unwrap().ino(),
        "a daemon's mapped file is the installed one"
    );
    assert!(store.staged().is_empty());
}

#[test]
fn replacing_in_steps_ends_in_the_same_state() {
    let (_dir, store) = store();
    let old = install(&store, "m", "r");
    let (staging, new) = staged_replacement(&store, &old);
    staging.replace_in_steps(&old, new.clone()).unwrap();
    let now = store.find("m").unwrap();
    assert_eq!(now.manifest, new);
    assert!(proven(&now, 1).is_sound());
    assert_eq!(fs::read_dir(now.dir.join("cpu")).unwrap().count(), 2);
}

#[test]
fn removal_takes_the_staged_part_as_well() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r");
    drop(store.stage("m", "r").unwrap());
    store.remove(&model).unwrap();
    assert!(store.scan().is_empty() && store.staged().is_empty());
    assert!(!store.root().join("models/m").exists());
    assert!(matches!(
        store.remove(&model),
        Err(StoreError::NotInstalled { .. })
    ));
}

#[test]
fn trash_of_an_interrupted_removal_is_emptied() {
    let (_dir, store) = store();
    drop(store.stage("m", "r").unwrap());
    let trash = store.root().join(".staging/.trash-1-0");
    write(&trash, &[("a", "x")]);
    drop(store.stage("m", "s").unwrap());
    assert!(!trash.exists());
}

#[test]
fn a_broken_manifest_is_reported_and_removable() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r");
    fs::write(model.dir.join("manifest.json"), "{").unwrap();
    assert!(store.models().is_empty());
    assert!(matches!(
        store.find("m"),
        Err(StoreError::BadManifest { .. })
    ));
    store.remove_revision("m", "r").unwrap();
    assert!(store.scan().is_empty());
}

#[test]
fn a_manifest_in_anothers_folder_is_refused() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r");
    fs::rename(&model.dir, store.root().join("models/m/s")).unwrap();
    assert!(matches!(
        store.find("m"),
        Err(StoreError::BadManifest { .. })
    ));
}

#[test]
fn verify_names_every_wrong_file() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r9");
    assert!(proven(&model, 3).is_sound());
    fs::write(model.dir.join("a.safetensors"), "xx").unwrap();
    fs::write(model.dir.join("config.json"), "{").unwrap();
    fs::remove_file(model.dir.join("cpu/model.onnx")).unwrap();
    let report = proven(&model, 3);
    let states: Vec<_> = report.files.iter().map(|f| f.state.clone()).collect();
    assert_eq!(states[0], FileState::WrongSize { found: 1 });
    assert!(matches!(states[1], FileState::WrongDigest { .. }));
    assert_eq!(states[2], FileState::Missing);
}

#[test]
fn only_the_manifest_that_was_proven_is_marked() {
    let (_dir, store) = store();
    let proven = install(&store, "m", "r");
    store
        .mark_verified(&proven, "2026-01-01T00:00:00Z")
        .unwrap();
    let marked = store.find("m").unwrap();
    assert_eq!(marked.manifest.verified_at, "2026-01-01T00:00:00Z");
    // `proven` is not what is installed any more.
    store
        .mark_verified(&proven, "2027-01-01T00:00:00Z")
        .unwrap();
    assert_eq!(store.find("m").unwrap().manifest, marked.manifest);
}

#[test]
fn a_link_in_the_place_of_a_file_is_wrong() {
    let (_dir, store) = store();
    let model = install(&store, "m", "r");
    let file = model.dir.join("a.safetensors");
    let elsewhere = store.root().join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    let report = proven(&model, 1);
    assert!(matches!(
        report.files[1].state,
        FileState::Unreadable { .. }
    ));
}

#[test]
fn a_manifest_cannot_overrule_the_builtin_catalog() {
    let (_dir, store) = store();
    let catalog = crate::model::Catalog::builtin();
    let revision = catalog.get("20b").unwrap().revision.clone();
    let staging = store.stage("20b", &revision).unwrap();
    let files = write(&staging.dir, &[("config.json", "{}")]);
    let mut manifest = manifest("20b", &revision, files);
    manifest.catalog = Some(crate::model::Catalog::BUILTIN.into());
    let model = staging.commit(manifest).unwrap();
    let report = proven(&model, 1);
    assert_eq!(report.wrong().count(), 12);
    assert_eq!(report.files[0].state, FileState::NotPublished);
}

/// The default store in an environment of these variables.
fn root_with(set: &[(&str, &str)], is_root: bool) -> PathBuf {
    super::default_root(
        |name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()),
        is_root,
    )
}

#[test]
fn the_default_store_of_each_kind_of_user() {
    let home = ("HOME", "/home/u");
    for (set, is_root, expected) in [
        (vec![home], true, "/var/lib/gptoss"),
        (vec![home], false, "/home/u/.local/share/gptoss"),
        (vec![home, ("XDG_DATA_HOME", "/d")], false, "/d/gptoss"),
        (vec![home, ("STATE_DIRECTORY", "/s:/t")], false, "/s"),
        (vec![home, ("GPTOSS_STORE", "/g")], true, "/g"),
        (vec![home, ("GPTOSS_SYSTEM_STORE", "/y")], true, "/y"),
        (vec![("GPTOSS_SYSTEM_STORE", "/y")], false, "/y"),
    ] {
        assert_eq!(root_with(&set, is_root), Path::new(expected), "{set:?}");
    }
}

#[test]
fn a_note_is_found_until_the_model_is_installed() {
    let (_dir, store) = store();
    let staging = store.stage("m", "r").unwrap();
    staging.keep_note(b"what for").unwrap();
    drop(staging);
    assert_eq!(store.notes(100), [b"what for"]);
    assert_eq!(store.notes(4), [b"what"], "it is bounded");
    let staging = store.stage("m", "r").unwrap();
    let files = write(&staging.dir, &[("config.json", "{}")]);
    let model = staging.commit(manifest("m", "r", files)).unwrap();
    assert!(store.notes(100).is_empty());
    assert!(!model.dir.join(".note.json").exists());
}

/// Whoever owns a store that root works in may put a link there.
#[test]
fn nothing_is_removed_where_a_link_leads() {
    let (dir, store) = store();
    let victim = dir.path().join("victim");
    fs::create_dir_all(victim.join("folder")).unwrap();
    fs::write(victim.join("folder/file"), "kept").unwrap();
    fs::write(victim.join("file"), "kept").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o700)).unwrap();
    let swapped = |name: &str| {
        let staging = store.stage(name, "1").unwrap();
        fs::rename(&staging.dir, dir.path().join(name)).unwrap();
        std::os::unix::fs::symlink(&victim, &staging.dir).unwrap();
        staging
    };
    let place = store.root().join("runtime/a-1");
    let errors = [
        swapped("a").commit_folder(&place, &[]).unwrap_err(),
        swapped("b").commit_files(&place, &[]).unwrap_err(),
        swapped("c")
            .commit(manifest("c", "1", Vec::new()))
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    }
    assert!(!place.exists());
    let found = tree(&victim);
    assert_eq!(found.len(), 2, "{:?}", found.keys());
    assert!(found.values().all(|bytes| bytes == b"kept"));
    let mode = victim.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn folders_that_are_not_listed_are_removed_whole() {
    let (_dir, store) = store();
    let staging = store.stage("a", "1").unwrap();
    let files = write(&staging.dir, &[("lib.so", "code")]);
    write(&staging.dir, &[("other/deep/file", "x"), ("file", "x")]);
    std::os::unix::fs::symlink("/", staging.dir.join("link")).unwrap();
    let place = store.root().join("runtime/a-1");
    staging.commit_folder(&place, &files).unwrap();
    assert_eq!(tree(&place).len(), 1);
    assert_eq!(fs::read_dir(store.staging_dir()).unwrap().count(), 0);
}
