//! Which models this site lets in.

use std::path::{Path, PathBuf};

use super::install::Provenance;
use super::{CliError, ExitStatus, Global, settings};
use crate::bundle::TrustedKeys;
use crate::config::TrustedModels;
use crate::model::Catalog;

/// The settings under `[trust]`, with the keys read.
pub(super) struct Trust {
    demand: TrustedModels,
    folder: PathBuf,
    pub(super) keys: TrustedKeys,
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
            keys,
        })
    }

    /// Refuses a model that has not what the site demands.
    pub(super) fn judge(&self, provenance: &Provenance) -> Result<(), CliError> {
        let signed = provenance.signature.is_some();
        let builtin = provenance.catalog.as_deref() == Some(Catalog::BUILTIN);
        let fits = match self.demand {
            TrustedModels::Any => true,
            TrustedModels::Pinned if signed || builtin => true,
            TrustedModels::Pinned => match &provenance.catalog {
                Some(catalog) => self.signed_catalog(Path::new(catalog))?,
                None => false,
            },
            TrustedModels::Signed => signed,
        };
        if fits {
            return Ok(());
        }
        let wants = match self.demand {
            TrustedModels::Signed => "signed by a trusted key (trust.models = \"signed\")",
            _ => {
                "published, pinned by a signed catalog, or signed by a trusted key \
                 (trust.models = \"pinned\")"
            }
        };
        Err(CliError::new(
            ExitStatus::Verification,
            format!(
                "this site takes only models that are {wants}, and {} is not; trusted keys \
                 are in {}. Nothing was installed",
                provenance.name,
                self.folder.display()
            ),
        ))
    }

    /// Whether a catalog has a trusted signature beside it, `FILE.minisig`.
    fn signed_catalog(&self, catalog: &Path) -> Result<bool, CliError> {
        let mut signature = catalog.as_os_str().to_owned();
        signature.push(".minisig");
        Ok(self
            .keys
            .signed_file(catalog, Path::new(&signature))?
            .is_some())
    }
}
