//! `gptoss-ctl pull`.

mod gather;
mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gptoss_onnx::export::Target;
use gptoss_onnx::nano;
use tokio::runtime::Runtime;

use self::gather::{Gathered, gather};
use super::error::reason;
use super::identity::{NANO, embedded};
use super::install::{self, Provenance, discard_if_empty, open_stores};
use super::messages::{message, size};
use super::progress::Ui;
use super::trust::{Trust, VouchedCatalog, catalog_name};
use super::{CliError, ExitStatus, Global, interrupt, plan};
use crate::fetch::{Endpoint, Hub, RateLimit, SCHEME, Settings, Source};
use crate::model::incoming::{Expected, Wanted};
use crate::model::{
    Catalog, CatalogModel, Dimensions, Installed, Store, check_model_name, check_repo,
    split_revision,
};
use crate::runtime::Options;

/// Arguments of `gptoss-ctl pull`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// 20b, 120b, nano, a name in the catalog, hf:OWNER/NAME[@REVISION], or
    /// oci://HOST[:PORT]/NAME[:TAG|@sha256:DIGEST] for a bundle in a registry.
    model: String,
    /// Where to fetch from: a hub, a mirror of one, or file:///FOLDER [default:
    /// HF_ENDPOINT, else the hub].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// A catalog of your own: a TOML file that pins revisions and digests.
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// What to export for, separated by commas: cpu, portable, cuda, cuda-int4, coreml.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    target: Vec<Target>,
    #[arg(skip)]
    offline: bool,
    /// How it will be loaded.
    #[arg(skip)]
    loaded: Options,
    /// Fetch into your own store what the machine's has already.
    #[arg(long)]
    own_copy: bool,
    /// The machine's store, where what it has is not fetched again.
    #[arg(skip)]
    machines: Option<Store>,
    /// Name in the store of a model pulled with hf: or oci: [default: OWNER--NAME,
    /// the published model's, the bundle's].
    #[arg(long)]
    name: Option<String>,
    /// A public key of minisign's whose signature counts, too.
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// Speak HTTP without TLS to a registry, or not [default: only on this machine's
    /// loopback interface].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    plain_http: Option<bool>,
    /// Take nothing from the cache of Hugging Face's own tools.
    #[arg(long)]
    no_cache: bool,
    /// Files fetched at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Connections at once, all files together: those that no file needs for itself
    /// fetch ranges of large ones.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Bytes a connection fetches at once of a file that has several: 64M; files of
    /// less than two such ranges have one [default: 64 MiB].
    #[arg(long, value_name = "BYTES", value_parser = range_size)]
    range_size: Option<u64>,
    /// Most bytes a second, all files together: 10M, 500k.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<u64>,
    /// Attempts in a row that may bring nothing before giving up.
    #[arg(long, default_value_t = 5)]
    retries: u32,
    /// Seconds after which a silent connection is cut.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    stall_timeout: u32,
}

/// Below this a connection looks dead to the server.
const SLOWEST: u64 = 1000;

/// Bytes a second of `--limit-rate`.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    match super::size::bytes(text)? {
        rate if rate < SLOWEST => Err(message!("pull-rate-too-low", least = SLOWEST)),
        rate => Ok(rate),
    }
}

/// Shorter ranges are requests and little else.
const SHORTEST_RANGE: u64 = 16_000;

fn range_size(text: &str) -> Result<u64, String> {
    match super::size::bytes(text)? {
        size if size < SHORTEST_RANGE => {
            Err(message!("pull-range-too-short", least = SHORTEST_RANGE))
        }
        size => Ok(size),
    }
}

const INSTALLED: &str = "installed";
const EXPORTED: &str = "exported";
const ALREADY: &str = "already-installed";
const SHARED: &str = "in-system-store";

/// A model and the bytes it must consist of.
struct Request {
    provenance: Provenance,
    files: Vec<Wanted>,
    origin: Origin,
    /// Where they are known before the checkpoint's configuration is there.
    dimensions: Option<Dimensions>,
    /// What a later attempt without a network must know besides what it is asked.
    note: Option<Vec<u8>>,
}

/// Where a model's files are.
enum Origin {
    /// On the hub, a mirror of it, or in a folder that is one.
    Hub { endpoint: Endpoint, repo: String },
    /// In a registry, which was asked already.
    Registry {
        source: Arc<Source>,
        runtime: Runtime,
    },
    /// Where an earlier attempt brought them.
    Staged,
}

