//! The wheels that ONNX Runtime and CUDA's libraries are taken from, byte for byte.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use super::carried;
use super::pinned::this_platform;
use crate::model::{FileEntry, check_file_name};

/// The table of [`Build::pinned`], in the form of [`Build::read`].
const TABLE: &str = include_str!("wheels.txt");

static PINNED: LazyLock<Vec<Build>> = LazyLock::new(|| {
    // A test holds that the table can be read; without it nothing would be installed.
    Build::read(TABLE).unwrap_or_else(|why| {
        tracing::error!(why, "the table of pinned wheels");
        Vec::new()
    })
});

/// What a build of ONNX Runtime computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    Cpu,
    /// NVIDIA's GPUs; and the processor.
    Cuda,
}

impl Kind {
    /// Its word in the table, and for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Cpu, Self::Cuda]
            .into_iter()
            .find(|kind| kind.name() == word)
            .ok_or_else(|| format!("there is no build {word:?}"))
    }
}

/// A build of ONNX Runtime and all that it loads besides the system's libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// What it computes on.
    pub kind: Kind,
    /// `linux-x86_64`: system and processor, as Rust names them.
    pub platform: String,
    /// ONNX Runtime's version.
    pub version: String,
    /// Where its files are taken from, what others need first.
    pub wheels: Vec<Wheel>,
}

/// An archive of an index of Python's packages: a zip file (PEP 427).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wheel {
    /// The project's name, as an index has it in its URLs.
    pub project: String,
    /// The project's version.
    pub version: String,
    /// SPDX identifier of the licence of all that is taken out.
    pub licence: String,
    /// The archive.
    pub file: FileEntry,
    /// What is taken out, what others need first.
    pub members: Vec<Member>,
}

/// A file in a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the archive. It is looked up and never used as a path.
    pub inside: String,
    /// Its name, size and digest where it is installed.
    pub file: FileEntry,
}

impl Wheel {
    /// Whether its licence is none of free software, so that somebody must accept it.
    pub fn is_proprietary(&self) -> bool {
        self.licence.starts_with("LicenseRef-")
    }
}

impl Build {
    /// Every build that this program knows.
    pub fn pinned() -> &'static [Self] {
        &PINNED
    }

    /// That of this machine.
    pub fn here(kind: Kind) -> Option<&'static Self> {
        let here = this_platform();
        let fits = |build: &&Self| build.kind == kind && build.platform == here;
        Self::pinned().iter().find(fits)
    }

    /// Reads a table: words with blanks between them, one thing a line, `#` for notes.
    ///
    /// ```text
    /// build   KIND PLATFORM VERSION                       one of ONNX Runtime
    /// wheel   SHA-256 SIZE FILE PROJECT VERSION LICENCE   of the build above
    /// member  SHA-256 SIZE NAME PATH-IN-THE-WHEEL         of the wheel above
    /// ```
    ///
    /// Sizes are in bytes. The order is that in which libraries can be loaded: none
    /// needs one that comes after it.
    ///
    /// # Errors
    /// Which line says what it must not.
    pub fn read(table: &str) -> Result<Vec<Self>, String> {
        let mut builds: Vec<Self> = Vec::new();
        for (number, line) in table.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.is_empty() || line.starts_with('#') {
                continue;
            }
            Self::read_line(&mut builds, &words)
                .map_err(|why| format!("line {}: {why}", number + 1))?;
        }
        Ok(builds)
    }

    fn read_line(builds: &mut Vec<Self>, words: &[&str]) -> Result<(), String> {
        match *words {
            ["build", kind, platform, version] => builds.push(Self {
                kind: kind.parse()?,
                platform: platform.to_owned(),
                version: version.to_owned(),
                wheels: Vec::new(),
            }),
            ["wheel", sha256, size, file, project, version, licence] => {
                let build = builds.last_mut().ok_or("a wheel of no build")?;
                build.wheels.push(Wheel {
                    project: project.to_owned(),
                    version: version.to_owned(),
                    licence: licence.to_owned(),
                    file: entry(file, size, sha256)?,
                    members: Vec::new(),
                });
            }
            ["member", sha256, size, name, inside] => {
                let build = builds.last_mut().ok_or("a member of no build")?;
                if build.files().any(|file| file.path == name) {
                    return Err(format!("{name} is there twice"));
                }
                let wheel = build.wheels.last_mut().ok_or("a member of no wheel")?;
                wheel.members.push(Member {
                    inside: inside.to_owned(),
                    file: entry(name, size, sha256)?,
                });
            }
            [word, ..] => return Err(format!("{word} is no such line")),
            [] => {}
        }
        Ok(())
    }

    /// Everything that is installed, what others need first.
    pub fn files(&self) -> impl Iterator<Item = &FileEntry> {
        let members = self.wheels.iter().flat_map(|wheel| &wheel.members);
        members.map(|member| &member.file)
    }

    /// Bytes of everything that is installed.
    pub fn size(&self) -> u64 {
        self.files().map(|file| file.size).sum()
    }

    /// Where a store keeps it. That for the processor lies where a bundle's does
    /// ([`carried`]); that for CUDA is a folder of its own.
    pub fn folder(&self, store: &Path) -> PathBuf {
        match self.kind {
            Kind::Cpu => carried::folder(store),
            Kind::Cuda => {
                carried::folder(store).join(format!("{}-{}", self.kind.name(), self.version))
            }
        }
    }
}

