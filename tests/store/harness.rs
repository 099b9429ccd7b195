//! A store, a mirror with a small checkpoint, and the real `gptoss-ctl`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::mirror::{Body, COMMIT, Mirror, REPO, Served};

/// Name of the small checkpoint in the site's catalog.
pub const TINY: &str = "tiny";

/// Its shards, the largest first.
pub const SHARDS: [&str; 3] = [
    "model-00000-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model-00001-of-00002.safetensors",
];

/// Exit codes, as the design has them.
pub const FAILED: i32 = 1;
pub const USAGE: i32 = 2;
pub const NOT_FOUND: i32 = 3;
pub const VERIFICATION: i32 = 4;
pub const NO_SPACE: i32 = 5;

pub struct World {
    dir: TempDir,
    pub mirror: Mirror,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Outcome {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It ended with that code and its message has all of these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let message = self.stderr.lines().last().unwrap_or_default();
        assert!(message.starts_with("gptoss-ctl: "), "{self:?}");
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message}");
        }
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The checkpoint's files by name.
pub fn checkpoint() -> BTreeMap<String, Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/grid64");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    let mut files: BTreeMap<String, Vec<u8>> = fs::read_dir(dir).unwrap().map(read).collect();
    // Short rotary tables make an export of milliseconds.
    let config = String::from_utf8(files["config.json"].clone()).unwrap();
    let short = config.replace(
        "\"max_position_embeddings\": 131072",
        "\"max_position_embeddings\": 4096",
    );
    assert_ne!(config, short);
    files.insert("config.json".into(), short.into_bytes());
    files
}

/// A catalog that pins these files.
pub fn catalog(name: &str, files: &BTreeMap<String, Body>) -> String {
    let mut text = format!(
        "[models.{name}]\nrepo = \"{REPO}\"\nrevision = \"{COMMIT}\"\nlicense = \"Apache-2.0\"\nfiles = [\n"
    );
    for (path, body) in files {
        let (size, digest) = (body.bytes().len(), &body.sha256);
        text += &format!("  {{ path = \"{path}\", size = {size}, sha256 = \"{digest}\" }},\n");
    }
    text + "]\n"
}

impl World {
    pub fn new() -> Self {
        Self::with(checkpoint())
    }

    /// The mirror serves these files and the catalog pins them.
    pub fn with(files: BTreeMap<String, Vec<u8>>) -> Self {
        let dir = TempDir::new().unwrap();
        let served: BTreeMap<_, _> = files
            .iter()
            .map(|(name, bytes)| (name.clone(), Body::new(bytes.clone())))
            .collect();
        fs::write(dir.path().join("catalog.toml"), catalog(TINY, &served)).unwrap();
        Self {
            mirror: Mirror::serve(served),
            files,
            dir,
        }
    }

