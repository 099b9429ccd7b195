//! Errors of the downloader.

use super::Spoken;
use crate::cli::messages::translated;
use crate::fetch::FetchError;

impl Spoken for FetchError {
    fn spoken(&self) -> String {
        match self {
            Self::NotFound {
                what,
                endpoint,
                advice,
            } => translated!(
                self,
                "error-fetch-not-found",
                what = what,
                endpoint = endpoint,
                advice = *advice
            ),
            Self::Unauthorized {
                what,
                endpoint,
                status,
                advice,
            } => translated!(
                self,
                "error-fetch-unauthorized",
                what = what,
                endpoint = endpoint,
                status = %status,
                advice = advice
            ),
            Self::WrongBytes {
                path,
                endpoint,
                why,
            } => translated!(
                self,
                "error-fetch-wrong-bytes",
                path = path,
                endpoint = endpoint,
                why = why
            ),
            Self::WrongCopy { path, place, why } => translated!(
                self,
                "error-fetch-wrong-copy",
                path = path,
                place = place,
                why = why
            ),
            Self::Interrupted {
                path,
                why,
                attempts,
            } => translated!(
                self,
                "error-fetch-interrupted",
                path = path,
                why = why,
                attempts = *attempts
            ),
            Self::Offline { missing } => translated!(
                self,
                "error-fetch-offline",
                count = missing.len(),
                missing = missing.join(", ")
            ),
            Self::BadEndpoint(text) => translated!(self, "error-fetch-endpoint", text = text),
            Self::BadReference { text, why } => {
                translated!(self, "error-fetch-reference", text = text, why = *why)
            }
            Self::Login { endpoint, why } => {
                translated!(self, "error-fetch-login", endpoint = endpoint, why = why)
            }
            Self::NotInFolder { folder, path, why } => translated!(
                self,
                "error-fetch-not-in-folder",
                folder = %folder.display(),
                path = path,
                why = why
            ),
            Self::BadAnswer { endpoint, why } => {
                translated!(self, "error-fetch-answer", endpoint = endpoint, why = why)
            }
            Self::Client(why) => translated!(self, "error-fetch-client", why = why),
            Self::Store(error) => error.spoken(),
        }
    }
}
