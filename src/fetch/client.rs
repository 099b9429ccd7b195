//! The HTTP clients and the hub's URLs.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Url};

use super::FetchError;

/// The hub, unless something else is asked for.
const HUB: &str = "https://huggingface.co";

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
    let plain = endpoint.starts_with("http://");
    finish(plain, || builder().redirect(redirects()))
}

/// A client for a server where a user has a password: what begins encrypted stays so.
pub(super) fn build_strict(plain: bool, redirects: fn() -> Policy) -> Result<Client, FetchError> {
    finish(plain, || builder().redirect(redirects()).https_only(!plain))
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("gptoss-ctl/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        // Several files at once want several connections, not streams of one.
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
}

/// `plain` is for servers without TLS.
fn finish(plain: bool, builder: impl Fn() -> ClientBuilder) -> Result<Client, FetchError> {
    match builder().build() {
        // A machine without any root certificates may still use a plain mirror.
        Err(_) if plain => builder().tls_certs_only([]).build(),
        result => result,
    }
    .map_err(|e| FetchError::Client(super::error::chain(&e)))
}

/// What models are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A hub, or a mirror of one: `http://` or `https://`, without a slash at the end.
    Server(String),
    /// A folder on this machine.
    Folder(PathBuf),
}

impl Endpoint {
    /// What was given, `HF_ENDPOINT`, else the hub.
    ///
    /// # Errors
    /// [`FetchError::BadEndpoint`].
    pub fn choose(given: Option<&str>) -> Result<Self, FetchError> {
        let variable = std::env::var("HF_ENDPOINT").ok().filter(|v| !v.is_empty());
        let text = given.map(str::to_owned).or(variable);
        let text = text.as_deref().unwrap_or(HUB);
        let bad = || FetchError::BadEndpoint(text.to_owned());
        let url = Url::parse(text).map_err(|_| bad())?;
        match url.scheme() {
            "http" | "https" if url.has_host() => {
                Ok(Self::Server(text.trim_end_matches('/').to_owned()))
            }
            // `file://HOST/…` is no path here.
            "file" => url.to_file_path().map(Self::Folder).map_err(|()| bad()),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(url) => f.write_str(url),
            Self::Folder(path) => write!(f, "file://{}", path.display()),
        }
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
        let choose = |text| Endpoint::choose(Some(text)).ok();
        let server = Endpoint::Server("http://m:80/x".into());
        assert_eq!(choose("http://m:80/x/"), Some(server));
        let folder = Endpoint::Folder("/srv/a b".into());
        assert_eq!(choose("file:///srv/a%20b"), Some(folder));
        for bad in ["", "m", "ftp://m", "file://host/x", "/srv", "http://"] {
            assert_eq!(choose(bad), None, "{bad}");
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