    /// A folder for the test's own things.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn model_dir(&self) -> PathBuf {
        self.store().join("models").join(TINY).join(COMMIT)
    }

    pub fn staging_dir(&self) -> PathBuf {
        self.store()
            .join(".staging")
            .join(format!("{TINY}@{COMMIT}"))
    }

    /// Bytes of a part in the staging folder; none where there is none.
    pub fn part_len(&self, file: &str) -> Option<u64> {
        let part = self.staging_dir().join(format!("{file}.part"));
        part.metadata().ok().map(|m| m.len())
    }

    /// Bytes of a file in the staging folder, in order: those of its part and those of
    /// the windows ahead of it.
    pub fn extents(&self, file: &str) -> Vec<Range<u64>> {
        let before = format!(".{file}.");
        let window = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            let start = name.strip_prefix(&before)?.strip_suffix(".part")?;
            let start: u64 = start.parse().unwrap();
            Some(start..start + entry.metadata().unwrap().len())
        };
        let entries = fs::read_dir(self.staging_dir());
        let entries = entries.into_iter().flatten().flatten();
        let mut extents: Vec<_> = entries.filter_map(window).collect();
        extents.extend(self.part_len(file).map(|length| 0..length));
        extents.sort_by_key(|extent| extent.start);
        extents
    }

    /// Names of the files that are proven in the staging folder.
    pub fn proven(&self) -> Vec<String> {
        tree(&self.staging_dir())
            .into_keys()
            .filter(|path| path.extension().is_none_or(|e| e != "part"))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    }

    /// `gptoss-ctl ARGS` in an environment of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("GPTOSS_STORE", self.store())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    pub fn ctl(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    /// Arguments of a pull of the small checkpoint.
    pub fn pull_args<'a>(&self, more: &[&'a str]) -> Vec<String>
    where
        Self: 'a,
    {
        let catalog = self.path("catalog.toml");
        let fixed = [
            "pull",
            TINY,
            "--endpoint",
            &self.mirror.url(),
            "--catalog",
            catalog.to_str().unwrap(),
        ];
        fixed.iter().chain(more).map(|s| (*s).to_owned()).collect()
    }

    pub fn pull_command(&self, more: &[&str]) -> Command {
        let args = self.pull_args(more);
        self.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn pull(&self, more: &[&str]) -> Outcome {
        self.pull_command(more).output().unwrap().into()
    }

    /// Starts a command, to be killed at some moment.
    pub fn spawn_quiet(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    pub fn spawn_pull(&self, more: &[&str]) -> Child {
        let mut command = self.pull_command(more);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Writes the checkpoint into a folder, after a change.
    pub fn checkpoint_dir(
        &self,
        name: &str,
        change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>),
    ) -> PathBuf {
        let mut files = self.files.clone();
        change(&mut files);
        let dir = self.path(name);
        fs::create_dir_all(&dir).unwrap();
        for (path, bytes) in files {
            fs::write(dir.join(path), bytes).unwrap();
        }
        dir
    }

    /// Every installed path and its bytes.
    pub fn installed(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        tree(&self.store().join("models"))
    }

    /// The small checkpoint is installed, whole and proven, and nothing else is.
    #[track_caller]
    pub fn assert_installed(&self) {
        let installed = self.installed();
        for (name, bytes) in &self.files {
            let there = installed.get(&self.model_dir().join(name));
            assert!(there == Some(bytes), "{name} is not installed as published");
        }
        self.ctl(&["verify", TINY]).ok();
        let staged = tree(&self.store().join(".staging"));
        assert!(staged.is_empty(), "left over: {:?}", staged.keys());
    }

    #[track_caller]
    pub fn assert_nothing_installed(&self) {
        let installed = self.installed();
        assert!(installed.is_empty(), "{:?}", installed.keys());
    }
}

/// What a pull has brought so far.
pub struct There {
    proven: Vec<String>,
    extents: Vec<(&'static str, Range<u64>)>,
}

impl There {
    pub fn of(world: &World) -> Self {
        let of_one = |shard| {
            let extents = world.extents(shard).into_iter();
            extents.map(move |extent| (shard, extent))
        };
        Self {
            proven: world.proven(),
            extents: SHARDS.into_iter().flat_map(of_one).collect(),
        }
    }

    /// Of a file, its part and windows together.
    pub fn bytes(&self, file: &str) -> u64 {
        let of_it = self.extents.iter().filter(|(name, _)| *name == file);
        let mut end = 0;
        let mut sum = 0;
        for (_, extent) in of_it {
            sum += extent.end.saturating_sub(extent.start.max(end));
            end = end.max(extent.end);
        }
        sum
    }

    /// The next pull goes on around it.
    #[track_caller]
    pub fn was_not_fetched_again(&self, served: &[Served]) {
        for again in served {
            let file = &again.file;
            assert!(!self.proven.contains(file), "{file} was proven");
            let sent = again.start..again.start + again.bytes;
            let twice = |(name, extent): &&(&str, Range<u64>)| {
                name == file && sent.start < extent.end && extent.start < sent.end
            };
            let twice = self.extents.iter().find(twice);
            assert!(twice.is_none(), "{sent:?} of {twice:?} were sent again");
        }
    }
}

/// Every file below a folder and its bytes.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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

/// The command with files limited to `kib` KiB; the signal for it is ignored,
/// so that the write fails instead.
pub fn limited(world: &World, kib: u64, args: &[String]) -> Outcome {
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kib * 2);
    command.args(["-c", &script, env!("CARGO_BIN_EXE_gptoss-ctl")]);
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", world.path(""))
        .env("GPTOSS_STORE", world.store());
    command.output().unwrap().into()
}

/// A reproducible stream of numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
