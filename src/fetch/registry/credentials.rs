//! What a user has told docker or podman about registries.
//!
//! The files are theirs, written by `docker login`, `podman login` and `skopeo login`;
//! passwords in them, or in the programs they name, are read when a registry asks and
//! kept in memory alone.
//!
//! Source: containers-auth.json(5); docker's command line reference, "Credential stores".

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use serde_json::Value;

/// Largest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// What a program that keeps passwords says where it has none.
const HELPER_HAS_NONE: &str = "credentials not found";

/// Who a user is to a registry.
pub(super) struct Login(pub(super) DockerCredential);

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Looks for credentials of `host` and, within it, of `name`.
///
/// # Errors
/// What is wrong with a file, in words, without anything secret.
pub(super) fn find(host: &str, name: &str) -> Result<Option<Login>, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(path) = variable("REGISTRY_AUTH_FILE").map(PathBuf::from) {
        let text = read(&path).map_err(|e| cannot(&path, &e.to_string()))?;
        return within(&path, &text, host, name);
    }
    for path in default_files(&variable) {
        match read(&path) {
            Ok(text) => {
                if let Some(login) = within(&path, &text, host, name)? {
                    return Ok(Some(login));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot(&path, &e.to_string())),
        }
    }
    Ok(None)
}

/// Where podman and docker look, in podman's order.
fn default_files(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Vec<PathBuf> {
    let home = || variable("HOME").map(PathBuf::from);
    let in_home = |path: &str| home().map(|home| home.join(path));
    let folder = |name: &str| variable(name).map(PathBuf::from);
    let podman = "containers/auth.json";
    [
        folder("XDG_RUNTIME_DIR").map(|dir| dir.join(podman)),
        folder("XDG_CONFIG_HOME")
            .or_else(|| in_home(".config"))
            .map(|dir| dir.join(podman)),
        folder("DOCKER_CONFIG")
            .or_else(|| in_home(".docker"))
            .map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn cannot(path: &Path, why: &str) -> String {
    format!("cannot use {}: {why}", path.display())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn within(path: &Path, text: &[u8], host: &str, name: &str) -> Result<Option<Login>, String> {
    let json: Value =
        serde_json::from_slice(text).map_err(|_| cannot(path, "it is no JSON of docker's"))?;
    let key = key_for(&json, host, name);
    match get_credential_from_reader(text, &key) {
        Ok(DockerCredential::UsernamePassword(user, password))
            if user.is_empty() && password.is_empty() =>
        {
            Ok(None)
        }
        Ok(credential) => Ok(Some(Login(credential))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // What such a program writes is nobody's business.
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, .. }) => {
            match stdout.contains(HELPER_HAS_NONE) {
                true => Ok(None),
                false => Err(cannot(path, &format!("{helper} failed"))),
            }
        }
        Err(CredentialRetrievalError::HelperCommunicationError) => Err(cannot(
            path,
            "the program it names for passwords (credsStore, credHelpers) cannot be run",
        )),
        Err(error) => Err(cannot(path, &error.to_string())),
    }
}

/// Podman keeps credentials for parts of a registry: the longest part counts.
fn key_for(json: &Value, host: &str, name: &str) -> String {
    let mut key = format!("{host}/{name}");
    let has = |key: &str| json["auths"].get(key).is_some();
    while !has(&key) && key.len() > host.len() {
        key.truncate(key.rfind('/').unwrap_or(host.len()));
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base64 of `user:pass` and `part:pass`.
    const WHOLE: &str = "dXNlcjpwYXNz";
    const PART: &str = "cGFydDpwYXNz";

    fn user(text: &str, host: &str, name: &str) -> Option<String> {
        let path = Path::new("auth.json");
        match within(path, text.as_bytes(), host, name).unwrap()?.0 {
            DockerCredential::UsernamePassword(user, password) => {
                assert_eq!(password, "pass");
                Some(user)
            }
            DockerCredential::IdentityToken(token) => Some(token),
        }
    }

    #[test]
    fn the_longest_part_of_a_name_counts() {
        let text = format!(
            r#"{{"auths":{{"r:5000":{{"auth":"{WHOLE}"}},"r:5000/a/b":{{"auth":"{PART}"}},
               "https://old/v1/":{{"auth":"{WHOLE}"}},"id":{{"identitytoken":"secret"}}}}}}"#
        );
        let user = |host, name| user(&text, host, name);
        assert_eq!(user("r:5000", "c").as_deref(), Some("user"));
        assert_eq!(user("r:5000", "a/b/c").as_deref(), Some("part"));
        assert_eq!(user("r:5000", "a/bc").as_deref(), Some("user"));
        assert_eq!(user("old", "a").as_deref(), Some("user"));
        assert_eq!(user("id", "a").as_deref(), Some("secret"));
        assert_eq!(user("r", "a"), None);
        assert_eq!(user("r:50001", "a"), None);
    }

    #[test]
    fn files_without_any_are_fine_and_nonsense_is_not() {
        for text in ["{}", r#"{"auths":{}}"#, r#"{"auths":{"r":{}}}"#] {
            assert_eq!(user(text, "r", "a"), None, "{text}");
        }
        let path = Path::new("auth.json");
        let bad_auth = r#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#;
        for text in ["", "secret", "[", bad_auth] {
            let why = within(path, text.as_bytes(), "r", "a").unwrap_err();
            assert!(why.contains("auth.json"), "{why}");
            assert!(!why.contains("secret") && !why.contains("c2Vj"), "{why}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_told_of() {
        let text = br#"{"credsStore":"absent-program"}"#;
        let why = within(Path::new("config.json"), text, "r", "a").unwrap_err();
        assert!(
            why.contains("config.json") && why.contains("credsStore"),
            "{why}"
        );
    }
}