/// Runs the command.
pub fn run(global: &Global, mut args: Args) -> Result<(), CliError> {
    args.offline = global.offline || offline_by_environment();
    args.loaded = plan::as_the_daemon(global)?;
    let ui = Ui::new(global.json);
    let stores = open_stores(global)?;
    let store = stores.own().clone();
    if !args.own_copy {
        args.machines = stores.system().cloned();
    }
    let trust = Trust::load(global, &args.key)?;
    interrupt::watch(message!("pull-interrupted"));
    let (status, model) = if let Some(reference) = args.model.strip_prefix("hf:") {
        pull_reference(&store, &args, reference, &trust, &ui)?
    } else if let Some(reference) = args.model.strip_prefix(SCHEME) {
        registry::pull(&store, &args, reference, &trust, &ui)?
    } else if args.name.is_some() {
        return Err(CliError::new(
            ExitStatus::Usage,
            message!("pull-name-is-the-catalogs"),
        ));
    } else {
        match choose(&args.model, args.catalog.as_deref(), &trust)? {
            Choice::Embedded => pull_nano(&store, &args, &ui)?,
            Choice::Pinned { by, model } => {
                let (name, _) = split_revision(&args.model);
                refuse_shadow(by.catalog.origin(), name, &model)?;
                let request = pinned_request(&args, name, &by, &model)?;
                pull(&store, &args, request, &trust, &ui)?
            }
        }
    };
    report(&ui, status, &model);
    Ok(())
}

fn report(ui: &Ui, status: &str, model: &Installed) {
    let label = model.manifest.label();
    let people = match status {
        INSTALLED => installed(model, label),
        EXPORTED => message!("pull-exported", model = label),
        SHARED => message!("pull-shared", model = label, folder = %model.dir.display()),
        _ => message!("pull-already", model = label, name = &model.name),
    };
    install::tell(ui, status, &people, model);
}

fn installed(model: &Installed, label: String) -> String {
    let size = size(model.manifest.total_size());
    let folder = model.dir.display();
    match &model.manifest.signature {
        None => message!("pull-installed", model = label, size = size, folder = %folder),
        Some(signature) => message!(
            "pull-installed-signed",
            model = label,
            size = size,
            folder = %folder,
            key = &signature.key_id,
        ),
    }
}

/// What a name stands for.
pub(super) enum Choice {
    /// The model inside the program.
    Embedded,
    /// A model of a catalog.
    Pinned {
        by: Box<VouchedCatalog>,
        model: Box<CatalogModel>,
    },
}

/// Looks a name up: in the catalog that was named, then in the one in force.
pub(super) fn choose(
    reference: &str,
    catalog: Option<&Path>,
    trust: &Trust,
) -> Result<Choice, CliError> {
    if let Some(folder) = reference.strip_prefix("file:") {
        let folder = format!("/{}", folder.trim_start_matches('/'));
        return Err(CliError::new(
            ExitStatus::Usage,
            message!("pull-folder-is-no-model", folder = folder),
        ));
    }
    let (name, revision) = split_revision(reference);
    check_model_name(name)?;
    let catalogs = trust.catalogs(catalog)?;
    let found = catalogs
        .iter()
        .find_map(|by| Some((by, by.catalog.get(name)?)));
    let Some((by, model)) = found else {
        if name == NANO && revision.is_empty() {
            return Ok(Choice::Embedded);
        }
        let names = catalogs.iter().flat_map(|by| by.catalog.names());
        let mut known: Vec<&str> = names.collect();
        known.push(NANO);
        known.dedup();
        return Err(CliError::new(
            ExitStatus::NotFound,
            message!("pull-no-such-model", name = name, known = known.join(", ")),
        ));
    };
    if !model.revision.starts_with(revision) {
        return Err(CliError::new(
            ExitStatus::Usage,
            message!(
                "pull-other-revision-pinned",
                catalog = catalog_name(by.catalog.origin()),
                name = name,
                pinned = &model.revision,
                repo = &model.repo,
                wanted = revision,
            ),
        ));
    }
    Ok(Choice::Pinned {
        by: Box::new(by.clone()),
        model: Box::new(model.clone()),
    })
}

/// What to fetch for a model of a catalog.
fn pinned_request(
    args: &Args,
    name: &str,
    by: &VouchedCatalog,
    model: &CatalogModel,
) -> Result<Request, CliError> {
    let endpoint = Endpoint::choose(args.endpoint.as_deref())?;
    Ok(Request {
        provenance: Provenance {
            name: name.to_owned(),
            revision: model.revision.clone(),
            source: format!("{endpoint}/{}", model.repo),
            catalog: Some(by.catalog.origin().to_owned()),
            catalog_file: Some(by.record()),
            license: model.license.clone(),
            signature: None,
        },
        files: model.files.iter().map(Wanted::from).collect(),
        origin: Origin::Hub {
            endpoint,
            repo: model.repo.clone(),
        },
        dimensions: model.dimensions.clone(),
        note: None,
    })
}

