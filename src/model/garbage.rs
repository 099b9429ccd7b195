//! What nobody needs any more.

use std::fs;
use std::path::Path;

use super::{Installed, Store, StoreError};

/// Why something may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A pull or an import that was interrupted, and that nobody is at work on.
    Interrupted,
    /// A newer revision of the model is installed.
    Superseded,
}

/// Something to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The model's name.
    pub name: String,
    /// Its revision, or `import`.
    pub revision: String,
    /// Why it may be removed.
    pub reason: Reason,
    /// Bytes on disk.
    pub size: u64,
}

impl Garbage {
    /// `NAME@REVISION`.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.revision)
    }
}

impl Store {
    /// What interrupted work left and, if asked for, revisions of which a newer one
    /// is installed.
    pub fn garbage(&self, superseded: bool) -> Vec<Garbage> {
        let interrupted = self.staged().into_iter().map(|(name, revision)| Garbage {
            size: size_of(&self.staging_dir().join(format!("{name}@{revision}"))),
            name,
            revision,
            reason: Reason::Interrupted,
        });
        let mut found: Vec<_> = interrupted.collect();
        if superseded {
            // By name, the newest first.
            let models = self.models();
            let older = models
                .windows(2)
                .filter(|pair| pair[0].name == pair[1].name);
            found.extend(older.map(|pair| superseded_one(&pair[1])));
        }
        found
    }

    /// Ends removals that were interrupted.
    pub fn end_removals(&self) {
        super::staging::empty_trash(self);
    }

    /// Removes a piece of garbage.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where somebody is at work on it, [`StoreError::InUse`]
    /// where it runs: both mean that it is none.
    pub fn collect(&self, garbage: &Garbage) -> Result<(), StoreError> {
        match garbage.reason {
            Reason::Superseded => self.remove_revision(&garbage.name, &garbage.revision),
            Reason::Interrupted => self.stage(&garbage.name, &garbage.revision)?.discard(),
        }
    }
}

fn superseded_one(model: &Installed) -> Garbage {
    Garbage {
        name: model.name.clone(),
        revision: model.revision.clone(),
        reason: Reason::Superseded,
        size: model.manifest.total_size(),
    }
}

/// Bytes below a folder; what cannot be read counts as none.
pub fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(m) if m.is_dir() => size_of(&entry.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
