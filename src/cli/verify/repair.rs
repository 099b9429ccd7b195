//! `gptoss-ctl verify --repair`: what is broken, and only that, brought back.
//!
//! Every file is proven against the manifest before it takes its place, by a rename;
//! the manifest itself is never changed. What was brought before an interruption is
//! kept and gone on with.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::Target;
use gptoss_onnx::nano;
use serde::Serialize;

use super::Args;
use super::origin::Origin;
use crate::bundle::{Bundle, BundleError};
use crate::cli::install::{check_config, discard_if_empty, export_all};
use crate::cli::messages::{message, size};
use crate::cli::progress::{Transfer, Ui};
use crate::cli::pull::{self, offline_by_environment};
use crate::cli::{CliError, ExitStatus, Global};
use crate::fetch::{self, Endpoint, Folder, Registry, Repository, Settings, Source};
use crate::model::incoming::{BringError, Original, Progress, Wanted, bring, remaining};
use crate::model::{
    FileEntry, FileState, Installed, Report, Staging, Store, StoreError, require_space,
};

/// What a repair did.
#[derive(Debug, Default, Serialize)]
pub(super) struct Repair {
    /// Where files were brought from; none where nothing had to be.
    from: Option<Origin>,
    /// Bytes that came from there, for files that could not be completed as well.
    fetched: u64,
    files: Vec<Mended>,
}

/// A file that is right again.
#[derive(Debug, Serialize)]
struct Mended {
    path: String,
    size: u64,
    how: How,
    /// Bytes of it that were brought; the others were there.
    fetched: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// All of it was there.
    Kept,
    /// Some or all of it was brought.
    Fetched,
    /// It was exported again and came out as recorded.
    Exported,
}

impl Repair {
    /// The files that are right again.
    pub(super) fn paths(&self) -> HashSet<&str> {
        self.files.iter().map(|f| f.path.as_str()).collect()
    }

    /// Whether any file is another one now.
    pub(super) fn changed_something(&self) -> bool {
        !self.files.is_empty()
    }

    /// What was done, for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.files.iter().map(Mended::line).collect();
        if let Some(from) = &self.from {
            let fetched = size(self.fetched);
            lines.push(message!(
                "repair-came-from",
                fetched = fetched,
                origin = from.describe(),
            ));
        }
        lines
    }
}

impl Mended {
    fn line(&self) -> String {
        let file = &self.path;
        match self.how {
            How::Kept => message!("repair-kept", file = file, size = size(self.size)),
            How::Fetched => message!(
                "repair-brought",
                file = file,
                fetched = size(self.fetched),
                size = size(self.size),
            ),
            How::Exported => message!("repair-exported", file = file),
        }
    }
}

/// Repairs what the report says is wrong. The error, if any, is what kept the rest
/// from being repaired.
pub(super) fn run(
    global: &Global,
    args: &Args,
    store: &Store,
    model: &Installed,
    report: &Report,
    ui: &Ui,
) -> Result<(Repair, Option<CliError>), CliError> {
    let staging = store.stage_repair(model)?;
    let mut work = Work {
        global,
        args,
        model,
        staging: &staging,
        ui,
        done: Repair::default(),
    };
    let own = broken(&model.manifest.files, report);
    let result = work.files(&own).and_then(|()| work.exports(report));
    let done = work.done;
    match result {
        Ok(()) => {
            staging.discard()?;
            Ok((done, None))
        }
        Err(error) => {
            discard_if_empty(staging)?;
            Ok((done, Some(error)))
        }
    }
}

/// Removes what a repair left beside a model that is sound: it was interrupted after its
/// last file, or while it removed its folder. Where another is at work on the model, that
/// one will.
pub(super) fn tidy(store: &Store, model: &Installed) {
    store.end_removals();
    let is_left =
        |(name, revision): &(String, String)| (name, revision) == (&model.name, &model.revision);
    if !store.staged().iter().any(is_left) {
        return;
    }
    let tidied = store.stage_repair(model).and_then(Staging::discard);
    if let Err(error) = tidied {
        tracing::info!(%error, "what an interrupted repair left was not removed");
    }
}

