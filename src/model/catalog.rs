//! Which bytes a model's name stands for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    Dimensions, FileEntry, Manifest, StoreError, check_file_name, check_model_name, check_revision,
    sha256_bytes,
};

/// Largest catalog that is read: a bound against nonsense, not a real limit.
const CATALOG_MAX: u64 = 8 << 20;

/// Models by name, each pinned to the bytes of every file.
///
/// ```toml
/// [models.20b]
/// repo = "openai/gpt-oss-20b"
/// revision = "6cee5e81ee83917806bbde320786a8fb61efebee"
/// license = "Apache-2.0"
/// files = [
///   { path = "config.json", size = 1806, sha256 = "3a2a26de…" },
/// ]
/// dimensions = { hidden_size = 2880, … }    # of config.json; optional
/// ```
#[derive(Debug, Clone)]
pub struct Catalog {
    origin: String,
    sha256: String,
    models: BTreeMap<String, CatalogModel>,
}

/// One model of a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CatalogModel {
    /// `OWNER/NAME` on the hub.
    pub repo: String,
    /// Revision on the hub: a commit in the built-in catalog.
    pub revision: String,
    /// SPDX expression of the licence.
    #[serde(default)]
    pub license: Option<String>,
    /// Every file, pinned.
    pub files: Vec<FileEntry>,
    /// Of the checkpoint's config.json, for plans before it is there.
    #[serde(default)]
    pub dimensions: Option<Dimensions>,
}

impl CatalogModel {
    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
}

/// How an installed model's files relate to what was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Origin of the catalog that says so.
    pub catalog: String,
    /// Name in that catalog.
    pub name: String,
    /// `OWNER/NAME` on the hub.
    pub repo: String,
    /// Commit on the hub.
    pub revision: String,
    /// Published files that are there, byte for byte.
    pub matching: Vec<String>,
    /// Published files that are absent or hold other bytes.
    pub differing: Vec<String>,
}

impl Published {
    /// Whether every published file is there, byte for byte.
    pub fn complete(&self) -> bool {
        self.differing.is_empty()
    }
}

/// A published file, as a catalog pins it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedFile {
    /// Origin of the catalog that pins it.
    pub catalog: String,
    /// `OWNER/NAME` on the hub.
    pub repo: String,
    /// Commit on the hub.
    pub revision: String,
    /// Its name there.
    pub path: String,
}

impl PublishedFile {
    /// The published file that has this SHA-256. Models share files: one that is
    /// called `path` is named before others, among those the one of `revision`, and
    /// then the one of the first catalog.
    pub fn find(
        catalogs: &[Catalog],
        revision: &str,
        path: &str,
        sha256: &str,
    ) -> Option<PublishedFile> {
        let listed = catalogs.iter().rev().flat_map(|catalog| {
            let models = catalog.models.values();
            models.flat_map(move |m| m.files.iter().map(move |f| (catalog, m, f)))
        });
        // Of several that are as near, the last.
        let (catalog, model, file) = listed
            .filter(|(_, _, file)| file.sha256 == sha256)
            .max_by_key(|(_, model, file)| (file.path == path, model.revision == revision))?;
        Some(PublishedFile {
            catalog: catalog.origin.clone(),
            repo: model.repo.clone(),
            revision: model.revision.clone(),
            path: file.path.clone(),
        })
    }
}

impl fmt::Display for PublishedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}: {}", self.repo, self.revision, self.path)
    }
}

impl Catalog {
    /// Origin of the built-in catalog.
    pub const BUILTIN: &'static str = "built-in";

    /// Text of the catalog compiled into the program.
    pub const BUILTIN_TEXT: &'static str = include_str!("catalog.toml");

    /// The catalog compiled into the program.
    pub fn builtin() -> Self {
        Self::parse(Self::BUILTIN_TEXT, Self::BUILTIN).expect("a test reads the built-in catalog")
    }

    /// Text of a site's own catalog, of bounded size.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::BadCatalog`].
    pub fn read_text(path: &Path) -> Result<String, StoreError> {
        let bad = |why: String| StoreError::BadCatalog {
            origin: path.display().to_string(),
            why,
        };
        let metadata = path
            .metadata()
            .map_err(StoreError::io("read the catalog", path))?;
        // A pipe has no size, and no end.
        if !metadata.is_file() {
            return Err(bad("it is no regular file".into()));
        }
        if metadata.len() > CATALOG_MAX {
            return Err(bad(format!("it is larger than {CATALOG_MAX} bytes")));
        }
        std::fs::read_to_string(path).map_err(StoreError::io("read the catalog", path))
    }

    /// A site's own catalog.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::BadCatalog`].
    pub fn from_file(path: &Path) -> Result<Self, StoreError> {
        Self::parse(&Self::read_text(path)?, &path.display().to_string())
    }

