//! What an installed model consists of.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::durable::write_atomically;
use super::{
    CatalogFile, Export, Signature, StoreError, check_file_name, check_model_name, check_revision,
    parse_unambiguous,
};

/// Version of the manifest's schema this program writes. It reads that one and all
/// before it, from the first on.
///
/// A field that may be absent makes no new schema; one that older versions would
/// misread does. Then this number grows, and [`UPGRADES`] by one function.
pub const SCHEMA: u32 = 1;

/// The first schema there was.
const FIRST_SCHEMA: u32 = 1;

/// Makes a manifest of one schema out of one of the schema before, or says why not.
/// It need not touch the number.
type Upgrade = fn(Value) -> Result<Value, String>;

/// From [`FIRST_SCHEMA`] to the second, and so on up to [`SCHEMA`]. A manifest is
/// upgraded in memory whenever it is read, and on disk when it is next written.
const UPGRADES: [Upgrade; (SCHEMA - FIRST_SCHEMA) as usize] = [];

/// Largest manifest that is read: a bound against nonsense, not a real limit.
const MANIFEST_MAX: u64 = 8 << 20;

/// One file: its path below the revision's folder, size in bytes, SHA-256 in
/// lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path below the revision's folder, with `/`: `config.json`, `cpu/model.onnx`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// `manifest.json` of an installed model, schema 1.
///
/// ```json
/// {
///   "schema": 1,
///   "name": "20b",
///   "revision": "6cee5e81ee83917806bbde320786a8fb61efebee",
///   "source": "https://huggingface.co/openai/gpt-oss-20b",
///   "catalog": "built-in",
///   "license": "Apache-2.0",
///   "tool_version": "0.1.0",
///   "installed_at": "2025-08-05T17:00:00Z",
///   "verified_at": "2025-08-05T17:00:00Z",
///   "files": [{"path": "config.json", "size": 1806, "sha256": "3a2a…"}],
///   "targets": {"cpu": [{"path": "cpu/model.onnx", "size": 90210, "sha256": "…"}]}
/// }
/// ```
///
/// Fields that came later are optional: an older program reads the rest, and a
/// newer one does without them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The model's name in the store.
    pub name: String,
    /// The checkpoint's revision: a commit, or `sha256-…` over its files.
    pub revision: String,
    /// Where the bytes came from, for people.
    pub source: String,
    /// The catalog that pinned the digests: `built-in`, a file's path, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<String>,
    /// That catalog's bytes, and who vouched for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog_file: Option<CatalogFile>,
    /// SPDX expression of the checkpoint's licence, where known.
    #[serde(default)]
    pub license: Option<String>,
    /// Who vouched for its bundle's manifest, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// Version of the program that exported the targets.
    pub tool_version: String,
    /// When the model was installed, RFC 3339.
    #[serde(default)]
    pub installed_at: String,
    /// When every file's bytes were last proven, RFC 3339.
    pub verified_at: String,
    /// The checkpoint's own files.
    pub files: Vec<FileEntry>,
    /// Files of each exported target, paths beginning with the target's name.
    #[serde(default)]
    pub targets: BTreeMap<String, Vec<FileEntry>>,
    /// How each target was made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exports: BTreeMap<String, Export>,
}

impl Manifest {
    /// Name of the manifest's file.
    pub const FILE: &'static str = "manifest.json";

