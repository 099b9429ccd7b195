//! Why files could not be fetched.

use std::path::PathBuf;

use crate::model::StoreError;

/// An error of the downloader.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server has no such repository, revision or file.
    #[error("{what} is not on {endpoint}: {advice}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The server.
        endpoint: String,
        /// What to check.
        advice: &'static str,
    },
    /// The server wants to know who asks, or knows and refuses.
    #[error("{endpoint} refuses access to {what} (HTTP {status}): {advice}")]
    Unauthorized {
        /// What was asked for.
        what: String,
        /// The server.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// What to do about it.
        advice: String,
    },
    /// Bytes are not what they must be, twice.
    #[error(
        "{path} from {endpoint} is wrong: {why}. The file was deleted and nothing was installed; the server, or something on the way, alters it"
    )]
    WrongBytes {
        /// The file.
        path: String,
        /// The server.
        endpoint: String,
        /// Which property is wrong.
        why: String,
    },
    /// What lies on this machine has not the bytes it must have.
    #[error("{path} in {place} is not what it must be: {why}; nothing was installed")]
    WrongCopy {
        /// The file.
        path: String,
        /// Where it lies.
        place: String,
        /// Which property is wrong.
        why: String,
    },
    /// A transfer brought nothing any more.
    #[error(
        "{path}: {why}; gave up after {attempts} attempts. What was fetched is kept: run the same command again to go on"
    )]
    Interrupted {
        /// The file, or what was asked for.
        path: String,
        /// The last reason.
        why: String,
        /// Attempts in a row without any progress.
        attempts: u32,
    },
    /// Files are missing and no connection is allowed.
    #[error("--offline: {} still to be fetched ({}); run the command once without --offline", count(missing), missing.join(", "))]
    Offline {
        /// The files.
        missing: Vec<String>,
    },
    /// A URL that is none.
    #[error(
        "\"{0}\" is not a usable endpoint: give http://HOST, https://HOST or file:///FOLDER with --endpoint or HF_ENDPOINT"
    )]
    BadEndpoint(String),
    /// Text that names nothing in a registry.
    #[error(
        "\"{text}\" is refused: {why}; write oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST"
    )]
    BadReference {
        /// The text, escaped.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A user's credentials cannot be read, or must not be sent.
    #[error("cannot log in to {endpoint}: {why}")]
    Login {
        /// The registry.
        endpoint: String,
        /// The reason, without anything secret.
        why: String,
    },
    /// A folder on this machine lacks a file.
    #[error("{} has no {path}: {why}", folder.display())]
    NotInFolder {
        /// The folder.
        folder: PathBuf,
        /// The file.
        path: String,
        /// The system's reason.
        why: String,
    },
    /// The answer of the server makes no sense.
    #[error("{endpoint} answered nonsense: {why}")]
    BadAnswer {
        /// The server.
        endpoint: String,
        /// What is wrong with it.
        why: String,
    },
    /// The HTTP client cannot work on this machine.
    #[error("cannot set up HTTPS: {0}; install the package ca-certificates")]
    Client(String),
    /// Writing failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FetchError {
    /// A task that was cancelled or panicked.
    pub(super) fn task(error: tokio::task::JoinError) -> Self {
        StoreError::Io {
            action: "go on with",
            path: "the transfer".into(),
            source: std::io::Error::other(error),
        }
        .into()
    }
}

fn count(missing: &[String]) -> String {
    match missing.len() {
        1 => "1 file is".into(),
        n => format!("{n} files are"),
    }
}

/// An error with everything that caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