fn entry(name: &str, size: &str, sha256: &str) -> Result<FileEntry, String> {
    check_file_name(name).map_err(|error| error.to_string())?;
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if sha256.len() != 64 || !sha256.bytes().all(digit) {
        return Err(format!("{sha256} is no SHA-256"));
    }
    let size = size.parse().map_err(|_| format!("{size} is no size"))?;
    Ok(FileEntry {
        path: name.to_owned(),
        size,
        sha256: sha256.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::runtime::library::FILE_NAME;
    use crate::runtime::pinned::PinnedRuntime;

    fn pinned() -> Vec<Build> {
        Build::read(TABLE).unwrap()
    }

    #[test]
    fn every_build_has_what_it_needs() {
        let builds = pinned();
        let names: Vec<_> = builds
            .iter()
            .map(|b| (b.kind.name(), b.platform.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("cpu", "linux-x86_64"),
                ("cpu", "linux-aarch64"),
                ("cuda", "linux-x86_64")
            ]
        );
        for build in &builds {
            let library = build.files().find(|file| file.path == FILE_NAME);
            assert!(library.is_some(), "{build:?}");
            assert_eq!(FILE_NAME, format!("libonnxruntime.so.{}", build.version));
            for wheel in &build.wheels {
                assert!(wheel.file.path.ends_with(".whl"), "{wheel:?}");
                // What is taken out is not more than its archive could hold.
                let is_licence = |m: &Member| m.file.path.to_uppercase().contains("LICENSE");
                assert!(wheel.members.iter().any(is_licence), "{wheel:?}");
                assert_eq!(wheel.is_proprietary(), wheel.project.starts_with("nvidia-"));
            }
        }
    }

    #[test]
    fn the_build_for_the_processor_is_the_one_that_bundles_carry() {
        for build in pinned().iter().filter(|build| build.kind == Kind::Cpu) {
            let carried = PinnedRuntime::of(&build.platform).unwrap();
            let by_name = |a: &&FileEntry, b: &&FileEntry| a.path.cmp(&b.path);
            let (mut ours, mut its): (Vec<_>, Vec<_>) =
                (build.files().collect(), carried.files().collect());
            ours.sort_by(by_name);
            its.sort_by(by_name);
            assert_eq!(ours, its, "{}", build.platform);
        }
    }

    /// Project, version and digest of each wheel that pip is told of.
    fn required(folder: &Path, names: &[&str]) -> BTreeSet<(String, String, String)> {
        let mut found = BTreeSet::new();
        for name in names {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let mut last = None;
            for word in text
                .lines()
                .filter(|line| !line.starts_with('#'))
                .flat_map(str::split_whitespace)
            {
                if let Some((project, version)) = word.split_once("==") {
                    last = Some((project.to_owned(), version.to_owned()));
                } else if let Some(digest) = word.strip_prefix("--hash=sha256:") {
                    let (project, version) = last.clone().unwrap();
                    found.insert((project, version, digest.to_owned()));
                }
            }
        }
        found
    }

    #[test]
    fn pip_is_told_of_the_same_wheels() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/runtime");
        let wheels = pinned().into_iter().flat_map(|build| build.wheels);
        let ours: BTreeSet<_> = wheels
            .map(|wheel| (wheel.project, wheel.version, wheel.file.sha256))
            .collect();
        let told = required(&folder, &["requirements.txt", "cuda.txt", "nvidia.txt"]);
        assert_eq!(ours, told);
    }

    #[test]
    fn a_table_that_says_nonsense_is_refused() {
        let digest = "a".repeat(64);
        let build = "build cuda linux-x86_64 1.0";
        let wheel = format!("wheel {digest} 7 a.whl a 1.0 MIT");
        let member = format!("member {digest} 3 lib.so x/lib.so");
        let sound = format!("# a note\n\n{build}\n{wheel}\n{member}\n");
        let read = Build::read(&sound).unwrap();
        assert_eq!((read.len(), read[0].size()), (1, 3));
        assert_eq!(read[0].wheels[0].members[0].inside, "x/lib.so");
        for (lines, why) in [
            (vec![wheel.as_str()], "no build"),
            (vec![member.as_str()], "no build"),
            (vec![build, &member], "no wheel"),
            (vec![build, &wheel, &member, &member], "twice"),
            (vec!["build tpu linux-x86_64 1.0"], "tpu"),
            (vec!["build cuda"], "no such line"),
            (vec![build, &wheel.replace(" 7 ", " -7 ")], "no size"),
            (vec![build, &wheel.replace("aaa", "AAA")], "no SHA-256"),
            (vec![build, &wheel.replace("a.whl", "../a.whl")], "refused"),
            (
                vec![build, &wheel, &member.replace(" lib.so", " /etc/x")],
                "refused",
            ),
        ] {
            let error = Build::read(&lines.join("\n")).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(
                error.starts_with(&format!("line {}", lines.len())),
                "{error}"
            );
        }
    }

    #[test]
    fn builds_have_their_places_in_a_store() {
        let places: Vec<_> = pinned()
            .iter()
            .map(|build| build.folder(Path::new("/s")))
            .collect();
        assert_eq!(places[0], Path::new("/s/runtime"));
        let cuda = format!("/s/runtime/cuda-{}", pinned()[2].version);
        assert_eq!(places[2], Path::new(&cuda));
    }
}
