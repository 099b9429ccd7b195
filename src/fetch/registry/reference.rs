//! Names of models in registries.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use crate::fetch::FetchError;

/// What a command line begins such a name with.
pub const SCHEME: &str = "oci://";

/// The tag of a name without one.
const LATEST: &str = "latest";

/// Longest host and name together, and longest tag.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// `HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]`. With a digest the tag is of no account.
///
/// Source: OCI distribution specification 1.1, "Pulling manifests".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    host: String,
    name: String,
    tag: String,
    digest: Option<String>,
}

impl Reference {
    /// Reads what follows [`SCHEME`].
    ///
    /// # Errors
    /// [`FetchError::BadReference`].
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        Self::read(text).map_err(|why| {
            // Whoever writes a password there should not read it in a log.
            let host = text.split_once('/').map_or(text, |(host, _)| host);
            let shown = &text[host.rfind('@').unwrap_or(0)..];
            FetchError::BadReference {
                text: shown.escape_default().take(200).collect(),
                why,
            }
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (host, rest) = text.split_once('/').ok_or("it has no name")?;
        check_host(host)?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(hex_of(digest)?)),
            None => (rest, None),
        };
        let (name, tag) = rest.split_once(':').unwrap_or((rest, LATEST));
        if name.is_empty() || !name.split('/').all(is_component) {
            return Err("the name is not lower-case letters, digits and . _ - between slashes");
        }
        if host.len() + name.len() > NAME_MAX {
            return Err("it is too long");
        }
        let in_tag = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if tag.is_empty()
            || tag.len() > TAG_MAX
            || tag.starts_with(['.', '-'])
            || !tag.chars().all(in_tag)
        {
            return Err("the tag is not letters, digits and . _ -");
        }
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            tag: tag.to_owned(),
            digest,
        })
    }

    /// The registry, with its port where one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name within the registry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest that was asked for: 64 digits.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What stands for it in a URL: the digest, else the tag.
    pub(super) fn target(&self) -> String {
        match &self.digest {
            Some(digest) => format!("sha256:{digest}"),
            None => self.tag.clone(),
        }
    }

    /// The same with this digest: what it stood for when it was looked up.
    pub fn pinned(&self, digest: &str) -> Self {
        Self {
            digest: Some(digest.to_owned()),
            ..self.clone()
        }
    }

    /// Whether `pinned`, in its written form, is what this may stand for.
    pub fn may_be(&self, pinned: &str) -> bool {
        let Some(text) = pinned.strip_prefix(SCHEME) else {
            return false;
        };
        Self::parse(text).is_ok_and(|other| {
            (&other.host, &other.name) == (&self.host, &self.name)
                && match &self.digest {
                    Some(digest) => other.digest.as_ref() == Some(digest),
                    None => other.tag == self.tag,
                }
        })
    }

    /// Whether the registry is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        Url::parse(&format!("http://{}/", self.host)).is_ok_and(|url| is_loopback(&url))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}:{}", self.host, self.name, self.tag)?;
        match &self.digest {
            Some(digest) => write!(f, "@sha256:{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether a URL leads to this machine, as its text has it: no name is resolved.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Nothing but a host and a port: no user, no path.
fn check_host(host: &str) -> Result<(), &'static str> {
    const WHY: &str = "its first part is not HOST or HOST:PORT";
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if host.is_empty() || host.ends_with(':') || !host.chars().all(allowed) {
        return Err(WHY);
    }
    match Url::parse(&format!("https://{host}/")) {
        Ok(url) if url.has_host() && url.path() == "/" => Ok(()),
        _ => Err(WHY),
    }
}

/// Letters and digits, separated by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator =
        |part: &str| matches!(part, "" | "." | "_" | "__") || part.bytes().all(|b| b == b'-');
    text.starts_with(plain) && text.ends_with(plain) && text.split(plain).all(separator)
}

