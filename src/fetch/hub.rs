//! Resolves a repository of the hub into pinned files.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFError};
use reqwest::Client;
use reqwest::header::{ETAG, HeaderMap};
use reqwest::redirect::Policy;

use super::client::{authorized, build, file_url, token};
use super::error::chain;
use super::source::HUB_TOKEN;
use super::{FetchError, Settings};
use crate::model::incoming::{Expected, Wanted};
use crate::model::{check_file_name, check_repo};

/// Files of a checkpoint, besides its shards.
const FILES: [&str; 9] = [
    "LICENSE",
    "USAGE_POLICY",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The hub, or a mirror that speaks its interface.
#[derive(Debug)]
pub struct Hub {
    client: HFClient,
    /// Does not follow redirects: the hub puts a file's digest on the redirect.
    direct: Client,
    endpoint: String,
    token: Option<String>,
}

/// A revision of a repository, pinned.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The commit.
    pub revision: String,
    /// Licence from the model card, where it names one.
    pub license: Option<String>,
    /// The checkpoint's root files.
    pub files: Vec<Wanted>,
}

/// Whether a root file of a repository belongs to the checkpoint.
pub fn is_checkpoint_file(path: &str) -> bool {
    check_file_name(path).is_ok() && (FILES.contains(&path) || path.ends_with(".safetensors"))
}

impl Hub {
    /// A client for `endpoint`.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new(endpoint: &str, settings: &Settings) -> Result<Self, FetchError> {
        let token = token();
        let mut builder = HFClient::builder()
            .endpoint(endpoint)
            .cache_enabled(false)
            .retry_max_attempts(settings.retries as usize)
            .client(build(endpoint, || Policy::limited(10))?);
        if let Some(token) = &token {
            builder = builder.token(token);
        }
        Ok(Self {
            client: builder.build().map_err(|e| FetchError::Client(chain(&e)))?,
            direct: build(endpoint, Policy::none)?,
            endpoint: endpoint.to_owned(),
            token,
        })
    }

    /// Finds the commit of `revision` (default: the main branch), the root files
    /// of a checkpoint there, and their digests.
    ///
    /// # Errors
    /// [`FetchError::NotFound`], [`FetchError::Unauthorized`],
    /// [`FetchError::BadAnswer`], [`FetchError::Interrupted`].
    pub async fn resolve(
        &self,
        repo: &str,
        revision: Option<&str>,
    ) -> Result<Resolved, FetchError> {
        check_repo(repo).map_err(|why| self.bad(why))?;
        let (owner, name) = hf_hub::split_id(repo);
        let model = self.client.model(owner, name);
        let wanted = match revision {
            Some(revision) => format!("{repo}@{revision}"),
            None => repo.to_owned(),
        };
        let info = model.info().maybe_revision(revision).send().await;
        let info = info.map_err(|e| self.explain(&wanted, e))?;
        let commit = info
            .sha
            .filter(|sha| crate::model::check_revision(sha).is_ok())
            .ok_or_else(|| self.bad(format!("no commit for {wanted}")))?;
        let tree = model.list_tree().revision(commit.as_str()).send();
        let tree = tree.map_err(|e| self.explain(&wanted, e))?;
        pin_mut!(tree);
        let mut files = Vec::new();
        while let Some(entry) = tree.next().await {
            let entry = entry.map_err(|e| self.explain(&wanted, e))?;
            if let RepoTreeEntry::File {
                oid,
                size,
                path,
                lfs,
                ..
            } = entry
                && is_checkpoint_file(&path)
            {
                let expected = match lfs {
                    None => Expected::GitBlob(oid.to_ascii_lowercase()),
                    Some(lfs) => self.large(repo, &commit, &path, lfs.sha256).await?,
                };
                files.push(Wanted {
                    path,
                    size,
                    expected,
                });
            }
        }
        if !files.iter().any(|f| f.path == "config.json") {
            return Err(self.bad(format!(
                "{wanted} has no config.json, so it is no checkpoint"
            )));
        }
        Ok(Resolved {
            revision: commit,
            license: license(info.tags.as_deref()),
            files,
        })
    }

    /// The SHA-256 of a large file: from the listing, else from the header the
    /// hub sends before it redirects.
    async fn large(
        &self,
        repo: &str,
        commit: &str,
        path: &str,
        listed: Option<String>,
    ) -> Result<Expected, FetchError> {
        if let Some(sha256) = listed.as_deref().and_then(sha256) {
            return Ok(Expected::Sha256(sha256));
        }
        let url = file_url(&self.endpoint, repo, commit, path);
        let request = authorized(self.direct.head(url), self.token.as_deref())
            .timeout(Duration::from_secs(30));
        let response = request.send().await.map_err(|e| FetchError::Interrupted {
            path: path.to_owned(),
            why: chain(&e),
            attempts: 1,
        })?;
        let digest = header_digest(response.headers());
        digest.map(Expected::Sha256).ok_or_else(|| {
            self.bad(format!(
                "no SHA-256 for {path} (HTTP {}); list the digests in a file for --catalog instead",
                response.status().as_u16()
            ))
        })
    }

    fn bad(&self, why: String) -> FetchError {
        FetchError::BadAnswer {
            endpoint: self.endpoint.clone(),
            why,
        }
    }

    fn explain(&self, what: &str, error: HFError) -> FetchError {
        let what = what.to_owned();
        let endpoint = self.endpoint.clone();
        let status = match &error {
            HFError::Http { context } => Some(context.status.as_u16()),
            HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. } => Some(404),
            HFError::AuthRequired { .. } => Some(401),
            HFError::Forbidden { .. } => Some(403),
            _ => None,
        };
        match status {
            Some(404) => FetchError::NotFound {
                what,
                endpoint,
                advice: "check the name, the revision and --endpoint; a private one needs HF_TOKEN",
            },
            // The hub says 401 for what does not exist, too.
            Some(status @ (401 | 403)) => FetchError::Unauthorized {
                what,
                endpoint,
                status,
                advice: HUB_TOKEN.to_owned(),
            },
            _ => FetchError::Interrupted {
                path: what,
                why: chain(&error),
                attempts: 1,
            },
        }
    }
}

