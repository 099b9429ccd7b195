//! A registry of container images that holds a bundle: its documents, and its blobs
//! as files.
//!
//! Three requests of the protocol are all that is needed:
//!
//! ```text
//! GET /v2/NAME/manifests/TAG or DIGEST     a document
//! GET /v2/NAME/blobs/DIGEST                a document or a file; ranges, redirects
//! GET REALM?service=…&scope=…              a token, where the registry asks for one
//! ```
//!
//! Own code, since the downloader's promises hang on what the crates for it hide:
//! statuses and headers that tell whether to go on, bounds on documents, where a
//! password may go. Challenges and files of passwords are parsed by crates.
//!
//! Source: OCI distribution specification 1.1.

mod challenge;
mod credentials;
mod reference;

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::DockerCredential;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use self::challenge::{Challenge, TokenRequest, TokenServer};
use self::credentials::Login;
pub use self::reference::{Reference, SCHEME};
use super::attempt::{Advice, Cut, bounded, lost, persist, refused, transient};
use super::client::{build, build_strict};
use super::{FetchError, Settings};
use crate::model::incoming::Expected;
use crate::model::sha256_bytes;

/// Largest document that is read.
const DOCUMENT_MAX: u64 = 1 << 20;

/// Largest answer of a server that gives out tokens.
const TOKEN_MAX: u64 = 64 << 10;

/// The manifests that are understood, and the kind whose absence can be explained.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.oci.image.index.v1+json";

/// A name in a registry.
#[derive(Debug)]
pub struct Registry {
    reference: Reference,
    settings: Settings,
    /// `http://HOST` or `https://HOST`.
    endpoint: String,
    root: Url,
    /// Follows redirects, and leaves what identifies the user behind.
    client: Client,
    /// Follows none: passwords go where they were meant to.
    direct: Client,
    login: OnceCell<Option<Login>>,
    /// What the registry accepted last.
    authorization: Mutex<Option<HeaderValue>>,
    /// Held by who finds out what it accepts now: of several requests one asks.
    authorizing: tokio::sync::Mutex<()>,
}

