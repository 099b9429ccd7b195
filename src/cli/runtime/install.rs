//! `gptoss-ctl runtime install`.

use std::io::{IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::build;
use crate::cli::install::open_store;
use crate::cli::messages::{message, size};
use crate::cli::progress::Ui;
use crate::cli::{CliError, ExitStatus, Global, interrupt, pull, terminal};
use crate::fetch::{Index, RateLimit, Settings};
use crate::model::Store;
use crate::platform;
use crate::runtime::wheels::{Build, Kind};
use crate::wheel::{self, Origin};

/// Arguments of `gptoss-ctl runtime install`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The build for CUDA 13, with the libraries of CUDA and cuDNN that it loads.
    #[arg(long)]
    cuda: bool,
    /// A folder with the wheels, for a machine without a network.
    #[arg(long, value_name = "DIR", conflicts_with = "index")]
    from: Option<PathBuf>,
    /// An index of Python's packages that speaks PEP 691.
    #[arg(long, value_name = "URL", default_value = Index::PYPI, value_parser = index)]
    index: String,
    /// Accept NVIDIA's licences of CUDA and cuDNN without being asked.
    #[arg(long, requires = "cuda")]
    accept_nvidia_license: bool,
    /// Most bytes a second: 10M, 500k.
    #[arg(long, value_name = "RATE", value_parser = pull::rate)]
    limit_rate: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    status: &'static str,
    build: &'static str,
    version: &'a str,
    platform: &'a str,
    folder: &'a Path,
    size: u64,
    files: Vec<&'a str>,
}

/// The licences that must be accepted, and where NVIDIA has them.
const NVIDIA_LICENCES: [&str; 2] = [
    "https://docs.nvidia.com/cuda/eula/",
    "https://docs.nvidia.com/deeplearning/cudnn/backend/latest/reference/eula.html",
];

/// A URL that an index may have.
fn index(text: &str) -> Result<String, String> {
    match Index::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(message!("runtime-bad-index")),
    }
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let build = build(args.cuda)?;
    let store = open_store(global)?;
    let folder = build.folder(store.root());
    if wheel::is_there(build, &store) {
        let people = message!(
            "runtime-is-there",
            version = &build.version,
            folder = %folder.display(),
        );
        tell(&ui, "already-installed", &people, build, &folder);
        return Ok(());
    }
    if build.kind == Kind::Cuda {
        check_place(&store)?;
    }
    accept_licences(build, &args, &ui)?;
    interrupt::watch(message!("runtime-install-interrupted"));
    let fresh = bring(global, &args, build, &store, &ui)?;
    let people = message!(
        "runtime-installed",
        version = &build.version,
        build = build.kind.name(),
        size = size(build.size()),
        folder = %folder.display(),
    );
    let status = match fresh {
        true => "installed",
        false => "already-installed",
    };
    tell(&ui, status, &people, build, &folder);
    for other in wheel::of_other_versions(&store) {
        ui.note(&message!("runtime-other-version", folder = %other.display()));
    }
    Ok(())
}

fn tell(ui: &Ui, status: &'static str, people: &str, build: &Build, folder: &Path) {
    let outcome = Outcome {
        status,
        build: build.kind.name(),
        version: &build.version,
        platform: &build.platform,
        folder,
        size: build.size(),
        files: build.files().map(|file| file.path.as_str()).collect(),
    };
    ui.result(people, &outcome);
}

/// Refuses a store from which what is installed could not be loaded.
fn check_place(store: &Store) -> Result<(), CliError> {
    let root = store.root();
    let is_root = rustix::process::geteuid().is_root();
    if root == Store::system_root() && !is_root {
        let message = message!("runtime-machines-store", store = %root.display());
        return Err(CliError::new(ExitStatus::Failed, message));
    }
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    if platform::forbids_programs(there) {
        let message = message!("runtime-noexec", store = %root.display());
        return Err(CliError::new(ExitStatus::Failed, message));
    }
    Ok(())
}

/// Says whose libraries they are and, where that is not free software, asks.
fn accept_licences(build: &Build, args: &Args, ui: &Ui) -> Result<(), CliError> {
    let names = |proprietary: bool| {
        let wheels = build.wheels.iter();
        let wheels = wheels.filter(|wheel| wheel.is_proprietary() == proprietary);
        let names = wheels.map(|wheel| format!("{} {}", wheel.project, wheel.version));
        names.collect::<Vec<_>>().join(", ")
    };
    let (free, theirs) = (names(false), names(true));
    ui.note(&message!("runtime-licence-mit", wheels = free));
    if theirs.is_empty() {
        return Ok(());
    }
    ui.note(&message!(
        "runtime-licence-nvidia",
        wheels = theirs,
        cuda = NVIDIA_LICENCES[0],
        cudnn = NVIDIA_LICENCES[1],
    ));
    if args.accept_nvidia_license {
        return Ok(());
    }
    let is_person = stdin().is_terminal() && stderr().is_terminal();
    if is_person && agrees(&message!("runtime-licence-question")) {
        return Ok(());
    }
    Err(CliError::new(
        ExitStatus::Usage,
        message!("runtime-licence-wanted"),
    ))
}

/// Asks on the terminal; whatever is no yes, in either language, is a no.
fn agrees(question: &str) -> bool {
    terminal::tell(format_args!("{question} "));
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    let yes = ["y", "yes", "o", "oui"];
    read.is_ok() && yes.contains(&answer.trim().to_lowercase().as_str())
}

fn bring(
    global: &Global,
    args: &Args,
    build: &Build,
    store: &Store,
    ui: &Ui,
) -> Result<bool, CliError> {
    let members = build.files().map(|file| (file.path.as_str(), file.size));
    let wheels = build.wheels.iter();
    let wheels = wheels.map(|wheel| (wheel.file.path.as_str(), wheel.file.size));
    let display = |label: &str| Arc::new(ui.transfer(label, wheels.chain(members)));
    let offline = global.offline || pull::offline_by_environment();
    if let Some(folder) = &args.from {
        let display = display(&message!("import-copying-now"));
        return Ok(wheel::install(
            build,
            store,
            Origin::Folder(folder),
            display,
        )?);
    }
    if offline {
        let display = display(&message!("import-copying-now"));
        return Ok(wheel::install(build, store, Origin::Staged, display)?);
    }
    let settings = Settings {
        limit: args.limit_rate.map(|rate| Arc::new(RateLimit::new(rate))),
        ..Settings::default()
    };
    let origin = Origin::Index {
        index: &Index::new(&args.index)?,
        settings: &settings,
        runtime: &pull::runtime()?,
    };
    let display = display(&message!("pull-fetching-now"));
    Ok(wheel::install(build, store, origin, display)?)
}
