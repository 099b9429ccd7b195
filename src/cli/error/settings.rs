//! Errors of the settings.

use super::Spoken;
use super::system::reason;
use crate::cli::messages::translated;
use crate::config::ConfigError;

impl Spoken for ConfigError {
    fn spoken(&self) -> String {
        match self {
            Self::Read { path, source } => {
                translated!(self, "error-settings-read", path = %path.display(), why = reason(source))
            }
            // The TOML reader's words.
            Self::Invalid { .. } => self.to_string(),
        }
    }
}