impl Registry {
    /// A client for a name. `plain_http` says whether the registry has no TLS; by
    /// itself that is so on this machine's loopback interface alone.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(
        reference: &Reference,
        plain_http: Option<bool>,
        settings: &Settings,
    ) -> Result<Self, FetchError> {
        let plain = plain_http.unwrap_or_else(|| reference.is_loopback());
        let scheme = if plain { "http" } else { "https" };
        let host = match reference.host() {
            // The name of docker's own registry is not its address.
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let endpoint = format!("{scheme}://{host}");
        Ok(Self {
            root: Url::parse(&endpoint).map_err(|e| FetchError::Client(e.to_string()))?,
            client: build_strict(plain, || Policy::limited(10))?,
            direct: build(&endpoint, Policy::none)?,
            reference: reference.clone(),
            settings: settings.clone(),
            endpoint,
            login: OnceCell::new(),
            authorization: Mutex::new(None),
            authorizing: tokio::sync::Mutex::new(()),
        })
    }

    /// The server, for people.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The name.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The manifest of the name's digest or tag.
    ///
    /// # Errors
    /// [`FetchError::NotFound`], [`FetchError::Unauthorized`], [`FetchError::Login`],
    /// [`FetchError::WrongBytes`], [`FetchError::BadAnswer`], [`FetchError::Interrupted`].
    pub async fn manifest(&self) -> Result<Vec<u8>, FetchError> {
        let target = self.reference.target();
        let bytes = self.document("manifests", &target, DOCUMENT_MAX).await?;
        match self.reference.digest() {
            Some(digest) => self.proven("the manifest", bytes, digest),
            None => Ok(bytes),
        }
    }

    /// The manifest of another tag of the same name; none where there is none.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub async fn manifest_tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, FetchError> {
        match self.document("manifests", tag, DOCUMENT_MAX).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FetchError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A blob that is a document of `size` bytes, by the 64 digits of its digest.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub async fn small_blob(
        &self,
        what: &str,
        digest: &str,
        size: u64,
    ) -> Result<Vec<u8>, FetchError> {
        if size > DOCUMENT_MAX {
            return Err(self.bad(format!(
                "{what} has {size} bytes, more than the {DOCUMENT_MAX} of any document"
            )));
        }
        let target = format!("sha256:{digest}");
        let bytes = self.document("blobs", &target, size).await?;
        self.proven(what, bytes, digest)
    }

    /// Asks for a file's bytes; `shape` says which of them.
    pub(super) async fn blob(
        &self,
        expected: &Expected,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Cut> {
        // Git's ids name nothing in a registry, which will say so.
        let (Expected::Sha256(digest) | Expected::GitBlob(digest)) = expected;
        let url = self.url("blobs", &format!("sha256:{digest}"));
        self.get(&url, shape).await
    }

    pub(super) fn advice(&self) -> Advice {
        let host = self.reference.host();
        Advice {
            endpoint: self.endpoint.clone(),
            not_found: "check the name and the tag",
            unauthorized: format!(
                "log in with `podman login {host}`, `skopeo login {host}` or `docker login {host}`"
            ),
        }
    }

    /// The parts of a name are plain, so nothing needs to be escaped.
    fn url(&self, kind: &str, target: &str) -> String {
        let name = self.reference.name();
        format!("{}/v2/{name}/{kind}/{target}", self.endpoint)
    }

    fn proven(&self, what: &str, bytes: Vec<u8>, digest: &str) -> Result<Vec<u8>, FetchError> {
        let found = sha256_bytes(&bytes);
        if found == digest {
            return Ok(bytes);
        }
        Err(FetchError::WrongBytes {
            path: what.to_owned(),
            endpoint: self.endpoint.clone(),
            why: format!("its SHA-256 is {found} and must be {digest}"),
        })
    }

    fn bad(&self, why: impl Into<String>) -> FetchError {
        FetchError::BadAnswer {
            endpoint: self.endpoint.clone(),
            why: why.into(),
        }
    }

    fn cannot_log_in(&self, why: impl Into<String>) -> Cut {
        Cut::Fatal(FetchError::Login {
            endpoint: self.endpoint.clone(),
            why: why.into(),
        })
    }

    /// A document of at most `most` bytes, with as many attempts as a file gets.
    async fn document(&self, kind: &str, target: &str, most: u64) -> Result<Vec<u8>, FetchError> {
        let what = match target == self.reference.target() {
            true => self.reference.to_string(),
            false => format!("{target} of {}", self.reference),
        };
        let url = self.url(kind, target);
        let retries = self.settings.retries;
        persist(retries, &what, &self.endpoint, || {
            self.try_document(&url, &what, most)
        })
        .await
    }

    async fn try_document(&self, url: &str, what: &str, most: u64) -> Result<Vec<u8>, Cut> {
        let silent = |_| transient("the server does not answer");
        let asked = self.get(url, |request| request.header(ACCEPT, MANIFESTS));
        let response = timeout(self.settings.stall, asked)
            .await
            .map_err(silent)??;
        if response.status() != StatusCode::OK {
            let headers = response.headers();
            return Err(refused(response.status(), headers, what, &self.advice()));
        }
        timeout(self.settings.stall, bounded(response, most))
            .await
            .map_err(silent)?
    }

    /// Sends a request as whoever the registry accepted last; if it asks who that is,
    /// finds out and sends it again.
    async fn get(
        &self,
        url: &str,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, Cut> {
        let send = |authorization: Option<HeaderValue>| {
            let mut request = shape(self.client.get(url));
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            request.send()
        };
        let refuses = |response: &Response| {
            // Where the request was led to may ask as well, and is not told.
            let is_registry = response.url().origin() == self.root.origin();
            response.status() == StatusCode::UNAUTHORIZED && is_registry
        };
        let mut known = self.lock().clone();
        let mut response = send(known.clone()).await.map_err(lost)?;
        if !refuses(&response) {
            return Ok(response);
        }
        let only = self.authorizing.lock().await;
        // Another request may have found out meanwhile.
        let now = self.lock().clone();
        if now != known {
            known = now;
            response = send(known.clone()).await.map_err(lost)?;
            if !refuses(&response) {
                return Ok(response);
            }
        }
        let Some(fresh) = self.authorize(response.headers()).await? else {
            return Ok(response);
        };
        if known.as_ref() == Some(&fresh) {
            return Ok(response);
        }
        *self.lock() = Some(fresh.clone());
        drop(only);
        send(Some(fresh)).await.map_err(lost)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// An answer to the registry's challenge; none where there is nobody to be.
    async fn authorize(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Cut> {
        let challenge = Challenge::read(headers)
            .map_err(|why| self.cannot_log_in(format!("the registry wants a login, and {why}")))?;
        let login = self.login().await?;
        let text = match (challenge, login.map(|login| &login.0)) {
            (Challenge::Bearer(server), _) => {
                format!("Bearer {}", self.token(&server, login).await?)
            }
            (Challenge::Basic, Some(DockerCredential::UsernamePassword(user, password))) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            (Challenge::Basic, _) => return Ok(None),
        };
        let mut value = HeaderValue::try_from(text)
            .map_err(|_| self.cannot_log_in("the token has characters that none has"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Who the user is there. Asked for once, and not before the registry wants to know.
    async fn login(&self) -> Result<Option<&Login>, Cut> {
        let (host, name) = (self.reference.host(), self.reference.name());
        let find = || async {
            let (host, name) = (host.to_owned(), name.to_owned());
            // It may run a program.
            tokio::task::spawn_blocking(move || credentials::find(&host, &name))
                .await
                .map_err(|e| Cut::Fatal(FetchError::task(e)))?
                .map_err(|why| self.cannot_log_in(why))
        };
        Ok(self.login.get_or_try_init(find).await?.as_ref())
    }

    /// A token for reading the name.
    async fn token(&self, server: &TokenServer, login: Option<&Login>) -> Result<String, Cut> {
        /// Either name is in use.
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let place = server.realm.origin().ascii_serialization();
        if !server.may_be_told(&self.root) {
            return Err(self.cannot_log_in(format!(
                "it names {place} for tokens, where a password would not be secret"
            )));
        }
        let request = match server.request(self.reference.name(), login) {
            TokenRequest::Get { url, basic } => {
                let request = self.direct.get(url);
                match basic {
                    Some((user, password)) => request.basic_auth(user, Some(password)),
                    None => request,
                }
            }
            TokenRequest::Post { url, form } => self
                .direct
                .post(url)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form),
        };
        let response = request.send().await.map_err(lost)?;
        if response.status() != StatusCode::OK {
            let advice = Advice {
                endpoint: place,
                ..self.advice()
            };
            let what = format!("a token for {}", self.reference);
            return Err(refused(
                response.status(),
                response.headers(),
                &what,
                &advice,
            ));
        }
        let bytes = bounded(response, TOKEN_MAX).await?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .filter(|token| !token.is_empty())
            .ok_or_else(|| self.cannot_log_in(format!("{place} gives out no token")))
    }
}