fn hex_of(digest: &str) -> Result<String, &'static str> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(is_digit) => Ok(hex.to_owned()),
        _ => Err("the digest is not sha256: and 64 digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<Reference> {
        Reference::parse(text).ok()
    }

    #[test]
    fn names_with_tags_and_digests() {
        let hex = "ab".repeat(32);
        let tagged = parse("registry.site:5000/ai/models:20b").unwrap();
        assert_eq!(tagged.host(), "registry.site:5000");
        assert_eq!(tagged.name(), "ai/models");
        assert_eq!(tagged.target(), "20b");
        assert_eq!(parse("r/models").unwrap().target(), "latest");
        let pinned = parse(&format!("r/models:20b@sha256:{hex}")).unwrap();
        assert_eq!(pinned.target(), format!("sha256:{hex}"));
        assert_eq!(pinned.digest(), Some(hex.as_str()));
        assert_eq!(
            pinned.to_string(),
            format!("oci://r/models:20b@sha256:{hex}")
        );
        for sound in [
            "127.0.0.1:5000/a",
            "[::1]:5000/a",
            "localhost/a",
            "r/a__b/c--d.e_f:V1_.-x",
        ] {
            assert!(parse(sound).is_some(), "{sound}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let long = format!("r/{}", "a".repeat(255));
        let digest = format!("r/a@sha256:{}", "AB".repeat(32));
        let long_tag = format!("r/a:{}", "t".repeat(129));
        for bad in [
            "",
            "r",
            "r/",
            "/a",
            "r//a",
            "r/a/",
            "r/../a",
            "r/A",
            "r/a:",
            "r/a:-t",
            "r/a:t/u",
            "r/a:t:u",
            "r/a@",
            "r/a@sha256:12",
            "r/a..b",
            "r/a___b",
            "r/_a",
            "r/a?b",
            "r/a b",
            "u:p@r/a",
            "r:/a",
            "r:99999/a",
            "r:x/a",
            "[::1/a",
            "é/a",
            &long,
            &long_tag,
            &digest,
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn which_registries_are_this_machine() {
        for host in ["127.0.0.1:5000", "127.9.9.9", "[::1]:80", "localhost:5000"] {
            assert!(parse(&format!("{host}/a")).unwrap().is_loopback(), "{host}");
        }
        for host in [
            "registry.site",
            "128.0.0.1",
            "localhost.site",
            "10.0.0.1:80",
        ] {
            assert!(
                !parse(&format!("{host}/a")).unwrap().is_loopback(),
                "{host}"
            );
        }
    }

    #[test]
    fn what_a_name_stood_for() {
        let hex = "ab".repeat(32);
        let tagged = parse("r/a:t").unwrap();
        let found = tagged.pinned(&hex).to_string();
        assert!(tagged.may_be(&found));
        assert!(parse(&format!("r/a@sha256:{hex}")).unwrap().may_be(&found));
        for other in ["r/a:u", "r/b:t", "s/a:t"] {
            assert!(!parse(other).unwrap().may_be(&found), "{other}");
        }
        let other = "cd".repeat(32);
        assert!(
            !parse(&format!("r/a:t@sha256:{other}"))
                .unwrap()
                .may_be(&found)
        );
        assert!(!tagged.may_be("bundle b.tar, from r/a:t"));
    }

    proptest! {
        /// What is accepted is written as it was read, and makes one plain URL.
        #[test]
        fn any_text_is_judged(text in "[a-zA-Z0-9._:/@?#%\\[\\]-]{0,40}") {
            if let Some(reference) = parse(&text) {
                let written = reference.to_string();
                let read = parse(written.strip_prefix(SCHEME).unwrap());
                prop_assert_eq!(read.as_ref(), Some(&reference));
                let path = format!("/v2/{}/manifests/{}", reference.name(), reference.target());
                let url = Url::parse(&format!("https://{}{path}", reference.host())).unwrap();
                prop_assert_eq!(url.path(), path);
                prop_assert_eq!(url.username(), "");
                prop_assert_eq!(url.query(), None);
            }
        }
    }
}
