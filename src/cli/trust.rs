//! Which models this site lets in.

use std::fmt;
use std::path::{Path, PathBuf};

use super::install::Provenance;
use super::messages::{message, translated};
use super::{CliError, ExitStatus, Global, settings};
use crate::bundle::TrustedKeys;
use crate::config::TrustedModels;
use crate::model::{Catalog, CatalogFile, Signature, StoreError, sha256_bytes};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// File name of the signature over the built-in catalog.
const BUILTIN_SIGNATURE: &str = "catalog.toml.minisig";

/// The settings under `[trust]`, with the keys read.
pub(super) struct Trust {
    demand: TrustedModels,
    folder: PathBuf,
    site_catalog: PathBuf,
    pub(super) keys: TrustedKeys,
}

/// A catalog, and who vouches for its bytes.
#[derive(Debug, Clone)]
pub(super) struct VouchedCatalog {
    pub(super) catalog: Catalog,
    /// That of a key which is trusted here.
    pub(super) signature: Option<Signature>,
}

impl VouchedCatalog {
    /// What a manifest remembers of it.
    pub(super) fn record(&self) -> CatalogFile {
        CatalogFile {
            sha256: self.catalog.sha256().to_owned(),
            signature: self.signature.clone(),
        }
    }

    /// Which one it is and who vouches for it, for people.
    pub(super) fn describe(&self) -> String {
        let origin = catalog_name(self.catalog.origin());
        match (&self.signature, self.is_builtin()) {
            (Some(signature), _) => {
                let key = &signature.key_id;
                translated!(self, "catalog-signed", catalog = origin, key = key)
            }
            (None, true) => {
                translated!(
                    self,
                    "catalog-of-package",
                    catalog = origin,
                    version = VERSION
                )
            }
            (None, false) => translated!(self, "catalog-unsigned", catalog = origin),
        }
    }

    fn is_builtin(&self) -> bool {
        self.catalog.origin() == Catalog::BUILTIN
    }
}

/// The same, for programs.
impl fmt::Display for VouchedCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.catalog.origin();
        match (&self.signature, self.is_builtin()) {
            (Some(signature), _) => write!(f, "{origin}, signed by key {}", signature.key_id),
            (None, true) => write!(
                f,
                "{origin}, part of gptoss {VERSION} and as authentic as that package"
            ),
            (None, false) => write!(f, "{origin}, not signed by a trusted key"),
        }
    }
}

/// A catalog's origin, for people: its file, or a word for the built-in one.
pub(super) fn catalog_name(origin: &str) -> String {
    match origin {
        Catalog::BUILTIN => message!("catalog-builtin"),
        file => file.to_owned(),
    }
}

impl Trust {
    /// Reads the settings; `more` are keys of the command line.
    pub(super) fn load(global: &Global, more: &[PathBuf]) -> Result<Self, CliError> {
        let settings = settings::load(global)?.trust;
        let mut keys = TrustedKeys::from_folder(&settings.keys)?;
        for path in more {
            keys.add(path)?;
        }
        Ok(Self {
            demand: settings.models,
            folder: settings.keys,
            site_catalog: settings.catalog,
            keys,
        })
    }

    /// Refuses a model that has not what the site demands.
    pub(super) fn judge(&self, provenance: &Provenance) -> Result<(), CliError> {
        let signed = provenance.signature.is_some();
        let builtin = provenance.catalog.as_deref() == Some(Catalog::BUILTIN);
        let catalog = provenance.catalog_file.as_ref();
        let signed_catalog = catalog.is_some_and(|c| c.signature.is_some());
        let fits = match self.demand {
            TrustedModels::Any => true,
            TrustedModels::Pinned => signed || builtin || signed_catalog,
            TrustedModels::Signed => signed,
        };
        if fits {
            return Ok(());
        }
        let (model, keys) = (&provenance.name, self.folder.display());
        let message = match self.demand {
            TrustedModels::Signed => {
                message!("trust-signed-only", model = model, keys = %keys)
            }
            _ => message!("trust-pinned-only", model = model, keys = %keys),
        };
        Err(CliError::new(ExitStatus::Verification, message))
    }

    /// The catalogs that a name is looked up in, in order: one of the command line,
    /// and the one in force.
    pub(super) fn catalogs(&self, named: Option<&Path>) -> Result<Vec<VouchedCatalog>, CliError> {
        let named = named.map(|path| self.read_catalog(path)).transpose()?;
        let in_force = self.catalog()?;
        Ok(named.into_iter().chain([in_force]).collect())
    }

    /// The catalog in force: the site's, where it has one, else the built-in. One that
    /// lacks the signature which the site demands is an error and not passed over: it
    /// is there because it should count.
    pub(super) fn catalog(&self) -> Result<VouchedCatalog, CliError> {
        let path = &self.site_catalog;
        let there = path.try_exists();
        if !there.map_err(StoreError::io("read the catalog", path))? {
            return self.builtin();
        }
        let site = self.read_catalog(path)?;
        if site.signature.is_some() || self.demand == TrustedModels::Any {
            return Ok(site);
        }
        Err(CliError::new(
            ExitStatus::Verification,
            message!(
                "trust-signed-catalogs-only",
                catalog = %path.display(),
                keys = %self.folder.display(),
            ),
        ))
    }

    /// The catalog inside this program, and the signature that whoever packaged it may
    /// have put beside: `share/gptoss/catalog.toml.minisig` of the same installation.
    pub(super) fn builtin(&self) -> Result<VouchedCatalog, CliError> {
        let program = std::env::current_exe().ok();
        let prefix = program.as_deref().and_then(|p| p.parent()?.parent());
        let signature = prefix.map(|p| p.join("share/gptoss").join(BUILTIN_SIGNATURE));
        let text = Catalog::BUILTIN_TEXT;
        let signature = match signature {
            Some(path) => self.signature_in(&path, text)?,
            None => None,
        };
        Ok(VouchedCatalog {
            catalog: Catalog::builtin(),
            signature,
        })
    }

    /// A catalog's file with the signature beside it, `FILE.minisig`. What is parsed is
    /// what was checked: the file is read once.
    fn read_catalog(&self, path: &Path) -> Result<VouchedCatalog, CliError> {
        let text = Catalog::read_text(path)?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".minisig");
        Ok(VouchedCatalog {
            signature: self.signature_in(Path::new(&beside), &text)?,
            catalog: Catalog::parse(&text, &path.display().to_string())?,
        })
    }

    fn signature_in(&self, path: &Path, text: &str) -> Result<Option<Signature>, CliError> {
        let signed = self.keys.signed_in(path, text.as_bytes())?;
        Ok(signed.map(|signed| Signature {
            key_id: signed.key_id,
            comment: signed.comment,
            over: format!("sha256:{}", sha256_bytes(text.as_bytes())),
        }))
    }
}