/// Those of `files` that can be brought back, with what is wrong with them.
fn broken<'a>(files: &'a [FileEntry], report: &'a Report) -> Vec<(&'a FileEntry, &'a FileState)> {
    let state = |entry: &'a FileEntry| {
        let file = report.wrong().find(|f| f.path == entry.path)?;
        // That one is what the manifest says: the manifest is wrong.
        (file.state != FileState::NotPublished).then_some((entry, &file.state))
    };
    files.iter().filter_map(state).collect()
}

struct Work<'a> {
    global: &'a Global,
    args: &'a Args,
    model: &'a Installed,
    staging: &'a Staging,
    ui: &'a Ui,
    done: Repair,
}

impl Work<'_> {
    /// The checkpoint's own files.
    fn files(&mut self, broken: &[(&FileEntry, &FileState)]) -> Result<(), CliError> {
        let mut left = Vec::new();
        for &(entry, state) in broken {
            if matches!(state, FileState::WrongSize { found } if *found > entry.size) {
                self.space(std::slice::from_ref(entry))?;
                self.staging.salvage(self.model, entry)?;
            }
            match self.staging.complete(entry)? {
                true => self.put_back(entry, How::Kept, 0)?,
                false => left.push(entry.clone()),
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let origin = Origin::choose(self.args, &self.model.manifest)?;
        let is_offline = self.global.offline || offline_by_environment();
        if is_offline && origin.is_distant() {
            return Err(offline(&origin, &left));
        }
        self.space(&left)?;
        for entry in &left {
            self.staging.salvage(self.model, entry)?;
        }
        self.ui.note(&message!(
            "repair-repairing",
            broken = left.len(),
            files = self.model.manifest.files.len(),
            origin = origin.describe(),
        ));
        self.bring_back(&origin, &left)
    }

    fn space(&self, files: &[FileEntry]) -> Result<(), CliError> {
        let wanted: Vec<_> = files.iter().map(Wanted::from).collect();
        let dir = &self.staging.dir;
        let needed = remaining(dir, &wanted);
        Ok(require_space(dir, &message!("space-repair"), needed)?)
    }

    /// Brings files and puts those in their places that came whole, whatever
    /// becomes of the others.
    fn bring_back(&mut self, origin: &Origin, files: &[FileEntry]) -> Result<(), CliError> {
        let sizes = files.iter().map(|f| (f.path.as_str(), f.size));
        let progress = Arc::new(Counted {
            shown: self.ui.transfer(&message!("repair-repairing-now"), sizes),
            counts: Mutex::default(),
        });
        let result = self.bring(origin, files, &progress);
        let counts = progress.counts();
        self.done.from = Some(origin.clone());
        self.done.fetched = counts.values().map(|c| c.fetched).sum();
        for entry in files {
            // Nothing gets its own name there that was not proven.
            if self.staging.dir.join(&entry.path).exists() {
                let fetched = counts.get(&entry.path).map_or(0, |c| c.fetched);
                self.put_back(entry, How::Fetched, fetched)?;
            }
        }
        result
    }

    fn bring(
        &self,
        origin: &Origin,
        files: &[FileEntry],
        progress: &Arc<Counted>,
    ) -> Result<(), CliError> {
        let dir = &self.staging.dir;
        match origin {
            Origin::Embedded => {
                let wanted = |path: &str| files.iter().any(|f| f.path == path);
                for (path, bytes) in nano::files().iter().filter(|(path, _)| wanted(path)) {
                    self.staging.write(path, bytes)?;
                    progress.position(path, bytes.len() as u64);
                    progress.proven(path);
                }
                Ok(())
            }
            Origin::Hub {
                endpoint: Endpoint::Folder(root),
                repo,
            } => {
                let folder = Folder::named(root, repo, &self.model.revision)?;
                let wanted: Vec<_> = files.iter().map(Wanted::from).collect();
                folder.bring_all(&wanted, dir, &**progress)?;
                Ok(())
            }
            Origin::Hub {
                endpoint: Endpoint::Server(server),
                repo,
            } => {
                let repository = Repository::new(server, repo, &self.model.revision)?;
                self.fetch(Source::Hub(repository), files, progress)
            }
            Origin::Registry(reference) => {
                let registry =
                    Registry::new(reference, self.args.plain_http, &Settings::default())?;
                self.fetch(Source::Registry(Box::new(registry)), files, progress)
            }
            Origin::Folder(folder) => each(files, |entry| copy(folder, entry, dir, &**progress)),
            Origin::Bundle(path) => {
                let bundle = Bundle::open(path)?;
                each(files, |entry| from_bundle(&bundle, entry, dir, &**progress))
            }
        }
    }

    fn fetch(
        &self,
        source: Source,
        files: &[FileEntry],
        progress: &Arc<Counted>,
    ) -> Result<(), CliError> {
        let dir = &self.staging.dir;
        let wanted: Vec<_> = files.iter().map(Wanted::from).collect();
        let settings = Settings::default();
        let twice = settings.twice(&wanted);
        let needed = remaining(dir, &wanted).saturating_add(twice);
        require_space(dir, &message!("space-repair"), needed)?;
        let source = Arc::new(source);
        let fetched = fetch::fetch(source, &wanted, dir, &settings, progress.clone());
        pull::runtime()?.block_on(fetched)?;
        Ok(())
    }

    fn put_back(&mut self, entry: &FileEntry, how: How, fetched: u64) -> Result<(), CliError> {
        self.staging.put_back(self.model, &entry.path)?;
        self.done.files.push(Mended {
            path: entry.path.clone(),
            size: entry.size,
            how,
            fetched,
        });
        Ok(())
    }

    /// What was exported, from the checkpoint's files, which are right by now.
    fn exports(&mut self, report: &Report) -> Result<(), CliError> {
        let manifest = &self.model.manifest;
        for (name, recorded) in &manifest.targets {
            let broken = broken(recorded, report);
            if broken.is_empty() {
                continue;
            }
            let unknown = |_| {
                let message = message!("repair-unknown-target", target = name);
                CliError::new(ExitStatus::Failed, message)
            };
            let target: Target = name.parse().map_err(unknown)?;
            let made = self.export(target)?;
            if !recorded.iter().all(|entry| made.contains(entry)) {
                return Err(self.other_export(target));
            }
            for (entry, _) in broken {
                self.put_back(entry, How::Exported, 0)?;
            }
        }
        Ok(())
    }

    fn export(&self, target: Target) -> Result<Vec<FileEntry>, CliError> {
        let (model, dir) = (&self.model.dir, &self.staging.dir);
        let needed = check_config(model, &[target])?;
        require_space(dir, &message!("space-export"), needed)?;
        let checkpoint = Checkpoint::open(model)?;
        let exported = export_all(&checkpoint, dir, &[target], self.ui)?;
        Ok(exported.files.into_values().flatten().collect())
    }

    /// The export is not the one that was recorded, and so it does not replace it.
    fn other_export(&self, target: Target) -> CliError {
        // Nobody will go on with it.
        let _ = fs::remove_dir_all(self.staging.dir.join(target.name()));
        let manifest = &self.model.manifest;
        CliError::new(
            ExitStatus::Verification,
            message!(
                "repair-other-export",
                target = %target,
                version = env!("CARGO_PKG_VERSION"),
                recorded = &manifest.tool_version,
                model = manifest.label(),
            ),
        )
    }
}

fn offline(origin: &Origin, files: &[FileEntry]) -> CliError {
    let names: Vec<_> = files.iter().map(|f| f.path.as_str()).collect();
    CliError::new(
        ExitStatus::Failed,
        message!(
            "repair-offline",
            files = names.join(", "),
            origin = origin.describe(),
        ),
    )
}

/// Does something for every file, and gives the first error after the last.
fn each(
    files: &[FileEntry],
    mut act: impl FnMut(&FileEntry) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let results: Vec<_> = files.iter().map(&mut act).collect();
    results.into_iter().collect()
}

/// Brings one file from a bundle, whichever of its models has it.
fn from_bundle(
    bundle: &Bundle,
    entry: &FileEntry,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(), CliError> {
    let mut held = bundle.models().iter().flat_map(|model| &model.files);
    if !held.any(|f| f.sha256 == entry.sha256 && f.size == entry.size) {
        return Err(CliError::new(
            ExitStatus::NotFound,
            message!(
                "repair-not-in-bundle",
                bundle = %bundle.path().display(),
                file = &entry.path,
            ),
        ));
    }
    let brought = bundle.bring(std::slice::from_ref(entry), dir, progress);
    brought.map_err(|error: BundleError| error.into())
}

/// Brings one file from a checkpoint's folder. Links are followed, as the hub's
/// cache consists of them.
fn copy(
    folder: &Path,
    entry: &FileEntry,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<(), CliError> {
    let path = folder.join(&entry.path);
    let wrong = |why: String| {
        let message = message!("repair-wrong-file", path = %path.display(), why = why);
        CliError::new(ExitStatus::Verification, message)
    };
    let metadata = fs::metadata(&path).map_err(StoreError::io("read", &path))?;
    if !metadata.is_file() || metadata.len() != entry.size {
        return Err(wrong(message!("repair-wrong-file-size", size = entry.size)));
    }
    let open = |_| File::open(&path).map(Original::File);
    bring(dir, &Wanted::from(entry), &open, progress).map_err(|error| match error {
        BringError::Open(e) | BringError::Read(e) => StoreError::io("read", &path)(e).into(),
        BringError::Wrong(why) => wrong(why),
        BringError::Store(e) => e.into(),
    })?;
    progress.proven(&entry.path);
    Ok(())
}

/// How far a file is, and how many bytes were brought for it.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    position: u64,
    fetched: u64,
}

/// Shows what happens and counts the bytes that are brought.
struct Counted {
    shown: Transfer,
    counts: Mutex<HashMap<String, Count>>,
}

impl Counted {
    fn counts(&self) -> MutexGuard<'_, HashMap<String, Count>> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Progress for Counted {
    fn position(&self, path: &str, bytes: u64) {
        let mut counts = self.counts();
        let count = counts.entry(path.to_owned()).or_default();
        count.fetched += bytes.saturating_sub(count.position);
        count.position = bytes;
        drop(counts);
        self.shown.position(path, bytes);
    }

    fn checking(&self, path: &str, bytes: u64) {
        self.shown.checking(path, bytes);
    }

    fn resumed(&self, path: &str, bytes: u64) {
        self.counts().entry(path.to_owned()).or_default().position = bytes;
        self.shown.resumed(path, bytes);
    }

    fn proven(&self, path: &str) {
        self.shown.proven(path);
    }

    fn retrying(&self, path: &str, why: &str) {
        self.shown.retrying(path, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_brought_counts() {
        let ui = Ui::new(true);
        let counted = Counted {
            shown: ui.transfer("repairing", [("a", 10), ("b", 20)].into_iter()),
            counts: Mutex::default(),
        };
        counted.resumed("a", 4);
        counted.position("a", 4);
        counted.position("a", 10);
        // Wrong after all: from the beginning.
        counted.position("a", 0);
        counted.position("a", 10);
        counted.position("b", 20);
        let counts = counted.counts();
        assert_eq!((counts["a"].fetched, counts["b"].fetched), (16, 20));
    }
}
