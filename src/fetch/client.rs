//! The HTTP client and the URLs.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};

use super::FetchError;

/// The hub, unless something else is asked for.
const HUB: &str = "https://huggingface.co";

/// A repository at a revision, on a server.
#[derive(Debug, Clone)]
pub struct Source {
    client: Client,
    endpoint: String,
    token: Option<String>,
    repo: String,
    revision: String,
}

impl Source {
    /// `repo` (`OWNER/NAME`) at `revision` on `endpoint`, all checked before.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(endpoint: &str, repo: &str, revision: &str) -> Result<Self, FetchError> {
        Ok(Self {
            client: build(endpoint, || Policy::limited(10))?,
            endpoint: endpoint.to_owned(),
            token: token(),
            repo: repo.to_owned(),
            revision: revision.to_owned(),
        })
    }

    /// The server.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the repository is, for people.
    pub fn location(&self) -> String {
        format!("{}/{}", self.endpoint, self.repo)
    }

    /// A request for a file. A redirect to another host loses the token.
    pub(super) fn get(&self, path: &str) -> RequestBuilder {
        let request = self
            .client
            .get(file_url(&self.endpoint, &self.repo, &self.revision, path));
        authorized(request, self.token.as_deref())
    }
}

/// URL of a file. Every part is a plain component of unreserved characters, so
/// nothing needs to be escaped.
pub(super) fn file_url(endpoint: &str, repo: &str, revision: &str, path: &str) -> String {
    let path = path.replace('+', "%2B");
    format!("{endpoint}/{repo}/resolve/{revision}/{path}")
}

pub(super) fn authorized(request: RequestBuilder, token: Option<&str>) -> RequestBuilder {
    match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    }
}

/// A client that hands out the bytes as they are on the server.
pub(super) fn build(endpoint: &str, redirects: fn() -> Policy) -> Result<Client, FetchError> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("gptoss-ctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .redirect(redirects())
            // Several files at once want several connections, not streams of one.
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
    };
    match builder().build() {
        // A machine without any root certificates may still use a plain mirror.
        Err(_) if endpoint.starts_with("http://") => builder().tls_certs_only([]).build(),
        result => result,
    }
    .map_err(|e| FetchError::Client(super::error::chain(&e)))
}

/// The server to ask: what was given, `HF_ENDPOINT`, else the hub.
///
/// # Errors
/// [`FetchError::BadEndpoint`].
pub fn endpoint(given: Option<&str>) -> Result<String, FetchError> {
    let variable = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
    let text = given.map(str::to_owned).or(variable);
    let text = text.as_deref().unwrap_or(HUB).trim_end_matches('/');
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        _ => Err(FetchError::BadEndpoint(text.to_owned())),
    }
}

/// The user's token for the hub, where the hub's own tools look for it.
pub(super) fn token() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    if variable("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let file = |path: PathBuf| std::fs::read_to_string(path).ok();
    variable("HF_TOKEN")
        .or_else(|| variable("HF_TOKEN_PATH").and_then(|path| file(path.into())))
        .or_else(|| file(hf_hub::hf_home().join("token")))
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(endpoint(Some("http://m:80/x/")).unwrap(), "http://m:80/x");
        for bad in ["", "m", "ftp://m", "file:///x", "http://"] {
            assert!(endpoint(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls() {
        assert_eq!(
            file_url("http://m", "a/b", "r", "c+d.json"),
            "http://m/a/b/resolve/r/c%2Bd.json"
        );
    }
}
