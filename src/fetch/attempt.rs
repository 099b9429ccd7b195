//! Why an attempt failed, and whether another one may do better.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use super::error::chain;
use super::{FetchError, retry};
use crate::model::StoreError;

/// Why an attempt ended before all was there.
#[derive(Debug)]
pub(super) enum Cut {
    /// Another attempt may go on from here.
    Transient { why: String, wait: Option<Duration> },
    /// What the server sends cannot be what was asked for.
    Wrong(String),
    /// No attempt will do better.
    Fatal(FetchError),
}

impl From<StoreError> for Cut {
    fn from(error: StoreError) -> Self {
        Self::Fatal(error.into())
    }
}

pub(super) fn transient(why: impl Into<String>) -> Cut {
    Cut::Transient {
        why: why.into(),
        wait: None,
    }
}

/// A failed request. Stores of blobs sign their URLs, so that what follows the
/// question mark is a secret.
pub(super) fn lost(mut error: reqwest::Error) -> Cut {
    if let Some(url) = error.url_mut() {
        url.set_query(None);
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    transient(chain(&error))
}

/// What to tell where a server refuses.
pub(super) struct Advice {
    /// The server, for people.
    pub(super) endpoint: String,
    /// What to check where something is not there.
    pub(super) not_found: &'static str,
    /// What to do about a lack of rights.
    pub(super) unauthorized: String,
}

/// What a status that is no success means for the request of `what`.
pub(super) fn refused(status: StatusCode, headers: &HeaderMap, what: &str, advice: &Advice) -> Cut {
    let endpoint = advice.endpoint.clone();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Cut::Fatal(FetchError::NotFound {
            what: what.to_owned(),
            endpoint,
            advice: advice.not_found,
        }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Cut::Fatal(FetchError::Unauthorized {
            what: what.to_owned(),
            endpoint,
            status: status.as_u16(),
            advice: advice.unauthorized.clone(),
        }),
        status
            if status.is_server_error()
                || matches!(
                    status,
                    StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                ) =>
        {
            Cut::Transient {
                why: format!("the server answers {status}"),
                wait: retry_after(headers),
            }
        }
        status => Cut::Fatal(FetchError::BadAnswer {
            endpoint,
            why: format!("{status} for {what}"),
        }),
    }
}

/// A body that is not longer than that.
pub(super) async fn bounded(response: Response, most: u64) -> Result<Vec<u8>, Cut> {
    let mut body = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(next) = body.next().await {
        bytes.extend_from_slice(&next.map_err(lost)?);
        if bytes.len() as u64 > most {
            return Err(Cut::Wrong(format!("it is longer than {most} bytes")));
        }
    }
    Ok(bytes)
}

/// Asks for `what` of a server again and again, as often as for a file.
pub(super) async fn persist<T>(
    retries: u32,
    what: &str,
    endpoint: &str,
    attempt: impl AsyncFn() -> Result<T, Cut>,
) -> Result<T, FetchError> {
    let mut attempts = 0;
    loop {
        let (why, wait) = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(Cut::Fatal(error)) => return Err(error),
            Err(Cut::Wrong(why)) => {
                return Err(FetchError::BadAnswer {
                    endpoint: endpoint.to_owned(),
                    why: format!("{what}: {why}"),
                });
            }
            Err(Cut::Transient { why, wait }) => (why, wait),
        };
        attempts += 1;
        if attempts > retries {
            return Err(FetchError::Interrupted {
                path: what.to_owned(),
                why,
                attempts,
            });
        }
        tokio::time::sleep(retry::delay(attempts, wait)).await;
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
