//! One's own store and the machine's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::access::{Need, refusal};
use super::{Installed, Store, StoreError};

/// The stores that are looked into: the one that is written, then the machine's,
/// which a user only reads.
///
/// ```text
/// --store DIR, GPTOSS_STORE        that one alone
/// STATE_DIRECTORY (under systemd)  that one alone
/// root                             /var/lib/gptoss
/// anybody else                     ~/.local/share/gptoss, then /var/lib/gptoss
/// ```
///
/// `GPTOSS_SYSTEM_STORE` names another folder than `/var/lib/gptoss`, which is then
/// looked into whatever else is named; an empty one means none. A model is found in
/// one's own store first, whichever revision is newer.
#[derive(Debug, Clone)]
pub struct Stores {
    own: Store,
    system: Option<Store>,
}

impl Stores {
    /// Opens the stores of this process; `named` is what the command line names.
    ///
    /// # Errors
    /// [`StoreError::Io`], of the one that is written.
    pub fn open(named: Option<&Path>) -> Result<Self, StoreError> {
        let root = named.map_or_else(Store::default_root, Path::to_owned);
        let system = system_beside(named.is_some(), |name| std::env::var_os(name));
        Self::of(&root, system.as_deref())
    }

    /// The store at `root` and, where there is another folder at `system`, that one.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub fn of(root: &Path, system: Option<&Path>) -> Result<Self, StoreError> {
        let own = Store::open(root)?;
        let other = system.filter(|system| !same(system, root));
        let opened = other.and_then(|system| {
            Store::open(system)
                .inspect_err(|error| tracing::warn!(%error, "the machine's store is not used"))
                .ok()
        });
        Ok(Self {
            own,
            system: opened,
        })
    }

    /// The store that is written.
    pub fn own(&self) -> &Store {
        &self.own
    }

    /// The machine's, where it is another one and is there by now.
    pub fn system(&self) -> Option<&Store> {
        self.system.as_ref().filter(|store| store.root().exists())
    }

    /// Both, in the order in which they are looked into.
    pub fn all(&self) -> impl Iterator<Item = &Store> {
        [&self.own].into_iter().chain(self.system())
    }

    /// The store a model of [`Stores::find`] or [`Stores::models`] is in.
    pub fn store_of(&self, model: &Installed) -> &Store {
        let inside = |store: &&Store| model.dir.starts_with(store.root());
        self.all().find(inside).unwrap_or(&self.own)
    }

    /// [`Store::find`] in one's own store, then in the machine's.
    ///
    /// # Errors
    /// As [`Store::find`]; a model of one's own that cannot be used is not replaced by
    /// the machine's.
    pub fn find(&self, wanted: &str) -> Result<Installed, StoreError> {
        let (own, system) = match (self.own.find(wanted), self.system()) {
            (Err(own @ StoreError::NotInstalled { .. }), Some(system)) => (own, system),
            (result, _) => return result,
        };
        match (system.find(wanted), own) {
            (
                Err(StoreError::NotInstalled { looked: there, .. }),
                StoreError::NotInstalled { wanted, mut looked },
            ) => {
                let hidden = refusal(&system.models_dir(), Need::Read);
                looked.extend(there.into_iter().map(|root| match &hidden {
                    Some(why) => format!("{root} (which cannot be read: {why})"),
                    None => root,
                }));
                Err(StoreError::NotInstalled { wanted, looked })
            }
            (result, _) => result,
        }
    }

    /// [`Store::models`] of both, by name and then one's own first; of a model that
    /// both have, one's own alone.
    pub fn models(&self) -> Vec<Installed> {
        let mut models = self.own.models();
        let machines = self.system().into_iter().flat_map(Store::models);
        for model in machines {
            let there = |own: &Installed| own.name == model.name && own.revision == model.revision;
            if !models.iter().any(there) {
                models.push(model);
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }
}

/// The machine's store that is looked into beside the one that is written.
fn system_beside(named: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(system) = variable("GPTOSS_SYSTEM_STORE") {
        return (!system.is_empty()).then(|| system.into());
    }
    let set = |name| variable(name).is_some_and(|v| !v.is_empty());
    let alone = named || set("GPTOSS_STORE") || set("STATE_DIRECTORY");
    (!alone).then(Store::system_root)
}

/// Whether two paths are the same folder.
fn same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(named: bool, set: &[(&str, &str)]) -> Option<PathBuf> {
        system_beside(named, |name| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_machines_store_is_looked_into_unless_another_is_named() {
        let system = Some(Store::system_root());
        assert_eq!(beside(false, &[]), system);
        assert_eq!(beside(false, &[("GPTOSS_STORE", "")]), system);
        assert_eq!(beside(true, &[]), None);
        assert_eq!(beside(false, &[("GPTOSS_STORE", "/s")]), None);
        assert_eq!(beside(false, &[("STATE_DIRECTORY", "/s")]), None);
        for named in [false, true] {
            let there = [("GPTOSS_SYSTEM_STORE", "/srv"), ("GPTOSS_STORE", "/s")];
            assert_eq!(beside(named, &there), Some("/srv".into()));
            assert_eq!(beside(named, &[("GPTOSS_SYSTEM_STORE", "")]), None);
        }
    }

    #[test]
    fn one_folder_is_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        for system in [dir.path(), &link, &dir.path().join("none")] {
            let stores = Stores::of(dir.path(), Some(system)).unwrap();
            assert!(stores.system().is_none(), "{}", system.display());
        }
        let later = dir.path().join("none");
        let stores = Stores::of(dir.path(), Some(&later)).unwrap();
        assert_eq!(stores.all().count(), 1);
        std::fs::create_dir(&later).unwrap();
        assert_eq!(stores.all().count(), 2);
    }
}
