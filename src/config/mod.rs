//! TOML settings, drop-ins, precedence.
//!
//! Read in this order, later values win, key by key:
//!
//! ```text
//! /usr/lib/gptoss/gptossd.toml      the package's
//! /usr/lib/gptoss/gptossd.toml.d/*.toml
//! /etc/gptoss/gptossd.toml          the administrator's
//! /etc/gptoss/gptossd.toml.d/*.toml
//! $XDG_CONFIG_HOME/gptoss/gptossd.toml    the user's, for `--bus session`
//! $XDG_CONFIG_HOME/gptoss/gptossd.toml.d/*.toml
//! ```
//!
//! `--config FILE` names the only file instead. Drop-ins go by file name. A
//! file that is absent is skipped, an unknown key is an error.

mod settings;

use std::path::{Path, PathBuf};

pub use settings::{Config, Limits, Load, Model, Runtime};

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
    /// Not TOML, an unknown key or a value of the wrong kind.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        reason: String,
    },
    /// A value out of its range.
    #[error("{key} is {value}, it must be {range}")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        range: &'static str,
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
    let mut folders = vec![PathBuf::from("/usr/lib/gptoss"), "/etc/gptoss".into()];
    if scope == Scope::User {
        folders.extend(user_folder());
    }
    files_in(&folders)
}

fn user_folder() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let base = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    Some(base?.join("gptoss"))
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
            toml::from_str::<Config>(&text)
                .map_err(invalid)?
                .validate()?;
            let table = toml::from_str(&text).map_err(invalid)?;
            merge(&mut merged, table);
        }
        let config: Config = merged.try_into().map_err(|error| ConfigError::Invalid {
            path: "the settings together".into(),
            reason: explain(&error),
        })?;
        config.validate()?;
        Ok(config)
    }
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
    let near = names.min_by_key(|name| distance(given, name));
    match near.filter(|name| distance(given, name) <= given.len().div_ceil(2)) {
        Some(name) => format!("{text}\ndid you mean `{name}`?"),
        None => text.to_owned(),
    }
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            let changed = diagonal + usize::from(x != *y);
            left = changed.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
