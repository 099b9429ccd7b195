//! What the system says of a failed operation.

use std::io;

use crate::cli::messages::translated;

/// The system's reason. It is known by its number, where it is one that people meet.
pub(in crate::cli) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            translated!(error, "error-system", number = number, english = %error)
        }
        None => error.to_string(),
    }
}