    /// Reads and checks the manifest of a revision's folder.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::BadManifest`] for one that is broken,
    /// of another schema, or names files outside its folder.
    pub fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(Self::FILE);
        let mut text = Vec::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MANIFEST_MAX).read_to_end(&mut text))
            .map_err(StoreError::io("read", &path))?;
        Self::parse(&text).map_err(|why| StoreError::BadManifest { path, why })
    }

    /// Reads and checks a manifest's text.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value = parse_unambiguous(text).map_err(|e| e.to_string())?;
        let value = upgrade(value, FIRST_SCHEMA, &UPGRADES)?;
        let manifest: Self = serde_json::from_value(value).map_err(|e| e.to_string())?;
        manifest.check().map_err(|e| e.to_string())?;
        Ok(manifest)
    }

    /// Writes the manifest into a folder, as a whole.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(Self::FILE);
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| StoreError::BadManifest {
            path: path.clone(),
            why: e.to_string(),
        })?;
        text.push(b'\n');
        write_atomically(&path, &text)
    }

    /// Checks names and paths.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        check_model_name(&self.name)?;
        check_revision(&self.revision)?;
        for entry in &self.files {
            check_file_name(&entry.path)?;
        }
        for (target, entries) in &self.targets {
            check_file_name(target)?;
            for entry in entries {
                check_target_path(target, &entry.path)?;
            }
        }
        let mut seen = HashSet::new();
        match self.all_files().find(|e| !seen.insert(e.path.as_str())) {
            Some(entry) => Err(StoreError::BadName {
                what: "file name",
                name: entry.path.clone(),
                why: "it is listed twice",
            }),
            None => Ok(()),
        }
    }

    /// Every file, the targets' included.
    pub fn all_files(&self) -> impl Iterator<Item = &FileEntry> {
        self.files.iter().chain(self.targets.values().flatten())
    }

    /// Bytes of every file, the targets' included.
    pub fn total_size(&self) -> u64 {
        self.all_files().map(|e| e.size).sum()
    }

    /// `NAME@REVISION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }
}

/// Brings a manifest to the newest schema, which is `first` and a step for each of
/// `upgrades`.
fn upgrade(mut value: Value, first: u32, upgrades: &[Upgrade]) -> Result<Value, String> {
    let newest = first + upgrades.len() as u32;
    let schema = value.get("schema").and_then(Value::as_u64);
    let schema = schema.ok_or("it has no number of a schema")?;
    let done = schema
        .checked_sub(first.into())
        .and_then(|n| usize::try_from(n).ok());
    let Some(steps) = done.and_then(|done| upgrades.get(done..)) else {
        return Err(format!(
            "it has schema {schema} and this version of gptoss reads up to schema {newest}; \
             upgrade gptoss, or remove the model and pull it again"
        ));
    };
    for step in steps {
        value = step(value)?;
    }
    value["schema"] = newest.into();
    Ok(value)
}

/// Accepts `TARGET/FILE`.
fn check_target_path(target: &str, path: &str) -> Result<(), StoreError> {
    let mut parts = Path::new(path).components();
    let inside = parts.next() == Some(Component::Normal(target.as_ref()))
        && parts.next().is_some()
        && parts.next().is_none();
    let file = path.split_once('/').map_or("", |(_, file)| file);
    if !inside {
        return Err(StoreError::BadName {
            what: "file name",
            name: path.escape_default().take(120).collect(),
            why: "it is not inside its target's folder",
        });
    }
    check_file_name(file)
}