    /// Parses a catalog's text; `origin` is what it is called.
    ///
    /// # Errors
    /// [`StoreError::BadCatalog`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct File {
            models: BTreeMap<String, CatalogModel>,
        }
        let bad = |why: String| StoreError::BadCatalog {
            origin: origin.to_owned(),
            why,
        };
        let mut file: File = toml::from_str(text).map_err(|e| bad(place(text, &e)))?;
        for (name, model) in &mut file.models {
            for entry in &mut model.files {
                entry.sha256.make_ascii_lowercase();
            }
            check_model_name(name).map_err(|e| bad(e.to_string()))?;
            check_model(model).map_err(|why| bad(format!("model {name}: {why}")))?;
        }
        Ok(Self {
            origin: origin.to_owned(),
            sha256: sha256_bytes(text.as_bytes()),
            models: file.models,
        })
    }

    /// `built-in`, or the file's path.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// SHA-256 of its text, 64 lower-case hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Names of all models.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<&CatalogModel> {
        self.models.get(name)
    }

    /// The model that pins this commit of this repository.
    pub fn pinned(&self, repo: &str, revision: &str) -> Option<(&str, &CatalogModel)> {
        self.models
            .iter()
            .find(|(_, m)| m.repo == repo && m.revision == revision)
            .map(|(name, model)| (name.as_str(), model))
    }

    /// The model most of whose weights or other files these are, if any is.
    pub fn recognise(&self, files: &[FileEntry]) -> Option<Published> {
        let have: HashMap<&str, &str> = files
            .iter()
            .map(|f| (f.path.as_str(), f.sha256.as_str()))
            .collect();
        let compare = |(name, model): (&String, &CatalogModel)| {
            let (same, other): (Vec<_>, Vec<_>) = model
                .files
                .iter()
                .partition(|f| have.get(f.path.as_str()) == Some(&f.sha256.as_str()));
            let paths = |entries: Vec<&FileEntry>| entries.iter().map(|e| e.path.clone()).collect();
            let bytes: u64 = same.iter().map(|f| f.size).sum();
            let published = Published {
                catalog: self.origin.clone(),
                name: name.clone(),
                repo: model.repo.clone(),
                revision: model.revision.clone(),
                matching: paths(same),
                differing: paths(other),
            };
            (bytes, published)
        };
        self.models
            .iter()
            .map(compare)
            .filter(|(_, p)| p.matching.iter().any(|path| path.ends_with(".safetensors")))
            .max_by_key(|(bytes, _)| *bytes)
            .map(|(_, published)| published)
    }

    /// Files of `manifest` that this catalog pins to other bytes; empty when the
    /// catalog does not know this revision.
    pub fn contradictions(&self, manifest: &Manifest) -> Vec<String> {
        let Some(model) = self
            .get(&manifest.name)
            .filter(|m| m.revision == manifest.revision)
        else {
            return Vec::new();
        };
        let agrees = |f: &&FileEntry| !manifest.files.contains(f);
        let wrong = model.files.iter().filter(agrees);
        wrong.map(|f| f.path.clone()).collect()
    }
}

