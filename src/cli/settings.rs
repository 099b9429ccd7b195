//! The daemon's settings, as this user's `gptoss-ctl` sees them.

use super::{CliError, Global};
use crate::config::{self, Config, Scope};

/// Those of the machine's daemon for root, of the user's own for anybody else.
pub(super) fn load(global: &Global) -> Result<Config, CliError> {
    let scope = match rustix::process::geteuid().is_root() {
        true => Scope::System,
        false => Scope::User,
    };
    let files = config::files(scope, global.config.as_deref())?;
    Ok(Config::load(&files)?)
}