/// The folders of every file of a manifest, its own included.
pub(super) fn folders(manifest: &Manifest, dir: &Path) -> Vec<PathBuf> {
    let targets = manifest.targets.keys().map(|target| dir.join(target));
    targets.chain([dir.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(path: &str) -> FileEntry {
        FileEntry {
            path: path.into(),
            size: 1,
            sha256: "0".repeat(64),
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            schema: SCHEMA,
            name: "m".into(),
            revision: "r1".into(),
            source: "test".into(),
            catalog: None,
            catalog_file: None,
            license: None,
            signature: None,
            tool_version: "0.1.0".into(),
            installed_at: "2025-08-05T17:00:00Z".into(),
            verified_at: "2025-08-05T17:00:00Z".into(),
            files: vec![entry("config.json")],
            targets: BTreeMap::from([("cpu".into(), vec![entry("cpu/model.onnx")])]),
            exports: BTreeMap::new(),
        }
    }

    #[test]
    fn it_reads_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        manifest().write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), manifest());
    }

    /// Without the fields that came later, and with ones that are still to come.
    #[test]
    fn older_and_newer_manifests_of_the_schema_are_read() {
        let mut text = serde_json::to_value(manifest()).unwrap();
        for later in ["catalog_file", "exports"] {
            assert!(text.get(later).is_none(), "nothing is written for nothing");
        }
        text["of_a_later_version"] = "x".into();
        assert_eq!(
            Manifest::parse(text.to_string().as_bytes()).unwrap(),
            manifest()
        );
    }

    /// Of two values nobody says which one counts.
    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let sound = serde_json::to_string(&manifest()).unwrap();
        let digest = "0".repeat(64);
        let again = [
            ("{\"schema\"", "{\"name\":\"other\",\"schema\""),
            ("{\"cpu\"", "{\"cpu\":[],\"cpu\""),
            ("{\"path\"", &format!("{{\"sha256\":\"{digest}\",\"path\"")),
        ];
        for (once, twice) in again {
            let text = sound.replacen(once, twice, 1);
            assert_ne!(text, sound);
            let why = Manifest::parse(text.as_bytes()).unwrap_err();
            assert!(why.contains("is there twice"), "{why}");
        }
    }

    #[test]
    fn a_later_schema_is_named_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let later = SCHEMA + 1;
        let text = format!(r#"{{"schema":{later},"later":1}}"#);
        fs::write(dir.path().join(Manifest::FILE), text).unwrap();
        let error = Manifest::read(dir.path()).unwrap_err().to_string();
        for word in [format!("schema {later}"), format!("up to schema {SCHEMA}")] {
            assert!(error.contains(&word), "{error}");
        }
        for text in [
            r#"{"schema":0}"#,
            r#"{"schema":-1}"#,
            r#"{"schema":"1"}"#,
            r#"{"schema":18446744073709551615}"#,
            "{}",
            "[]",
            "1",
        ] {
            let error = Manifest::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains("schema"), "{text}: {error}");
        }
    }

    /// Two schemas after the first, as later versions may have them: the way through
    /// [`upgrade`], not a schema there ever was.
    #[test]
    fn earlier_schemas_are_upgraded_step_by_step() {
        let upgrades: [Upgrade; 2] = [
            |mut value| {
                let old = value["old"].take();
                value["new"] = old;
                Ok(value)
            },
            |mut value| match value["new"].as_u64() {
                Some(n) => {
                    value["new"] = (n * 10).into();
                    Ok(value)
                }
                None => Err("no number".into()),
            },
        ];
        let read = |value: Value| upgrade(value, 1, &upgrades);
        let third = read(json!({"schema": 1, "old": 4, "kept": true})).unwrap();
        assert_eq!(
            third,
            json!({"schema": 3, "old": null, "kept": true, "new": 40})
        );
        let third = read(json!({"schema": 2, "new": 4})).unwrap();
        assert_eq!(third, json!({"schema": 3, "new": 40}));
        let third = json!({"schema": 3, "new": 4});
        assert_eq!(read(third.clone()), Ok(third));
        assert_eq!(read(json!({"schema": 2})), Err("no number".into()));
        assert!(read(json!({"schema": 4})).is_err());
    }

    /// What is upgraded in memory is upgraded on disk with the next change.
    #[test]
    fn what_is_written_has_the_newest_schema() {
        let dir = tempfile::tempdir().unwrap();
        manifest().write(dir.path()).unwrap();
        let text = fs::read(dir.path().join(Manifest::FILE)).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["schema"], SCHEMA);
    }

    #[test]
    fn paths_outside_are_refused() {
        let cases: [fn(&mut Manifest); 6] = [
            |m| m.files.push(entry("../x")),
            |m| m.files.push(entry("/etc/x")),
            |m| m.files.push(entry("config.json")),
            |m| m.files.push(entry("cpu/x")),
            |m| {
                m.targets
                    .entry("cpu".into())
                    .or_default()
                    .push(entry("cpu/../../x"))
            },
            |m| {
                m.targets
                    .entry("cpu".into())
                    .or_default()
                    .push(entry("portable/x"))
            },
        ];
        for (i, spoil) in cases.iter().enumerate() {
            let mut m = manifest();
            spoil(&mut m);
            assert!(m.check().is_err(), "case {i}");
        }
    }
}