/// A parser's message on one line.
fn place(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let message = error.message().replace('\n', " ");
    match before {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// `OWNER/NAME`, each a plain path component.
pub fn check_repo(repo: &str) -> Result<(), String> {
    match repo.split_once('/') {
        Some((owner, name))
            if check_model_name(owner).is_ok() && check_model_name(name).is_ok() =>
        {
            Ok(())
        }
        _ => Err(format!(
            "\"{}\" is not OWNER/NAME",
            repo.escape_default().take(120).collect::<String>()
        )),
    }
}

fn check_model(model: &CatalogModel) -> Result<(), String> {
    check_repo(&model.repo)?;
    check_revision(&model.revision).map_err(|e| e.to_string())?;
    let mut seen = HashSet::new();
    for file in &model.files {
        check_file_name(&file.path).map_err(|e| e.to_string())?;
        if file.sha256.len() != 64 || !file.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("{} has no SHA-256 of 64 digits", file.path));
        }
        if !seen.insert(file.path.as_str()) {
            return Err(format!("{} is listed twice", file.path));
        }
    }
    let total = model
        .files
        .iter()
        .try_fold(0u64, |sum, f| sum.checked_add(f.size));
    if total.is_none() {
        return Err("the sizes are absurd".into());
    }
    if !seen.contains("config.json") {
        return Err("config.json is not among its files".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_catalog_pins_both_published_models() {
        let catalog = Catalog::builtin();
        assert_eq!(catalog.names().collect::<Vec<_>>(), ["120b", "20b"]);
        let small = catalog.get("20b").unwrap();
        assert_eq!(small.files.len(), 12);
        assert_eq!(small.total_size(), 13_789_256_009);
        let large = catalog.get("120b").unwrap();
        assert_eq!(large.files.len(), 24);
        assert_eq!(large.total_size(), 65_276_850_729);
        assert_eq!(
            catalog.pinned(&large.repo, &large.revision).unwrap().0,
            "120b"
        );
    }

    /// Digests of lists that were made of the published manifests, not of the catalog:
    /// no name, size or digest changes unnoticed.
    #[test]
    fn every_pin_is_what_was_published() {
        let catalog = Catalog::builtin();
        for (name, list) in [
            (
                "20b",
                "548cfd55a50f58594cda3358a293baa3e1604d2d92e09031c4817db69c61627b",
            ),
            (
                "120b",
                "c0fb5c5bb598200fe5f21f3a013504650d80814dc55749a968cbf42cb01a78e2",
            ),
        ] {
            let model = catalog.get(name).unwrap();
            let line = |f: &FileEntry| format!("{} {} {}\n", f.path, f.size, f.sha256);
            let mut lines: Vec<String> = model.files.iter().map(line).collect();
            lines.sort();
            assert_eq!(sha256_bytes(lines.concat().as_bytes()), list, "{name}");
        }
        let shards = |name: &str| {
            let files = &catalog.get(name).unwrap().files;
            files.iter().filter(|f| f.path.ends_with(".safetensors"))
        };
        for (name, last) in [("20b", 2), ("120b", 14)] {
            let expected = (0..=last).map(|i| format!("model-{i:05}-of-{last:05}.safetensors"));
            let found: Vec<String> = shards(name).map(|f| f.path.clone()).collect();
            assert!(expected.eq(found), "{name} has every shard once");
        }
    }

    #[test]
    fn published_files_are_recognised() {
        let catalog = Catalog::builtin();
        let mut files = catalog.get("20b").unwrap().files.clone();
        assert!(catalog.recognise(&files).unwrap().complete());
        let last = files.last_mut().unwrap();
        last.sha256 = "0".repeat(64);
        let path = last.path.clone();
        let published = catalog.recognise(&files).unwrap();
        assert_eq!(published.name, "20b");
        assert_eq!(published.differing, [path]);
        let licence = &catalog.get("20b").unwrap().files[..1];
        assert_eq!(catalog.recognise(licence), None, "anybody has that file");
    }

    #[test]
    fn a_file_is_known_by_its_digest() {
        let catalogs = [Catalog::builtin()];
        let small = catalogs[0].get("20b").unwrap();
        let large = catalogs[0].get("120b").unwrap();
        let find = |revision: &str, path: &str, sha256: &str| {
            PublishedFile::find(&catalogs, revision, path, sha256)
        };
        for model in [small, large] {
            for file in &model.files {
                let found = find(&model.revision, &file.path, &file.sha256).unwrap();
                assert_eq!(
                    (&found.repo, &found.path, &*found.catalog),
                    (&model.repo, &file.path, Catalog::BUILTIN),
                    "a file both models have is said to be of the model's own"
                );
            }
        }
        let config = small.files.iter().find(|f| f.path == "config.json");
        let config = config.unwrap();
        let moved = find("elsewhere", "other.json", &config.sha256).unwrap();
        assert_eq!(
            moved.to_string(),
            format!("{}@{}: config.json", small.repo, small.revision)
        );
        assert_eq!(find(&small.revision, "config.json", &"0".repeat(64)), None);
    }

    fn one(line: &str) -> String {
        let digest = "a".repeat(64);
        format!(
            "[models.m]\nrepo = \"a/b\"\nrevision = \"r\"\nfiles = [\n{}\n]\n{line}",
            format_args!("{{ path = \"config.json\", size = 1, sha256 = \"{digest}\" }},")
        )
    }

    #[test]
    fn a_sites_catalog() {
        let catalog = Catalog::parse(&one(""), "test").unwrap();
        assert_eq!(catalog.get("m").unwrap().license, None);
    }

    #[test]
    fn broken_catalogs_say_why() {
        let good = one("");
        for (from, to, why) in [
            ("[models.m]", "[models.\"../m\"]", "model name"),
            ("a/b", "a", "OWNER/NAME"),
            ("a/b", "../b", "OWNER/NAME"),
            ("\"r\"", "\"x/y\"", "revision"),
            ("config.json", "../config.json", "file name"),
            ("config.json", "other.json", "config.json is not among"),
            ("aaaa\"", "aaa\"", "SHA-256"),
            ("size = 1", "size = -1", "invalid"),
            ("revision = \"r\"", "", "revision"),
        ] {
            let text = good.replace(from, to);
            let error = Catalog::parse(&text, "test").unwrap_err().to_string();
            assert!(error.contains(why), "{from} -> {to}: {error}");
        }
    }
}
