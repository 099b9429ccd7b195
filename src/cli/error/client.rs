//! Errors of calls to the daemon.

use super::Spoken;
use crate::cli::messages::translated;
use crate::client::ClientError;

impl Spoken for ClientError {
    fn spoken(&self) -> String {
        match self {
            Self::Unreachable(why) => translated!(self, "error-client-unreachable", why = why),
            Self::Died => translated!(self, "error-client-died"),
            Self::Malformed(why) => translated!(self, "error-client-malformed", why = why),
            // The daemon's and the bus' own words: a daemon speaks to every user.
            Self::Refused { .. } | Self::Bus(_) => self.to_string(),
        }
    }
}
