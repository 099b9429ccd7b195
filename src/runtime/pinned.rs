//! The ONNX Runtime that this program knows byte for byte.

use std::path::{Path, PathBuf};

use crate::model::FileEntry;

/// Platform, SHA-256, size in bytes and name of each file; `any` platform for texts.
const LIST: &str = include_str!("pinned.txt");

/// Files of every platform.
const ANY: &str = "any";

/// The library for one platform and its licence texts, which go where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedRuntime {
    /// `linux-x86_64`: system and processor, as Rust names them.
    pub platform: String,
    /// The shared library.
    pub library: FileEntry,
    /// The texts of its licences.
    pub licences: Vec<FileEntry>,
}

impl PinnedRuntime {
    /// One for each platform that has one.
    pub fn all() -> Vec<Self> {
        let rows: Vec<_> = rows().collect();
        let licences: Vec<_> = rows.iter().filter(|(p, _)| *p == ANY).collect();
        let libraries = rows.iter().filter(|(p, _)| *p != ANY);
        libraries
            .map(|(platform, library)| Self {
                platform: (*platform).to_owned(),
                library: library.clone(),
                licences: licences.iter().map(|(_, file)| file.clone()).collect(),
            })
            .collect()
    }

    /// That of a platform.
    pub fn of(platform: &str) -> Option<Self> {
        Self::all().into_iter().find(|r| r.platform == platform)
    }

    /// That of this machine.
    pub fn here() -> Option<Self> {
        Self::of(&this_platform())
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        std::iter::once(&self.library).chain(&self.licences)
    }

    /// Where a file of it is, among these folders: the first of its name and size.
    /// Whoever uses it proves it.
    pub fn locate(file: &FileEntry, folders: &[PathBuf]) -> Option<PathBuf> {
        let fits = |path: &PathBuf| {
            path.metadata()
                .is_ok_and(|m| m.is_file() && m.len() == file.size)
        };
        let path = |folder: &PathBuf| folder.join(&file.path);
        folders.iter().map(path).find(fits)
    }
}

/// The platform this program was built for, as the list names it.
pub fn this_platform() -> String {
    format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Where the licence texts of a library in `folder` are, besides `folder` itself:
/// `lib/gptoss` and `share/doc/gptoss` are of one package.
pub fn licence_folder(folder: &Path) -> Option<PathBuf> {
    let prefix = folder.ends_with("lib/gptoss").then_some(folder)?;
    Some(prefix.parent()?.parent()?.join("share/doc/gptoss"))
}

fn rows() -> impl Iterator<Item = (&'static str, FileEntry)> {
    LIST.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (platform, sha256) = (words.next()?, words.next()?);
            let entry = FileEntry {
                sha256: sha256.to_owned(),
                size: words.next()?.parse().ok()?,
                path: words.next()?.to_owned(),
            };
            Some((platform, entry))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check_file_name;
    use crate::runtime::library::FILE_NAME;

    #[test]
    fn every_line_of_the_list_counts() {
        let lines = LIST.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(rows().count(), lines.count());
        let all = PinnedRuntime::all();
        let platforms: Vec<_> = all.iter().map(|r| r.platform.as_str()).collect();
        assert_eq!(platforms, ["linux-x86_64", "linux-aarch64"]);
        for runtime in all {
            assert_eq!(runtime.licences.len(), 2);
            for file in runtime.files() {
                check_file_name(&file.path).unwrap();
                let digits = file.sha256.bytes();
                assert_eq!(digits.len(), 64);
                assert!(
                    digits
                        .into_iter()
                        .all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'))
                );
            }
        }
    }

    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[test]
    fn the_library_of_this_machine_is_among_them() {
        assert_eq!(PinnedRuntime::here().unwrap().library.path, FILE_NAME);
    }

    #[test]
    fn a_file_is_found_by_name_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["a", "b"].map(|name| dir.path().join(name));
        let file = FileEntry {
            path: "f".into(),
            size: 3,
            sha256: String::new(),
        };
        for (folder, bytes) in folders.iter().zip(["four", "two"]) {
            std::fs::create_dir(folder).unwrap();
            assert_eq!(PinnedRuntime::locate(&file, &folders), None);
            std::fs::write(folder.join("f"), bytes).unwrap();
        }
        let found = PinnedRuntime::locate(&file, &folders).unwrap();
        assert_eq!(found, folders[1].join("f"));
    }

    #[test]
    fn a_packages_licences_are_under_its_prefix() {
        let folder = licence_folder(Path::new("/usr/local/lib/gptoss"));
        assert_eq!(
            folder.as_deref(),
            Some(Path::new("/usr/local/share/doc/gptoss"))
        );
        assert_eq!(licence_folder(Path::new("/srv/build/runtime")), None);
    }
}
