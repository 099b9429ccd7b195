//! Where the files of an installed model can be had again.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::bundle::Bundle;
use crate::cli::identity::is_embedded;
use crate::cli::messages::{message, translated};
use crate::cli::{CliError, ExitStatus};
use crate::fetch::{Endpoint, Reference, SCHEME};
use crate::model::{Catalog, Manifest, check_repo};

use super::Args;

/// A place that has a model's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// This program.
    Embedded,
    /// A repository on a hub or a mirror of one.
    Hub { endpoint: Endpoint, repo: String },
    /// A name in a registry, which has files by their digests.
    Registry(Reference),
    /// A checkpoint's folder.
    Folder(PathBuf),
    /// A bundle.
    Bundle(PathBuf),
}

impl Origin {
    /// What the command line names, else where the manifest says the model came from.
    pub(super) fn choose(args: &Args, manifest: &Manifest) -> Result<Self, CliError> {
        if let Some(path) = &args.from {
            return Self::at(path).ok_or_else(|| {
                CliError::new(
                    ExitStatus::NotFound,
                    message!("origin-neither", path = %path.display()),
                )
            });
        }
        let recorded = repository(&manifest.source);
        if let Some(name) = args.endpoint.as_ref().and_then(|e| e.strip_prefix(SCHEME)) {
            return Ok(Self::Registry(Reference::parse(name)?));
        }
        if let Some(given) = &args.endpoint {
            let endpoint = Endpoint::choose(Some(given))?;
            let repo = recorded.map(|(_, repo)| repo).or_else(|| pinned(manifest));
            return match repo {
                Some(repo) => Ok(Self::Hub { endpoint, repo }),
                None => Err(CliError::new(
                    ExitStatus::Usage,
                    message!(
                        "origin-no-hub",
                        model = manifest.label(),
                        source = &manifest.source,
                        endpoint = given,
                    ),
                )),
            };
        }
        if is_embedded(manifest) {
            return Ok(Self::Embedded);
        }
        if let Some((endpoint, repo)) = recorded {
            // A site that names a mirror means it for this as well.
            let mirror = std::env::var("HF_ENDPOINT").is_ok_and(|v| !v.is_empty());
            let given = (!mirror).then_some(endpoint.as_str());
            let endpoint = Endpoint::choose(given)?;
            return Ok(Self::Hub { endpoint, repo });
        }
        if let Some(reference) = registry(&manifest.source) {
            return Ok(Self::Registry(reference));
        }
        local(&manifest.source).ok_or_else(|| {
            let (model, source) = (manifest.label(), &manifest.source);
            let message = match pinned(manifest) {
                Some(_) => message!("origin-gone-published", model = model, source = source),
                None => message!("origin-gone", model = model, source = source),
            };
            CliError::new(ExitStatus::NotFound, message)
        })
    }

    /// The folder or the bundle at `path`.
    fn at(path: &Path) -> Option<Self> {
        if Bundle::is_at(path) {
            return Some(Self::Bundle(path.to_owned()));
        }
        path.is_dir().then(|| Self::Folder(path.to_owned()))
    }

    /// Whether it takes a connection.
    pub(super) fn is_distant(&self) -> bool {
        match self {
            Self::Hub { endpoint, .. } => matches!(endpoint, Endpoint::Server(_)),
            Self::Registry(_) => true,
            Self::Embedded | Self::Folder(_) | Self::Bundle(_) => false,
        }
    }

    /// Where it is, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Embedded => translated!(self, "origin-program"),
            Self::Hub { .. } | Self::Registry(_) | Self::Folder(_) | Self::Bundle(_) => {
                self.to_string()
            }
        }
    }
}

/// Where it is, for programs.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("this program"),
            Self::Hub { endpoint, repo } => write!(f, "{endpoint}/{repo}"),
            Self::Registry(reference) => reference.fmt(f),
            Self::Folder(path) | Self::Bundle(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

/// Server and repository of a `source` that `pull` wrote: `ENDPOINT/OWNER/NAME`.
fn repository(source: &str) -> Option<(String, String)> {
    // More may follow, as how many files a cache had.
    let url = source.split_once(", ").map_or(source, |(url, _)| url);
    let mut parts = url.rsplitn(3, '/');
    let (name, owner, endpoint) = (parts.next()?, parts.next()?, parts.next()?);
    let repo = format!("{owner}/{name}");
    let endpoint = Endpoint::choose(Some(endpoint)).ok()?.to_string();
    check_repo(&repo).ok().map(|()| (endpoint, repo))
}

/// The name of a `source` that `pull` wrote: `oci://HOST/NAME:TAG@sha256:DIGEST, from …`.
fn registry(source: &str) -> Option<Reference> {
    let rest = source.strip_prefix(SCHEME)?;
    let name = rest.split_once(", ").map_or(rest, |(name, _)| name);
    Reference::parse(name).ok()
}

/// The folder or bundle of a `source` that `import` wrote, where it is still there:
/// `import of PATH`, or `bundle PATH, from …`.
fn local(source: &str) -> Option<Origin> {
    if let Some(path) = source.strip_prefix("import of ") {
        return Origin::at(Path::new(path));
    }
    let rest = source.strip_prefix("bundle ")?;
    // A path may hold these words itself: the longest that is there.
    let ends = rest.rmatch_indices(", from ").map(|(at, _)| &rest[..at]);
    ends.map(Path::new).find_map(Origin::at)
}

/// The repository of a model that the built-in catalog pins.
fn pinned(manifest: &Manifest) -> Option<String> {
    let catalog = Catalog::builtin();
    let published = catalog.recognise(&manifest.files)?;
    (published.complete() && published.revision == manifest.revision).then_some(published.repo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        assert_eq!(
            repository("https://huggingface.co/openai/gpt-oss-20b"),
            Some(("https://huggingface.co".into(), "openai/gpt-oss-20b".into()))
        );
        assert_eq!(
            repository("http://m:80/hub/a/b, 2 of 9 files from the cache"),
            Some(("http://m:80/hub".into(), "a/b".into()))
        );
        for none in [
            "embedded in gptoss-ctl",
            "import of /media/x/y",
            "bundle /b.tar, from https://huggingface.co/openai/gpt-oss-20b",
            "https://huggingface.co/../x",
            "ftp://m/a/b",
            "",
        ] {
            assert_eq!(repository(none), None, "{none}");
        }
    }

    #[test]
    fn names_in_registries() {
        let digest = "0".repeat(64);
        let name = format!("oci://r.site:5000/a/b:20b@sha256:{digest}");
        for source in [name.clone(), format!("{name}, from import of /x, from y")] {
            assert_eq!(registry(&source).map(|r| r.to_string()), Some(name.clone()));
            assert_eq!(repository(&source), None, "{source}");
        }
        for none in ["oci://", "oci://r/A", "bundle oci://r/a", "https://r/a/b"] {
            assert_eq!(registry(none), None, "{none}");
        }
    }

    #[test]
    fn what_was_imported_is_looked_for_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a, from b");
        std::fs::create_dir(&odd).unwrap();
        let source = format!("import of {}", odd.display());
        assert_eq!(local(&source), Some(Origin::Folder(odd.clone())));
        let source = format!("bundle {}, from import of /x, from y", odd.display());
        assert_eq!(local(&source), Some(Origin::Folder(odd)));
        assert_eq!(local("bundle /nowhere/b.tar, from x"), None);
        assert_eq!(local("oci://registry/x"), None);
    }
}
