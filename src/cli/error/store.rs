//! Errors of the store.

use super::Spoken;
use super::system::reason;
use crate::cli::messages::{size, translated};
use crate::model::StoreError;

impl Spoken for StoreError {
    fn spoken(&self) -> String {
        match self {
            Self::NotInstalled { wanted, looked } => translated!(
                self,
                "error-store-not-installed",
                model = wanted,
                places = either(looked)
            ),
            Self::NotMounted { root, why } => translated!(
                self,
                "error-store-not-mounted",
                store = %root.display(),
                why = why,
                folder = %root.join("models").display()
            ),
            Self::Ambiguous { wanted, candidates } => translated!(
                self,
                "error-store-ambiguous",
                model = wanted,
                candidates = either(candidates)
            ),
            Self::BadName { what, name, why } => {
                translated!(
                    self,
                    "error-store-name",
                    what = key(what),
                    name = name,
                    why = *why
                )
            }
            Self::Busy { model } => translated!(self, "error-store-busy", model = model),
            Self::InUse { model } => translated!(self, "error-store-in-use", model = model),
            Self::AlreadyInstalled { model } => {
                translated!(self, "error-store-installed", model = model)
            }
            Self::BadManifest { path, why } => {
                translated!(self, "error-store-manifest", path = %path.display(), why = why)
            }
            Self::BadCatalog { origin, why } => {
                translated!(self, "error-store-catalog", origin = origin, why = why)
            }
            Self::Incomplete { path, why } => {
                translated!(self, "error-store-incomplete", path = %path.display(), why = why)
            }
            Self::NoSpace {
                path,
                what,
                needed,
                available,
            } => translated!(
                self,
                "error-store-no-space",
                path = %path.display(),
                what = what,
                needed = size(*needed),
                free = size(*available)
            ),
            Self::Io {
                action,
                path,
                source,
            } => {
                let failed = translated!(
                    self,
                    "error-store-io",
                    action = key(action),
                    english = *action,
                    path = %path.display(),
                    why = reason(source)
                );
                match self.advice() {
                    None => failed,
                    Some(advice) => translated!(
                        self,
                        "error-store-io-advice",
                        failed = failed,
                        advice = advice.spoken()
                    ),
                }
            }
        }
    }
}

/// Words as the key of a message's variant.
fn key(words: &str) -> String {
    words.replace(' ', "-")
}

/// One of these.
fn either(candidates: &[String]) -> String {
    candidates.join(&translated!(" or ", "error-or"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::messages::{Language, arguments};

    /// What follows `before` up to the quote, in every source file.
    fn literals(folder: &Path, before: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                literals(&path, before, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let after = text.split(before).skip(1);
            found.extend(after.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }

    #[test]
    fn every_action_has_its_french_verb() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut actions = Vec::new();
        for before in ["Error::io(\"", "action: \""] {
            literals(&source, before, &mut actions);
        }
        actions.retain(|action| !action.is_empty());
        assert!(actions.len() > 20, "{actions:?}");
        for action in actions {
            let said = arguments!(
                action = key(&action),
                english = "ENGLISH",
                path = "/a",
                why = "b"
            );
            let text = Language::French.text("error-store-io", &said).unwrap();
            assert!(!text.contains("ENGLISH"), "{action}: {text}");
        }
    }
}
