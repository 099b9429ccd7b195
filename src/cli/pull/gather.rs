//! Brings a model's files together, from wherever they are.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{Args, Origin, Request, runtime, settings};
use crate::cli::install::{self, SMALL};
use crate::cli::messages::{message, size};
use crate::cli::progress::{Transfer, Ui};
use crate::cli::{CliError, plan};
use crate::fetch::{
    self, Brought, Endpoint, FetchError, Folder, Repository, Settings, Source, prove_there,
};
use crate::model::incoming::{Wanted, remaining};
use crate::model::{FileEntry, Staging, require_space};

/// A model's files in a staging folder.
pub(super) struct Gathered {
    /// All of them, proven.
    pub(super) files: Vec<FileEntry>,
    /// How many came from the hub's cache.
    pub(super) cached: usize,
}

/// Brings every file into the staging folder: the small ones first, since the
/// configuration among them says whether the others are of use.
pub(super) fn gather(
    staging: &Staging,
    args: &Args,
    request: &Request,
    ui: &Ui,
) -> Result<Gathered, CliError> {
    let dir = &staging.dir;
    let places = Places::of(args, request)?;
    if !places.is_here_alone() {
        let dimensions = request.dimensions.as_ref();
        let exports = dimensions.map_or(0, |d| install::export_bytes(d, 0, &args.target));
        let what = match exports {
            0 => message!("space-download"),
            _ => message!("space-download-and-export"),
        };
        let needed = remaining(dir, &request.files).saturating_add(exports);
        require_space(dir, &what, needed)?;
    }
    announce(request, &places, ui);
    let sizes = request.files.iter().map(|f| (f.path.as_str(), f.size));
    let display = Arc::new(ui.transfer(&message!("pull-fetching-now"), sizes));
    let (mut small, mut large): (Vec<_>, Vec<_>) =
        request.files.iter().cloned().partition(|f| f.size <= SMALL);
    if !small.iter().any(|f| f.path == "config.json") {
        small.append(&mut large);
    }
    let mut all = places.bring(&small, dir, &display)?;
    if all.missing.is_empty() {
        let needed = match install::check_config(dir, &args.target) {
            Err(error) => {
                // These bytes are proven, and of no use.
                staging.clear()?;
                return Err(error);
            }
            Ok(needed) => needed,
        };
        plan::tell_memory(ui, dir, &args.loaded);
        if let Some(note) = &request.note {
            staging.keep_note(note)?;
        }
        // The export comes when all windows are gone.
        let needed = needed.max(places.twice(&large));
        let needed = remaining(dir, &large).saturating_add(needed);
        require_space(dir, &message!("space-download-and-export"), needed)?;
        all.add(places.bring(&large, dir, &display)?);
    } else {
        // Only to tell of all that is missing.
        all.missing.extend(prove_there(dir, &large)?.1);
    }
    if !all.missing.is_empty() {
        let missing = all.missing.into_iter().map(|f| f.path).collect();
        return Err(FetchError::Offline { missing }.into());
    }
    let mut files = all.entries;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Gathered {
        files,
        cached: all.cached,
    })
}

fn announce(request: &Request, places: &Places<'_>, ui: &Ui) {
    let provenance = &request.provenance;
    if let Rest::Nobody = places.rest {
        return;
    }
    let total = request.files.iter().map(|f| f.size).sum();
    ui.note(&message!(
        "pull-fetching",
        model = format!("{}@{}", provenance.name, provenance.revision),
        files = request.files.len(),
        size = size(total),
        source = &provenance.source,
    ));
    if let Some(cache) = &places.cache {
        ui.note(&message!("pull-from-cache", cache = %cache.path().display()));
    }
}

/// Where files are looked for, in this order.
struct Places<'a> {
    /// The hub's cache, where it has the revision.
    cache: Option<Folder>,
    rest: Rest<'a>,
}

/// Who has what the cache has not.
enum Rest<'a> {
    Server {
        source: Arc<Source>,
        settings: Settings,
        runtime: Lent<'a>,
    },
    Folder(Folder),
    /// What there is was brought before.
    Nobody,
}

/// The thing that runs transfers: connections live as long as it does.
enum Lent<'a> {
    Own(Runtime),
    Of(&'a Runtime),
}

/// What is there of some files.
#[derive(Default)]
struct Found {
    entries: Vec<FileEntry>,
    missing: Vec<Wanted>,
    cached: usize,
}

impl Found {
    fn add(&mut self, more: Self) {
        self.entries.extend(more.entries);
        self.missing.extend(more.missing);
        self.cached += more.cached;
    }
}

impl<'a> Places<'a> {
    fn of(args: &Args, request: &'a Request) -> Result<Self, CliError> {
        let revision = &request.provenance.revision;
        let mut cache = None;
        let rest = match &request.origin {
            Origin::Staged => Rest::Nobody,
            Origin::Registry { source, runtime } => Rest::Server {
                source: source.clone(),
                settings: settings(args),
                runtime: Lent::Of(runtime),
            },
            Origin::Hub {
                endpoint: Endpoint::Folder(root),
                repo,
            } => Rest::Folder(Folder::named(root, repo, revision)?),
            Origin::Hub {
                endpoint: Endpoint::Server(url),
                repo,
            } => {
                cache = match args.no_cache {
                    true => None,
                    false => Folder::in_cache(repo, revision),
                };
                match args.offline {
                    true => Rest::Nobody,
                    false => Rest::Server {
                        source: Arc::new(Source::Hub(Repository::new(url, repo, revision)?)),
                        settings: settings(args),
                        runtime: Lent::Own(runtime()?),
                    },
                }
            }
        };
        Ok(Self { cache, rest })
    }

    /// Nothing but what was brought before: no bytes will come.
    fn is_here_alone(&self) -> bool {
        self.cache.is_none() && matches!(self.rest, Rest::Nobody)
    }

    /// Bytes of files that may be there twice for a moment while they are brought.
    fn twice(&self, files: &[Wanted]) -> u64 {
        match &self.rest {
            Rest::Server { settings, .. } => settings.twice(files),
            Rest::Folder(_) | Rest::Nobody => 0,
        }
    }

    /// Brings files and proves them. Something is missing only without a connection.
    fn bring(
        &self,
        files: &[Wanted],
        dir: &Path,
        display: &Arc<Transfer>,
    ) -> Result<Found, CliError> {
        let brought = match &self.cache {
            Some(cache) => cache.bring(files, dir, &**display)?,
            None => Brought {
                missing: files.to_vec(),
                ..Brought::default()
            },
        };
        let mut found = Found {
            cached: brought.entries.len(),
            entries: brought.entries,
            missing: Vec::new(),
        };
        let wanted = brought.missing;
        match &self.rest {
            Rest::Nobody => {
                let (entries, missing) = prove_there(dir, &wanted)?;
                found.entries.extend(entries);
                found.missing = missing;
            }
            Rest::Folder(folder) => {
                found
                    .entries
                    .extend(folder.bring_all(&wanted, dir, &**display)?);
            }
            Rest::Server {
                source,
                settings,
                runtime,
            } => {
                let runtime = match runtime {
                    Lent::Own(runtime) => runtime,
                    Lent::Of(runtime) => runtime,
                };
                let fetched = runtime.block_on(fetch::fetch(
                    source.clone(),
                    &wanted,
                    dir,
                    settings,
                    display.clone(),
                ))?;
                found.entries.extend(fetched);
            }
        }
        Ok(found)
    }
}
