//! TOML settings, drop-ins, precedence.
//!
//! Read in this order, later values win, key by key:
//!
//! ```text
//! /usr/lib/gptoss/gptossd.toml      the package's
//! /usr/lib/gptoss/gptossd.toml.d/*.toml
//! /etc/gptoss/gptossd.toml          the administrator's
//! /etc/gptoss/gptossd.toml.d/*.toml
//! $XDG_CONFIG_HOME/gptoss/gptossd.toml    the user's, for one of their own
//! $XDG_CONFIG_HOME/gptoss/gptossd.toml.d/*.toml
//! ```
//!
//! These are Linux's folders; `src/platform/folders.rs` has macOS'.
//!
//! `--config FILE` names the only file instead. Drop-ins go by file name. A
//! file that is absent is skipped, an unknown key is an error.

mod settings;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use settings::OutOfRange;
pub use settings::{
    Config, Limits, Load, Memory, Metrics, Model, OnBattery, OnPressure, Power, Runtime, Socket,
    Trust, TrustedModels,
};

use crate::platform::{MACHINE_SETTINGS, user_settings_folder};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key or a value that is not what its key takes.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        reason: String,
    },
}

/// Which bus the daemon serves; decides which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One daemon for the machine.
    System,
    /// One user's own.
    User,
}

/// The files that make up the settings, in order. `only` is `--config`.
///
/// # Errors
/// A drop-in folder that exists and cannot be listed.
pub fn files(scope: Scope, only: Option<&Path>) -> Result<Vec<PathBuf>, ConfigError> {
    if let Some(path) = only {
        return Ok(vec![path.to_owned()]);
    }
    let mut folders: Vec<_> = MACHINE_SETTINGS.iter().map(PathBuf::from).collect();
    if scope == Scope::User {
        folders.extend(user_settings_folder(&|name| std::env::var_os(name)));
    }
    files_in(&folders)
}

fn files_in(folders: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    for folder in folders {
        let main = folder.join("gptossd.toml");
        if main.exists() {
            files.push(main);
        }
        let drop_ins = folder.join("gptossd.toml.d");
        let read = |source| ConfigError::Read {
            path: drop_ins.clone(),
            source,
        };
        let mut found = Vec::new();
        match std::fs::read_dir(&drop_ins) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(read)?.path();
                    if path.extension().is_some_and(|e| e == "toml") {
                        found.push(path);
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(read(error)),
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

impl Config {
    /// Reads and merges these files; the defaults fill what none of them says.
    ///
    /// # Errors
    /// Names the file, the line and, for an unknown key, the likely one.
    pub fn load(files: &[PathBuf]) -> Result<Config, ConfigError> {
        let mut merged = toml::Table::new();
        for path in files {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.clone(),
                source,
            })?;
            let invalid = |error: toml::de::Error| ConfigError::Invalid {
                path: path.clone(),
                reason: explain(&error),
            };
            // Each file must make sense alone, so that the message can name
            // the file and the line.
            let alone: Config = toml::from_str(&text).map_err(invalid)?;
            alone.validate().map_err(|wrong| ConfigError::Invalid {
                path: path.clone(),
                reason: locate(&wrong, &text),
            })?;
            let table = toml::from_str(&text).map_err(invalid)?;
            merge(&mut merged, table);
        }
        // Every value has passed in its own file, and so do all together.
        merged.try_into().map_err(|error| ConfigError::Invalid {
            path: "the settings together".into(),
            reason: explain(&error),
        })
    }
}

/// A value out of its range, with its line.
fn locate(wrong: &OutOfRange, text: &str) -> String {
    let OutOfRange { key, value, range } = wrong;
    let message = format!("{key} is {value}, it must be {range}");
    match line_of(key, text) {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    }
}

/// The line of a key, `table.key`, in a text that is valid.
fn line_of(key: &str, text: &str) -> Option<usize> {
    let (table, key) = key.split_once('.')?;
    let root = DeTable::parse(text).ok()?;
    let value = root.get_ref().get(table)?.get_ref().get(key)?;
    let before = text.get(..value.span().start)?;
    Some(before.matches('\n').count() + 1)
}

/// Overwrites `base` with `over`, table by table.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The parser's message, with line and column, and a suggestion for a
/// misspelt key.
fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    // serde: unknown field `contxt`, expected one of `context`, `default`
    let Some(names) = error.message().strip_prefix("unknown field ") else {
        return text.to_owned();
    };
    let mut names = names.split('`').skip(1).step_by(2);
    let Some(given) = names.next() else {
        return text.to_owned();
    };
    let distance = |name: &str| strsim::damerau_levenshtein(given, name);
    let near = names.min_by_key(|name| distance(name));
    match near.filter(|name| distance(name) <= given.len().div_ceil(2)) {
        Some(name) => format!("{text}\ndid you mean `{name}`?"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