/// A SHA-256 in lower case, if it is one.
fn sha256(text: &str) -> Option<String> {
    let digest = text.trim_start_matches("sha256:");
    let sound = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then(|| digest.to_ascii_lowercase())
}

fn header_digest(headers: &HeaderMap) -> Option<String> {
    let value = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let tag = value("x-linked-etag").or_else(|| value(ETAG.as_str()))?;
    sha256(tag.trim_start_matches("W/").trim_matches('"'))
}

fn license(tags: Option<&[String]>) -> Option<String> {
    let tag = tags?.iter().find_map(|t| t.strip_prefix("license:"))?;
    Some(match tag {
        "apache-2.0" => "Apache-2.0".into(),
        "mit" => "MIT".into(),
        other => other.chars().filter(|c| !c.is_control()).take(80).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_checkpoints_own_files_are_taken() {
        for path in ["config.json", "model-00000-of-00002.safetensors", "LICENSE"] {
            assert!(is_checkpoint_file(path), "{path}");
        }
        for path in [
            "README.md",
            "original/model.safetensors",
            "../x.safetensors",
            "a.bin",
        ] {
            assert!(!is_checkpoint_file(path), "{path}");
        }
    }

    #[test]
    fn digests_in_headers() {
        let digest = "AB".repeat(32);
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, format!("\"{}\"", "0".repeat(40)).parse().unwrap());
        assert_eq!(
            header_digest(&headers),
            None,
            "a git object id is no SHA-256"
        );
        headers.insert("x-linked-etag", format!("W/\"{digest}\"").parse().unwrap());
        assert_eq!(header_digest(&headers), Some("ab".repeat(32)));
    }
}
