//! Where files come from.

use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};

use super::attempt::{Advice, Cut, lost};
use super::client::{authorized, build, file_url, token};
use super::{FetchError, Located, Registry};
use crate::model::incoming::Wanted;

/// A server with a model's files, or with wheels.
#[derive(Debug)]
pub enum Source {
    /// The hub, or a mirror of it.
    Hub(Repository),
    /// A registry of container images.
    Registry(Box<Registry>),
    /// An index of Python's packages.
    Index(Box<Located>),
}

impl Source {
    /// The server, for people.
    pub fn endpoint(&self) -> &str {
        match self {
            Self::Hub(repository) => &repository.endpoint,
            Self::Registry(registry) => registry.endpoint(),
            Self::Index(located) => located.endpoint(),
        }
    }

    /// Asks for a file's bytes from one of them on, to its end or up to the one before
    /// `end`.
    pub(super) async fn get(
        &self,
        wanted: &Wanted,
        from: u64,
        end: Option<u64>,
    ) -> Result<Response, Cut> {
        // Bytes are counted from none, and the last one is named.
        let last = end.map(|end| end.saturating_sub(1));
        let ranged = |request: RequestBuilder| {
            let request = request.header(ACCEPT_ENCODING, "identity");
            match (from, last) {
                (0, None) => request,
                (from, None) => request.header(RANGE, format!("bytes={from}-")),
                (from, Some(last)) => request.header(RANGE, format!("bytes={from}-{last}")),
            }
        };
        match self {
            Self::Hub(repository) => {
                let request = ranged(repository.get(&wanted.path));
                request.send().await.map_err(lost)
            }
            Self::Registry(registry) => registry.blob(&wanted.expected, ranged).await,
            Self::Index(located) => {
                let request = ranged(located.get(&wanted.path)?);
                request.send().await.map_err(lost)
            }
        }
    }

    /// What a file is called where there is something to complain about.
    pub(super) fn name(&self, wanted: &Wanted) -> String {
        let place = match self {
            Self::Hub(repository) => format!("{}/{}", repository.endpoint, repository.repo),
            Self::Registry(registry) => registry.reference().to_string(),
            Self::Index(located) => located.endpoint().to_owned(),
        };
        format!("{} of {place}", wanted.path)
    }

    pub(super) fn advice(&self) -> Advice {
        match self {
            Self::Hub(repository) => repository.advice(),
            Self::Registry(registry) => registry.advice(),
            Self::Index(located) => located.advice(),
        }
    }
}

/// A repository at a revision, on the hub or a mirror of it.
#[derive(Debug, Clone)]
pub struct Repository {
    client: Client,
    endpoint: String,
    token: Option<String>,
    repo: String,
    revision: String,
}

impl Repository {
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

    /// A request for a file. A redirect to another host loses the token.
    fn get(&self, path: &str) -> RequestBuilder {
        let url = file_url(&self.endpoint, &self.repo, &self.revision, path);
        authorized(self.client.get(url), self.token.as_deref())
    }

    fn advice(&self) -> Advice {
        Advice {
            endpoint: self.endpoint.clone(),
            not_found: "check the name, the revision and --endpoint",
            unauthorized: HUB_TOKEN.to_owned(),
        }
    }
}

/// What to do where the hub refuses access.
pub(super) const HUB_TOKEN: &str = "set HF_TOKEN to a token that may read it";