/// Refuses a site's catalog that gives a published model's name to other bytes:
/// nothing bypasses the built-in pins.
fn refuse_shadow(origin: &str, name: &str, model: &CatalogModel) -> Result<(), CliError> {
    let builtin = Catalog::builtin();
    let embedded = (name == NANO).then(|| embedded().1);
    let published = builtin.get(name).map(|published| &published.files);
    match published.or(embedded.as_ref()) {
        Some(files) if *files != model.files => Err(CliError::new(
            ExitStatus::Usage,
            message!(
                "pull-shadows-published",
                catalog = catalog_name(origin),
                name = name,
            ),
        )),
        _ => Ok(()),
    }
}

/// `hf:OWNER/NAME[@REVISION]`.
fn pull_reference(
    store: &Store,
    args: &Args,
    reference: &str,
    trust: &Trust,
    ui: &Ui,
) -> Result<(&'static str, Installed), CliError> {
    let (repo, revision) = split_revision(reference);
    let revision = Some(revision).filter(|revision| !revision.is_empty());
    check_repo(repo).map_err(|why| {
        let message = message!("pull-bad-reference", reference = reference, why = why);
        CliError::new(ExitStatus::Usage, message)
    })?;
    let name = args.name.clone().unwrap_or_else(|| repo.replace('/', "--"));
    check_model_name(&name)?;
    refuse_published_name(&name)?;
    let builtin = Catalog::builtin();
    let pinned = revision.and_then(|r| builtin.pinned(repo, r));
    let request = match pinned {
        Some((_, model)) => pinned_request(args, &name, &trust.builtin()?, model)?,
        None if args.offline => {
            return Err(CliError::new(
                ExitStatus::Failed,
                message!("pull-hub-offline", reference = reference),
            ));
        }
        None => resolve(args, &name, repo, revision, trust)?,
    };
    pull(store, args, request, trust, ui)
}

/// Names of published models are for their bytes only.
fn refuse_published_name(name: &str) -> Result<(), CliError> {
    if Catalog::builtin().get(name).is_none() && name != NANO {
        return Ok(());
    }
    Err(CliError::new(
        ExitStatus::Usage,
        message!("pull-published-name", name = name),
    ))
}

/// Asks the hub what a revision is. A revision the built-in catalog pins must
/// have the bytes it pins, whatever the server says.
fn resolve(
    args: &Args,
    name: &str,
    repo: &str,
    revision: Option<&str>,
    trust: &Trust,
) -> Result<Request, CliError> {
    let endpoint = Endpoint::choose(args.endpoint.as_deref())?;
    let Endpoint::Server(server) = &endpoint else {
        return Err(CliError::new(
            ExitStatus::Usage,
            message!(
                "pull-folder-says-nothing",
                endpoint = %endpoint,
                repo = repo,
            ),
        ));
    };
    let hub = Hub::new(server, &settings(args))?;
    let resolved = runtime()?.block_on(hub.resolve(repo, revision))?;
    let builtin = Catalog::builtin();
    if let Some((_, model)) = builtin.pinned(repo, &resolved.revision) {
        return pinned_request(args, name, &trust.builtin()?, model);
    }
    Ok(Request {
        provenance: Provenance {
            name: name.to_owned(),
            revision: resolved.revision,
            source: format!("{endpoint}/{repo}"),
            catalog: None,
            catalog_file: None,
            license: resolved.license,
            signature: None,
        },
        files: resolved.files,
        origin: Origin::Hub {
            endpoint,
            repo: repo.to_owned(),
        },
        dimensions: None,
        note: None,
    })
}

fn settings(args: &Args) -> Settings {
    let usual = Settings::default();
    Settings {
        jobs: args.jobs.into(),
        connections: args.connections.into(),
        window: args.range_size.unwrap_or(usual.window),
        retries: args.retries,
        stall: Duration::from_secs(args.stall_timeout.into()),
        limit: args.limit_rate.map(|rate| Arc::new(RateLimit::new(rate))),
    }
}

/// What downloads run on.
pub(super) fn runtime() -> Result<Runtime, CliError> {
    Runtime::new().map_err(|error| {
        let message = message!("pull-no-downloader", error = reason(&error));
        CliError::new(ExitStatus::Failed, message)
    })
}

