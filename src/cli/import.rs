//! `gptoss-ctl import`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use sha2::{Digest, Sha256};

use super::error::reason;
use super::identity::{Claim, describe, identify};
use super::install::{self, Provenance, open_store};
use super::messages::{message, size};
use super::progress::{Task, Ui};
use super::trust::Trust;
use super::{CliError, ExitStatus, Global, bundle, interrupt, plan};
use crate::bundle::Bundle;
use crate::fetch::is_checkpoint_file;
use crate::model::{
    FileEntry, Installed, Published, Staging, Store, StoreError, check_model_name, create_file,
    require_space, sanitize_model_name, sha256_file, to_hex,
};
use crate::platform;

/// Arguments of `gptoss-ctl import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of a checkpoint, as published or as transformers saves fine-tunes, or a bundle.
    dir: PathBuf,
    /// Name in the store [default: the published model's, else the folder's].
    #[arg(long)]
    name: Option<String>,
    /// What to export for, separated by commas: cpu, portable, cuda, cuda-int4, coreml.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    target: Vec<Target>,
}

impl From<Args> for bundle::import::Args {
    fn from(args: Args) -> Self {
        Self {
            path: args.dir,
            name: args.name,
            target: args.target,
            model: None,
            key: Vec::new(),
            no_runtime: false,
        }
    }
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    if Bundle::is_at(&args.dir) {
        return bundle::import::run(global, args.into());
    }
    let trust = Trust::load(global, &[])?;
    let ui = Ui::new(global.json);
    let store = open_store(global)?;
    let provisional = provisional_name(&args)?;
    let sources = checkpoint_files(&args.dir)?;
    let needed = install::check_config(&args.dir, &args.target)?;
    plan::tell_memory(&ui, &args.dir, &plan::as_the_daemon(global)?);
    interrupt::watch(message!("import-interrupted"));
    // Its name and revision are known only when its bytes are.
    let staging = store.stage(&provisional, "import")?;
    staging.clear()?;
    let result = copy_all(&staging, &sources, needed, &ui)
        .and_then(|files| judge(&args, &provisional, &files, &trust).map(|found| (files, found)));
    let (files, (provenance, published)) = match result {
        Err(error) => {
            staging.discard()?;
            return Err(error);
        }
        Ok(done) => done,
    };
    if let Some(model) = store.get(&provenance.name, &provenance.revision)? {
        staging.discard()?;
        return tell_installed(&store, model, &args.target, &ui);
    }
    let model = install::install(staging, files, provenance, &args.target, &ui)?;
    let people = message!(
        "import-installed",
        model = model.manifest.label(),
        size = size(model.manifest.total_size()),
        identity = describe(published.as_ref()),
    );
    install::tell(&ui, "installed", &people, &model);
    Ok(())
}

/// The model is there already: only what it was not exported for is left to do.
pub(super) fn tell_installed(
    store: &Store,
    model: Installed,
    targets: &[Target],
    ui: &Ui,
) -> Result<(), CliError> {
    let people = message!("import-already", model = model.manifest.label());
    match install::add_targets(store, &model, targets, false, ui)? {
        Some(model) => install::tell(ui, "exported", &people, &model),
        None => install::tell(ui, "already-installed", &people, &model),
    }
    Ok(())
}

/// The name asked for, or one made from the folder's.
fn provisional_name(args: &Args) -> Result<String, CliError> {
    if let Some(name) = &args.name {
        check_model_name(name)?;
        return Ok(name.clone());
    }
    let folder = fs::canonicalize(&args.dir).map_err(|e| unreadable(&args.dir, &e))?;
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
    name.as_deref()
        .and_then(sanitize_model_name)
        .ok_or_else(|| CliError::new(ExitStatus::Usage, message!("import-needs-a-name")))
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    let status = match error.kind() {
        io::ErrorKind::NotFound => ExitStatus::NotFound,
        _ => ExitStatus::Failed,
    };
    let message = message!("import-unreadable", path = %path.display(), error = reason(error));
    CliError::new(status, message)
}

/// A file to copy: path, name, size.
struct SourceFile {
    path: PathBuf,
    name: String,
    size: u64,
}

/// The checkpoint's own files in a folder. Links are followed, as the hub's
/// cache consists of them.
fn checkpoint_files(dir: &Path) -> Result<Vec<SourceFile>, CliError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| unreadable(dir, &e))? {
        let entry = entry.map_err(|e| unreadable(dir, &e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !is_checkpoint_file(&name) {
            continue;
        }
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|e| unreadable(&path, &e))?;
        if !metadata.is_file() {
            return Err(CliError::new(
                ExitStatus::Verification,
                message!("import-no-regular-file", path = %path.display()),
            ));
        }
        files.push(SourceFile {
            size: metadata.len(),
            path,
            name,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn copy_all(
    staging: &Staging,
    sources: &[SourceFile],
    export: u64,
    ui: &Ui,
) -> Result<Vec<FileEntry>, CliError> {
    let total: u64 = sources.iter().map(|s| s.size).sum();
    require_space(
        &staging.dir,
        &message!("space-copy-and-export"),
        total.saturating_add(export),
    )?;
    ui.note(&message!(
        "import-copying",
        files = sources.len(),
        size = size(total),
    ));
    let task = ui.task(&message!("import-copying-now"), total);
    let mut done = 0;
    let mut entries = Vec::new();
    for source in sources {
        let entry = copy(source, &staging.dir, &mut done, total, &task)?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Copies a file, sharing its blocks where the file system can, and hashes the
/// copy's bytes.
fn copy(
    source: &SourceFile,
    dir: &Path,
    done: &mut u64,
    total: u64,
    task: &Task,
) -> Result<FileEntry, CliError> {
    let mut advance = |bytes: u64| {
        *done += bytes;
        task.set(*done, total);
    };
    let target = dir.join(&source.name);
    let mut from = File::open(&source.path).map_err(|e| unreadable(&source.path, &e))?;
    let mut to = create_file(&target).map_err(StoreError::io("create", &target))?;
    let (size, sha256) = match platform::share_blocks(&to, &from) {
        Ok(()) => sha256_file(&target, &mut advance).map_err(StoreError::io("read", &target))?,
        Err(_) => {
            let mut hash = Sha256::new();
            let mut block = vec![0; 1 << 20];
            let mut size = 0;
            from.rewind().map_err(|e| unreadable(&source.path, &e))?;
            loop {
                let n = match from.read(&mut block) {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(unreadable(&source.path, &e)),
                };
                to.write_all(&block[..n])
                    .map_err(StoreError::io("write", &target))?;
                hash.update(&block[..n]);
                size += n as u64;
                advance(n as u64);
            }
            (size, to_hex(&hash.finalize()))
        }
    };
    to.sync_all().map_err(StoreError::io("flush", &target))?;
    Ok(FileEntry {
        path: source.name.clone(),
        size,
        sha256,
    })
}

/// Which model the copied bytes are, and whether the site takes it.
fn judge(
    args: &Args,
    provisional: &str,
    files: &[FileEntry],
    trust: &Trust,
) -> Result<(Provenance, Option<Published>), CliError> {
    let source = fs::canonicalize(&args.dir).unwrap_or_else(|_| args.dir.clone());
    let claim = Claim {
        asked: args.name.as_deref(),
        fallback: provisional,
        revision: None,
        source: format!("import of {}", source.display()),
        license: None,
    };
    let found = identify(claim, files)?;
    trust.judge(&found.0)?;
    Ok(found)
}
