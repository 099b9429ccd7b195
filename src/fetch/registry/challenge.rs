//! What a registry asks of whom it does not know.
//!
//! Source: RFC 9110, section 11; OCI distribution specification's predecessor,
//! docker's "Token authentication" and "OAuth2 token authentication".

use docker_credential::DockerCredential;
use http_auth::{ChallengeRef, parse_challenges};
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use super::credentials::Login;
use super::reference::is_loopback;

/// Longest text of challenges that is read.
const TEXT_MAX: usize = 8 << 10;

/// How to become known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password, to the registry itself.
    Basic,
    /// By a token that another server gives out.
    Bearer(TokenServer),
}

/// A server that gives out tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenServer {
    pub(super) realm: Url,
    service: Option<String>,
    scope: Option<String>,
}

/// A request to such a server.
#[derive(PartialEq, Eq)]
pub(super) enum TokenRequest {
    /// GET, with a name and a password if there are any.
    Get {
        url: Url,
        basic: Option<(String, String)>,
    },
    /// POST of a form, whose fields hold a secret.
    Post { url: Url, form: String },
}

impl Challenge {
    /// The best of an answer's challenges.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, &'static str> {
        let mut basic = false;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let text = value.to_str().unwrap_or_default();
            if text.len() > TEXT_MAX {
                continue;
            }
            for challenge in parse_challenges(text).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    return TokenServer::read(&challenge).map(Self::Bearer);
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        match basic {
            true => Ok(Self::Basic),
            false => Err("it does not say how"),
        }
    }
}

impl TokenServer {
    fn read(challenge: &ChallengeRef<'_>) -> Result<Self, &'static str> {
        let parameter = |name: &str| {
            let mut all = challenge.params.iter();
            all.find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm").and_then(|realm| Url::parse(&realm).ok());
        let realm = realm
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or("the server it names for tokens is none")?;
        Ok(Self {
            realm,
            service: parameter("service"),
            scope: parameter("scope"),
        })
    }

    /// Whether a password may go there. What begins encrypted stays so; without
    /// encryption it goes to the registry's own host, or stays on this machine.
    pub(super) fn may_be_told(&self, registry: &Url) -> bool {
        let same_host = self.realm.host_str() == registry.host_str();
        let plain = registry.scheme() == "http";
        self.realm.scheme() == "https" || (plain && (same_host || is_loopback(&self.realm)))
    }

    /// The request for a token to read `name`.
    pub(super) fn request(&self, name: &str, login: Option<&Login>) -> TokenRequest {
        let scope = match &self.scope {
            Some(scope) => scope.clone(),
            None => format!("repository:{name}:pull"),
        };
        let mut fields = vec![("scope", scope.as_str())];
        if let Some(service) = &self.service {
            fields.push(("service", service));
        }
        let mut url = self.realm.clone();
        match login.map(|login| &login.0) {
            Some(DockerCredential::IdentityToken(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "gptoss-ctl"),
                    ("refresh_token", token.as_str()),
                ]);
                // The query of a URL is written as a form is.
                let mut form = self.realm.clone();
                form.query_pairs_mut().clear().extend_pairs(fields);
                let form = form.query().unwrap_or_default().to_owned();
                TokenRequest::Post { url, form }
            }
            login => {
                url.query_pairs_mut().extend_pairs(fields);
                let basic = match login {
                    Some(DockerCredential::UsernamePassword(user, password)) => {
                        Some((user.clone(), password.clone()))
                    }
                    _ => None,
                };
                TokenRequest::Get { url, basic }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str]) -> Result<Challenge, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::read(&headers)
    }

    fn server(value: &str) -> TokenServer {
        match read(&[value]).unwrap() {
            Challenge::Bearer(server) => server,
            Challenge::Basic => panic!("{value} is basic"),
        }
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let bearer = r#"Bearer realm="https://auth.site/token",service="r",scope="s""#;
        let both = [&format!("Basic realm=\"x, y\", {bearer}")[..]];
        for values in [&both[..], &["Basic realm=\"x\"", bearer][..]] {
            assert!(
                matches!(read(values), Ok(Challenge::Bearer(_))),
                "{values:?}"
            );
        }
        assert_eq!(read(&["basic realm=\"x\""]), Ok(Challenge::Basic));
        for none in [
            "",
            "Negotiate",
            "Bearer",
            r#"Bearer realm="/token""#,
            r#"Bearer realm="file:///etc/passwd""#,
            "\"",
        ] {
            assert!(read(&[none]).is_err(), "{none}");
        }
        assert!(read(&[]).is_err());
    }

    #[test]
    fn passwords_go_where_they_stay_secret() {
        let registry = |text: &str| Url::parse(text).unwrap();
        let to = |realm: &str| server(&format!("Bearer realm=\"{realm}\""));
        let (https, plain) = (
            registry("https://r:5000/"),
            registry("http://10.0.0.1:5000/"),
        );
        assert!(to("https://auth.site/token").may_be_told(&https));
        assert!(!to("http://r/token").may_be_told(&https));
        assert!(to("https://auth.site/token").may_be_told(&plain));
        assert!(to("http://10.0.0.1:5001/token").may_be_told(&plain));
        assert!(to("http://127.0.0.1:5001/token").may_be_told(&plain));
        assert!(!to("http://10.0.0.2/token").may_be_told(&plain));
    }

    #[test]
    fn requests_for_tokens() {
        let server = server(r#"Bearer realm="https://a.site/token?x=1",service="r s""#);
        let login = Login(DockerCredential::UsernamePassword("u".into(), "p".into()));
        let TokenRequest::Get { url, basic } = server.request("a/b", Some(&login)) else {
            panic!("a password needs no POST");
        };
        assert_eq!(
            url.as_str(),
            "https://a.site/token?x=1&scope=repository%3Aa%2Fb%3Apull&service=r+s"
        );
        assert_eq!(basic, Some(("u".into(), "p".into())));
        let login = Login(DockerCredential::IdentityToken("s&t".into()));
        let TokenRequest::Post { url, form } = server.request("a/b", Some(&login)) else {
            panic!("a token in a URL would be written down");
        };
        assert_eq!(url.as_str(), "https://a.site/token?x=1");
        assert!(
            form.contains("refresh_token=s%26t") && !form.contains("x=1"),
            "{form}"
        );
    }

    proptest! {
        #[test]
        fn any_header_is_judged(text in "[ -~]{0,60}") {
            let _ = read(&[&text]);
            let _ = read(&[&format!("Bearer realm={text}")]);
        }
    }
}
