//! An index of Python's packages: at which URL it has a file.
//!
//! One request a project is all that is needed:
//!
//! ```text
//! GET /simple/PROJECT/     {"files": [{"filename": "…", "url": "…", …}, …], …}
//! ```
//!
//! Nothing of the answer counts but the URL beside a name that is known before: what
//! comes from there must have the size and the digest that are known as well.
//!
//! Source: PEP 503 and PEP 691, "Simple repository API".

use std::collections::BTreeMap;

use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, StatusCode, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::attempt::{Advice, Cut, bounded, lost, persist, refused, transient};
use super::client::build_strict;
use super::{FetchError, Settings};

/// The answer that is understood.
const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// Largest list of a project's files that is read; those of projects with thousands
/// of files have a few megabytes.
const LIST_MAX: u64 = 32 << 20;

const NOT_FOUND: &str = "another --index may have it, or --from a folder with the wheels";

/// An index.
#[derive(Debug, Clone)]
pub struct Index {
    client: Client,
    /// Ends with a slash.
    root: Url,
    /// Its URL for people: without a password.
    shown: String,
}

/// Files of an index, and where it has them.
#[derive(Debug, Clone)]
pub struct Located {
    index: Index,
    urls: BTreeMap<String, Url>,
}

/// A project's page.
#[derive(Deserialize)]
struct Page {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    filename: String,
    /// May be relative to the page's.
    url: String,
}

impl Index {
    /// The index that Python's own tools use.
    pub const PYPI: &str = "https://pypi.org";

    /// A client for the index at a URL, with or without `/simple` at its end.
    ///
    /// # Errors
    /// [`FetchError::BadEndpoint`], [`FetchError::Client`].
    pub fn new(url: &str) -> Result<Self, FetchError> {
        let root = root(url).ok_or_else(|| FetchError::BadEndpoint(url.to_owned()))?;
        let plain = root.scheme() == "http";
        Ok(Self {
            client: build_strict(plain, || Policy::limited(10))?,
            shown: shown(&root),
            root,
        })
    }

    /// Finds the URLs of files, each of a project.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] where the index lacks one, [`FetchError::Unauthorized`],
    /// [`FetchError::BadAnswer`], [`FetchError::Interrupted`].
    pub async fn locate<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
        settings: &Settings,
    ) -> Result<Located, FetchError> {
        let mut urls = BTreeMap::new();
        for (project, file) in files {
            let url = self.find(project, file, settings).await?;
            urls.insert(file.to_owned(), url);
        }
        Ok(Located {
            index: self.clone(),
            urls,
        })
    }

    async fn find(
        &self,
        project: &str,
        file: &str,
        settings: &Settings,
    ) -> Result<Url, FetchError> {
        let page = self
            .root
            .join(&format!("simple/{project}/"))
            .map_err(|error| self.bad(error.to_string()))?;
        let what = format!("the list of {project}");
        let ask = || self.ask(&page, &what, settings);
        let (page, list) = persist(settings.retries, &what, &self.shown, ask).await?;
        let list: Page = serde_json::from_slice(&list).map_err(|error| {
            self.bad(format!(
                "{what} is not the JSON of PEP 691 ({error}); --from takes a folder with the wheels"
            ))
        })?;
        let Some(listed) = list.files.into_iter().find(|l| l.filename == file) else {
            return Err(FetchError::NotFound {
                what: file.to_owned(),
                endpoint: self.shown.clone(),
                advice: NOT_FOUND,
            });
        };
        let url = page.join(&listed.url).ok();
        url.filter(|url| url.scheme() == "https" || url.scheme() == self.root.scheme())
            .ok_or_else(|| self.bad(format!("{file} is at no URL that can be fetched")))
    }

    /// The page, from wherever it was at last, and what it says.
    async fn ask(
        &self,
        page: &Url,
        what: &str,
        settings: &Settings,
    ) -> Result<(Url, Vec<u8>), Cut> {
        let silent = |_| transient("the server does not answer");
        let asked = self.client.get(page.clone()).header(ACCEPT, JSON).send();
        let response = timeout(settings.stall, asked)
            .await
            .map_err(silent)?
            .map_err(lost)?;
        if response.status() != StatusCode::OK {
            let advice = self.advice();
            return Err(refused(
                response.status(),
                response.headers(),
                what,
                &advice,
            ));
        }
        let page = response.url().clone();
        let list = timeout(settings.stall, bounded(response, LIST_MAX))
            .await
            .map_err(silent)??;
        Ok((page, list))
    }

    fn bad(&self, why: String) -> FetchError {
        FetchError::BadAnswer {
            endpoint: self.shown.clone(),
            why,
        }
    }

    fn advice(&self) -> Advice {
        Advice {
            endpoint: self.shown.clone(),
            not_found: NOT_FOUND,
            unauthorized: "--index https://USER:PASSWORD@HOST says who asks".into(),
        }
    }
}

impl Located {
    /// The index, for people.
    pub(super) fn endpoint(&self) -> &str {
        &self.index.shown
    }

    /// A request for a file.
    pub(super) fn get(&self, file: &str) -> Result<RequestBuilder, Cut> {
        let url = self.urls.get(file).ok_or_else(|| {
            Cut::Fatal(FetchError::NotFound {
                what: file.to_owned(),
                endpoint: self.index.shown.clone(),
                advice: NOT_FOUND,
            })
        })?;
        Ok(self.index.client.get(url.clone()))
    }

    pub(super) fn advice(&self) -> Advice {
        self.index.advice()
    }
}

/// The URL that projects' pages are below; none of what is no server.
fn root(text: &str) -> Option<Url> {
    let text = text.trim_end_matches('/');
    let text = text.strip_suffix("/simple").unwrap_or(text);
    let mut url = Url::parse(&format!("{text}/")).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn shown(root: &Url) -> String {
    let mut url = root.clone();
    // Neither fails where there is a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_named_with_and_without_its_last_part() {
        for text in [
            "https://pypi.org",
            "https://pypi.org/",
            "https://pypi.org/simple",
            "https://pypi.org/simple/",
        ] {
            let page = root(text).unwrap().join("simple/a/").unwrap();
            assert_eq!(page.as_str(), "https://pypi.org/simple/a/");
        }
        let page = root("http://h:1/r/pypi/simple").unwrap();
        assert_eq!(page.as_str(), "http://h:1/r/pypi/");
        for bad in ["", "pypi.org", "ftp://h", "file:///srv", "https://", "/srv"] {
            assert_eq!(root(bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let index = Index::new("http://me:secret@h:8080/simple/").unwrap();
        assert_eq!(index.shown, "http://h:8080");
        assert!(index.root.as_str().contains("secret"));
    }
}
