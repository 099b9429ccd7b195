//! ONNX Runtime in a bundle. A library is code: only the bytes that this program
//! pins go into a bundle or out of one.

use std::path::{Path, PathBuf};

use crate::bundle::{Bundle, BundledRuntime, RuntimeFiles};
use crate::cli::install::all_of;
use crate::cli::messages::{message, size};
use crate::cli::progress::Ui;
use crate::cli::{CliError, ExitStatus};
use crate::model::incoming::{Wanted, prove as prove_file, remaining};
use crate::model::{FileEntry, Store, Stores, require_space};
use crate::runtime::pinned::{PinnedRuntime, licence_folder, this_platform};
use crate::runtime::{carried, library};

/// `--with-runtime` without a platform.
pub(super) const THIS: &str = "this";

/// Name under which a library on its way in is staged, by its platform.
const STAGED: &str = "onnxruntime";

/// `linux-x86_64`, or [`THIS`].
pub(super) fn platform(text: &str) -> Result<PinnedRuntime, String> {
    let found = match text {
        THIS => PinnedRuntime::here(),
        platform => PinnedRuntime::of(platform),
    };
    found.ok_or_else(|| {
        let known: Vec<_> = PinnedRuntime::all()
            .into_iter()
            .map(|r| r.platform)
            .collect();
        message!("bundle-runtime-platforms", platforms = all_of(&known))
    })
}

/// Where the files of the wanted runtimes are: in the folders that were named, or
/// where this program finds its own. Whoever copies them proves them.
pub(super) fn locate(
    wanted: &[PinnedRuntime],
    folders: &[PathBuf],
    stores: &Stores,
) -> Result<Vec<RuntimeFiles>, CliError> {
    let mut found: Vec<RuntimeFiles> = Vec::new();
    for runtime in wanted {
        if !found.iter().any(|r| r.platform == runtime.platform) {
            found.push(locate_one(runtime, folders, stores)?);
        }
    }
    Ok(found)
}

fn locate_one(
    wanted: &PinnedRuntime,
    folders: &[PathBuf],
    stores: &Stores,
) -> Result<RuntimeFiles, CliError> {
    let named = folders
        .iter()
        .flat_map(|folder| [folder.join(&wanted.platform), folder.clone()]);
    let mut places: Vec<PathBuf> = named.collect();
    if wanted.platform == this_platform() {
        places.extend(library::folders());
        places.extend(stores.all().map(|store| carried::folder(store.root())));
    }
    let licences = places.iter().filter_map(|p| licence_folder(p));
    let places: Vec<PathBuf> = places.iter().cloned().chain(licences).collect();
    let locate = |entry: &FileEntry| {
        let place = PinnedRuntime::locate(entry, &places).ok_or_else(|| missing(wanted, entry))?;
        Ok((place, entry.clone()))
    };
    let files: Result<Vec<_>, CliError> = wanted.files().map(locate).collect();
    Ok(RuntimeFiles {
        platform: wanted.platform.clone(),
        files: files?,
    })
}

fn missing(wanted: &PinnedRuntime, entry: &FileEntry) -> CliError {
    let processor = wanted.platform.rsplit('-').next().unwrap_or_default();
    CliError::new(
        ExitStatus::NotFound,
        message!(
            "bundle-runtime-missing",
            file = &entry.path,
            platform = &wanted.platform,
            processor = processor,
        ),
    )
}

/// Platforms of a bundle's runtimes.
pub(super) fn platforms(bundle: &Bundle) -> Vec<&str> {
    let runtimes = bundle.runtimes().iter();
    runtimes.map(|r| r.platform.as_str()).collect()
}

/// Refuses a bundle with a library that this program does not pin.
fn judge(bundle: &Bundle) -> Result<(), CliError> {
    for runtime in bundle.runtimes() {
        if !is_pinned(runtime) {
            return Err(CliError::new(
                ExitStatus::Verification,
                message!(
                    "bundle-runtime-not-pinned",
                    platform = &runtime.platform,
                    version = env!("CARGO_PKG_VERSION"),
                ),
            ));
        }
    }
    Ok(())
}

fn is_pinned(runtime: &BundledRuntime) -> bool {
    let Some(pinned) = PinnedRuntime::of(&runtime.platform) else {
        return false;
    };
    // A bundle lists no name twice.
    runtime.files.len() == pinned.files().count()
        && pinned.files().all(|file| runtime.files.contains(file))
}

/// Proves the bundle's runtimes: what they must be, and that they are it.
pub(super) fn prove(bundle: &Bundle, ui: &Ui) -> Result<(), CliError> {
    judge(bundle)?;
    for runtime in bundle.runtimes() {
        let sizes = runtime.files.iter().map(|f| (f.path.as_str(), f.size));
        let display = ui.transfer(&message!("bundle-proving-now"), sizes);
        bundle.prove(&runtime.files, &display)?;
    }
    Ok(())
}

/// Brings this platform's library into the store, where it is found when none is
/// installed.
pub(super) fn install(bundle: &Bundle, store: &Store, ui: &Ui) -> Result<(), CliError> {
    judge(bundle)?;
    let here = this_platform();
    let Some(runtime) = bundle.runtimes().iter().find(|r| r.platform == here) else {
        if let platforms @ [_, ..] = &platforms(bundle)[..] {
            ui.note(&message!(
                "bundle-runtime-for-others",
                platforms = all_of(platforms),
                here = here,
            ));
        }
        return Ok(());
    };
    let folder = carried::folder(store.root());
    if is_there(&folder, &runtime.files) {
        return Ok(());
    }
    let staging = store.stage(STAGED, &here)?;
    let wanted: Vec<Wanted> = runtime.files.iter().map(Wanted::from).collect();
    require_space(
        &staging.dir,
        "ONNX Runtime",
        remaining(&staging.dir, &wanted),
    )?;
    let sizes = runtime.files.iter().map(|f| (f.path.as_str(), f.size));
    let display = ui.transfer(&message!("import-copying-now"), sizes);
    bundle.bring(&runtime.files, &staging.dir, &display)?;
    staging.commit_files(&folder, &runtime.files)?;
    ui.note(&message!(
        "bundle-runtime-installed",
        size = size(runtime.files.iter().map(|f| f.size).sum()),
        folder = %folder.display(),
    ));
    Ok(())
}

fn is_there(folder: &Path, files: &[FileEntry]) -> bool {
    let proven = |file: &FileEntry| prove_file(&folder.join(&file.path), &Wanted::from(file));
    files.iter().all(|file| matches!(proven(file), Ok(Some(_))))
}
