//! `gptoss-ctl bundle create`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::runtime;
use crate::bundle::{self, BundleError, Contents, Form, Signer};
use crate::cli::error::reason;
use crate::cli::install::{all_of, open_stores};
use crate::cli::messages::{message, size};
use crate::cli::progress::Ui;
use crate::cli::{CliError, ExitStatus, Global, interrupt};
use crate::model::InUse;
use crate::runtime::pinned::PinnedRuntime;

/// Smallest piece: below, none holds a document.
const SMALLEST_PIECE: u64 = 64_000;

/// Arguments of `gptoss-ctl bundle create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model: NAME or NAME@REVISION.
    model: String,
    /// Where to write it: a tar file if it ends in .tar, else a new folder.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Cut the tar file into pieces of at most this size: 4G, 650M.
    #[arg(long, value_name = "SIZE", value_parser = piece_size)]
    split: Option<u64>,
    /// Put ONNX Runtime in, too, so that the medium is all a machine needs beside the
    /// programs: for this platform, or for those named: linux-x86_64, linux-aarch64.
    #[arg(
        long,
        value_name = "PLATFORMS",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        value_parser = runtime::platform,
        default_missing_value = runtime::THIS
    )]
    with_runtime: Vec<PinnedRuntime>,
    /// A folder with ONNX Runtime's library, as packaging/runtime/fetch makes it, or
    /// with a folder for each platform [default: where this program finds its own].
    #[arg(long, value_name = "DIR", requires = "with_runtime")]
    runtime_dir: Vec<PathBuf>,
    /// Sign it with this secret key of minisign's.
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Created<'a> {
    status: &'static str,
    path: &'a Path,
    name: &'a str,
    revision: &'a str,
    /// Digest of the model's manifest, which is what a signature is over.
    manifest: String,
    size: u64,
    /// Number of the key that signed it.
    signed_by: Option<String>,
    /// Platforms whose ONNX Runtime is in it.
    runtimes: Vec<String>,
}

/// In powers of ten, so that 4G fits FAT32.
fn piece_size(text: &str) -> Result<u64, String> {
    match crate::cli::size::bytes(text)? {
        s if s < SMALLEST_PIECE => Err(message!("bundle-piece-too-small", least = SMALLEST_PIECE)),
        s => Ok(s),
    }
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let form = form(&args)?;
    let stores = open_stores(global)?;
    let model = stores.find(&args.model)?;
    let _in_use = InUse::hold(&model.dir)?;
    let runtimes = runtime::locate(&args.with_runtime, &args.runtime_dir, &stores)?;
    let signer = args.sign.as_deref().map(open_signer).transpose()?;
    interrupt::watch(message!("bundle-create-interrupted"));
    let files = &model.manifest.files;
    let total: u64 = files.iter().map(|f| f.size).sum();
    let platforms: Vec<String> = runtimes.iter().map(|r| r.platform.clone()).collect();
    let label = model.manifest.label();
    ui.note(&writing(&label, files.len(), size(total), &platforms));
    let written = {
        let display = ui.transfer(
            &message!("bundle-writing-now"),
            files.iter().map(|f| (f.path.as_str(), f.size)),
        );
        let contents = Contents {
            model: &model,
            runtimes: &runtimes,
            signer: signer.as_ref(),
        };
        bundle::create(&contents, &args.output, form, &display)?
    };
    let signed_by = signer.as_ref().map(Signer::key_id);
    let created = Created {
        status: "created",
        path: &args.output,
        name: &model.name,
        revision: &model.revision,
        manifest: written.manifest.to_string(),
        size: written.size,
        signed_by,
        runtimes: platforms,
    };
    ui.result(&wrote(label, &created), &created);
    Ok(())
}

/// What is about to be written.
fn writing(label: &str, files: usize, size: String, platforms: &[String]) -> String {
    match platforms {
        [] => message!("bundle-writing", model = label, files = files, size = size),
        platforms => message!(
            "bundle-writing-with-runtime",
            model = label,
            files = files,
            size = size,
            platforms = all_of(platforms),
        ),
    }
}

/// What was written.
fn wrote(label: String, created: &Created<'_>) -> String {
    let what = match &created.runtimes[..] {
        [] => label,
        platforms => message!(
            "bundle-model-and-runtime",
            model = label,
            platforms = all_of(platforms),
        ),
    };
    let path = created.path.display();
    match &created.signed_by {
        None => message!(
            "bundle-wrote",
            what = what,
            path = %path,
            size = size(created.size),
            manifest = &created.manifest,
        ),
        Some(key) => message!(
            "bundle-wrote-signed",
            what = what,
            path = %path,
            size = size(created.size),
            manifest = &created.manifest,
            key = key,
        ),
    }
}

fn form(args: &Args) -> Result<Form, CliError> {
    let is_tar = args.output.extension().is_some_and(|e| e == "tar");
    match (is_tar, args.split) {
        (true, Some(size)) => Ok(Form::Pieces(size)),
        (true, None) => Ok(Form::Tar),
        (false, None) => Ok(Form::Folder),
        (false, Some(_)) => Err(CliError::new(
            ExitStatus::Usage,
            message!("bundle-split-needs-tar"),
        )),
    }
}

fn open_signer(path: &Path) -> Result<Signer, CliError> {
    let key = path.display();
    let ask = || {
        let prompt = message!("bundle-password", key = %key);
        rpassword::prompt_password(format!("{prompt} ")).map_err(|error| {
            BundleError::Signature(message!(
                "bundle-no-password",
                key = %key,
                error = reason(&error),
            ))
        })
    };
    Ok(Signer::open(path, ask)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pieces() {
        assert_eq!(piece_size("4G"), Ok(4_000_000_000));
        for bad in ["", "4T", "1k", "63999"] {
            assert!(piece_size(bad).is_err(), "{bad}");
        }
    }
}