/// Fetches, validates, exports and installs, unless that was done before.
fn pull(
    store: &Store,
    args: &Args,
    mut request: Request,
    trust: &Trust,
    ui: &Ui,
) -> Result<(&'static str, Installed), CliError> {
    let provenance = &request.provenance;
    trust.judge(provenance)?;
    if let Some(model) = store.get(&provenance.name, &provenance.revision)? {
        refuse_other_bytes(&model, &request.files)?;
        return finish_installed(store, model, args, ui);
    }
    if let Some(model) =
        in_system_store(args, &provenance.name, &provenance.revision, &request.files)?
    {
        return Ok((SHARED, model));
    }
    let staging = store.stage(&provenance.name, &provenance.revision)?;
    // It may have been installed before the lock was ours.
    if let Some(model) = store.get(&provenance.name, &provenance.revision)? {
        drop(staging);
        return finish_installed(store, model, args, ui);
    }
    let Gathered { files, cached } = match gather(&staging, args, &request, ui) {
        Ok(gathered) => gathered,
        Err(error) => {
            discard_if_empty(staging)?;
            return Err(error);
        }
    };
    if cached > 0 {
        let from_cache = format!(", {cached} of {} files from the cache", files.len());
        request.provenance.source += &from_cache;
    }
    let model = install::install(staging, files, request.provenance, &args.target, ui)?;
    Ok((INSTALLED, model))
}

/// The model in the machine's store, where a user need not fetch it again.
fn in_system_store(
    args: &Args,
    name: &str,
    revision: &str,
    files: &[Wanted],
) -> Result<Option<Installed>, CliError> {
    let Some(system) = &args.machines else {
        return Ok(None);
    };
    // One that cannot be used does not stand in the way.
    let Ok(Some(model)) = system.get(name, revision) else {
        return Ok(None);
    };
    if refuse_other_bytes(&model, files).is_err() {
        return Ok(None);
    }
    let lacking = |t: &&Target| !model.manifest.targets.contains_key(t.name());
    match args.target.iter().find(lacking) {
        None => Ok(Some(model)),
        Some(target) => Err(CliError::new(
            ExitStatus::Failed,
            message!(
                "pull-not-exported-by-machine",
                model = model.manifest.label(),
                target = %target,
                store = %system.root().display(),
                name = name,
            ),
        )),
    }
}

/// Exports an installed model for the targets it lacks.
fn finish_installed(
    store: &Store,
    model: Installed,
    args: &Args,
    ui: &Ui,
) -> Result<(&'static str, Installed), CliError> {
    Ok(
        match install::add_targets(store, &model, &args.target, false, ui)? {
            Some(model) => (EXPORTED, model),
            None => (ALREADY, model),
        },
    )
}

/// An installed revision must be the one asked for, byte for byte.
fn refuse_other_bytes(model: &Installed, files: &[Wanted]) -> Result<(), CliError> {
    let differs = |wanted: &&Wanted| {
        let there = model.manifest.files.iter().find(|f| f.path == wanted.path);
        !there.is_some_and(|f| match &wanted.expected {
            Expected::Sha256(digest) => f.size == wanted.size && f.sha256 == *digest,
            Expected::GitBlob(_) => f.size == wanted.size,
        })
    };
    let Some(wanted) = files.iter().find(differs) else {
        return Ok(());
    };
    Err(CliError::new(
        ExitStatus::Verification,
        message!(
            "pull-other-bytes-installed",
            model = model.manifest.label(),
            file = &wanted.path,
        ),
    ))
}

/// What the hub's own tools obey, too.
pub(super) fn offline_by_environment() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false"))
}

/// Installs the model inside the program. No connection is opened.
fn pull_nano(store: &Store, args: &Args, ui: &Ui) -> Result<(&'static str, Installed), CliError> {
    let (revision, files) = embedded();
    if let Some(model) = store.get(NANO, &revision)? {
        return finish_installed(store, model, args, ui);
    }
    let wanted: Vec<_> = files.iter().map(Wanted::from).collect();
    if let Some(model) = in_system_store(args, NANO, &revision, &wanted)? {
        return Ok((SHARED, model));
    }
    let staging = store.stage(NANO, &revision)?;
    staging.clear()?;
    for (path, bytes) in nano::files() {
        staging.write(path, bytes)?;
    }
    let provenance = Provenance {
        name: NANO.into(),
        revision,
        source: "embedded in gptoss-ctl".into(),
        catalog: Some(Catalog::BUILTIN.into()),
        catalog_file: None,
        license: Some(env!("CARGO_PKG_LICENSE").into()),
        signature: None,
    };
    let model = install::install(staging, files, provenance, &args.target, ui)?;
    Ok((INSTALLED, model))
}
