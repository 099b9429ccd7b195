//! A registry of container images that wants tokens, on the loopback interface. It
//! serves the blobs of an OCI image layout:
//!
//! ```text
//! GET /token?service=…&scope=…             a token, for a name and a password
//! GET /v2/site/models/manifests/REF        a tag, or sha256:…
//! GET /v2/site/models/blobs/sha256:…       Range; 307 to /store/ of another host on request
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::mirror::{HOST, REDIRECTED, Request, head, listeners, sha256};

/// Base64 of `user:secret`.
pub const LOGIN: &str = "dXNlcjpzZWNyZXQ=";
/// An identity token, as some registries give to docker.
pub const IDENTITY: &str = "identity-of-user";

/// What is wrong with the registry, or particular about it.
#[derive(Debug, Clone, Default)]
pub struct Habits {
    /// Blobs are on another host, which knows nothing of tokens.
    pub redirect: bool,
    /// The other host asks for a login of its own.
    pub greedy: bool,
    /// Requests a token is good for.
    pub good_for: Option<usize>,
    /// Where the registry says that tokens are, instead of where they are.
    pub realm: Option<String>,
    /// The first answer with each blob ends after this many bytes.
    pub cut: Option<u64>,
    /// Bytes of this document are altered.
    pub spoil: Option<String>,
    /// Documents never end.
    pub endless: bool,
    /// Anybody gets a token.
    pub anonymous: bool,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub host: String,
    pub path: String,
    pub start: Option<u64>,
    pub end: Option<u64>,
    pub authorization: Option<String>,
    pub body: String,
}

#[derive(Default)]
struct State {
    tags: BTreeMap<String, Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    habits: Habits,
    asked: Vec<Asked>,
    cut: Vec<String>,
    tokens: usize,
    uses: usize,
    closed: bool,
}

pub struct TokenRegistry {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl TokenRegistry {
    /// Serves what is in the layout `folder`.
    pub fn serve(folder: &Path, habits: Habits) -> Self {
        let mut state = State {
            habits,
            ..State::default()
        };
        let blobs = folder.join("blobs/sha256");
        for entry in fs::read_dir(&blobs).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            state.blobs.insert(sha256(&bytes), bytes);
        }
        let index = fs::read(folder.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        for manifest in index["manifests"].as_array().unwrap() {
            let digest = manifest["digest"].as_str().unwrap();
            let bytes = state.blobs[digest.strip_prefix("sha256:").unwrap()].clone();
            let tag = &manifest["annotations"]["org.opencontainers.image.ref.name"];
            state
                .tags
                .insert(tag.as_str().unwrap().into(), bytes.clone());
            state.tags.insert(digest.into(), bytes);
        }
        let (listeners, port) = listeners();
        let state = Arc::new(Mutex::new(state));
        for listener in listeners {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.lock().unwrap().closed {
                        return;
                    }
                    let state = state.clone();
                    thread::spawn(move || stream.map(|s| serve(&state, s, port)));
                }
            });
        }
        Self { state, port }
    }

    pub fn host(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    /// The model of that tag, as a command line has it.
    pub fn name(&self, tag: &str) -> String {
        format!("oci://{}/site/models:{tag}", self.host())
    }

    pub fn set(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.state.lock().unwrap().habits);
    }

    /// Another document under a tag.
    pub fn set_tag(&self, tag: &str, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.tags.insert(tag.into(), bytes.to_vec());
    }

    /// Requests since the last call.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl Drop for TokenRegistry {
    fn drop(&mut self) {
        self.state.lock().unwrap().closed = true;
        for host in [HOST, REDIRECTED] {
            let _ = TcpStream::connect((host, self.port));
        }
    }
}

type Headers = Vec<(&'static str, String)>;

/// Status, headers, body.
type Answer = (&'static str, Headers, Vec<u8>);

fn serve(state: &Mutex<State>, stream: TcpStream, port: u16) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream;
    while let Some(request) = Request::read(&mut reader) {
        let length = request.headers.get("content-length");
        let mut body = vec![0; length.and_then(|l| l.parse().ok()).unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let asked = Asked {
            host: request.headers.get("host").cloned().unwrap_or_default(),
            path: request.path.clone(),
            start: request.start(),
            end: request.end(),
            authorization: request.headers.get("authorization").cloned(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        let (status, mut headers, body) = {
            let mut state = state.lock().unwrap();
            state.asked.push(asked.clone());
            state.answer(&asked, port)
        };
        let declared = headers.iter().any(|(name, _)| *name == "content-length");
        if !declared {
            headers.push(("content-length", body.len().to_string()));
        }
        out.write_all(&head(status, &headers)).ok()?;
        out.write_all(&body).ok()?;
        if declared {
            // The body is shorter than it says.
            let _ = out.shutdown(Shutdown::Both);
            return None;
        }
    }
    Some(())
}

fn error(status: &'static str, code: &str) -> Answer {
    let body = json!({"errors": [{"code": code}]}).to_string();
    (status, Vec::new(), body.into_bytes())
}

impl State {
    fn answer(&mut self, asked: &Asked, port: u16) -> Answer {
        let path = asked.path.split('?').next().unwrap_or_default();
        if let Some(digest) = path.strip_prefix("/store/") {
            return self.answer_store(asked, digest, port);
        }
        if path == "/token" {
            return self.answer_token(asked);
        }
        if !self.is_known(asked) {
            let realm = format!("http://{REDIRECTED}:{port}/token");
            let realm = self.habits.realm.as_ref().unwrap_or(&realm);
            let challenge = format!("Bearer realm=\"{realm}\",service=\"site\"");
            let (status, mut headers, body) = error("401 Unauthorized", "UNAUTHORIZED");
            headers.push(("www-authenticate", challenge));
            return (status, headers, body);
        }
        let Some(rest) = path.strip_prefix("/v2/site/models/") else {
            return error("404 Not Found", "NAME_UNKNOWN");
        };
        match rest.split_once('/') {
            Some(("manifests", tag)) => match self.tags.get(tag).cloned() {
                Some(bytes) => self.document(tag, bytes),
                None => error("404 Not Found", "MANIFEST_UNKNOWN"),
            },
            Some(("blobs", digest)) => self.answer_blob(asked, digest, port),
            _ => error("404 Not Found", "UNSUPPORTED"),
        }
    }

    fn is_known(&mut self, asked: &Asked) -> bool {
        let token = format!("Bearer token-{}", self.tokens);
        let fresh = self.habits.good_for.is_none_or(|n| self.uses < n);
        self.uses += 1;
        self.tokens > 0 && fresh && asked.authorization.as_deref() == Some(&token)
    }

    fn answer_token(&mut self, asked: &Asked) -> Answer {
        let basic = format!("Basic {LOGIN}");
        let by_identity = asked.body.contains(&format!("refresh_token={IDENTITY}"));
        let scoped = |text: &str| text.contains("scope=repository%3Asite%2Fmodels%3Apull");
        let known = asked.authorization.as_deref() == Some(&basic) || by_identity;
        if !(known || self.habits.anonymous) || !(scoped(&asked.path) || scoped(&asked.body)) {
            return error("401 Unauthorized", "DENIED");
        }
        self.tokens += 1;
        self.uses = 0;
        let field = if by_identity { "access_token" } else { "token" };
        let body = json!({field: format!("token-{}", self.tokens), "expires_in": 60});
        ("200 OK", Vec::new(), body.to_string().into_bytes())
    }

    fn document(&self, name: &str, mut bytes: Vec<u8>) -> Answer {
        if self.habits.spoil.as_deref() == Some(name) {
            bytes[0] ^= 1;
        }
        if self.habits.endless {
            bytes.resize(64 << 20, b' ');
        }
        ("200 OK", Vec::new(), bytes)
    }

    fn answer_blob(&mut self, asked: &Asked, digest: &str, port: u16) -> Answer {
        if self.habits.redirect {
            let target = format!("http://{REDIRECTED}:{port}/store/{digest}?signature=hush");
            return (
                "307 Temporary Redirect",
                vec![("location", target)],
                Vec::new(),
            );
        }
        self.bytes(asked, digest)
    }

    fn answer_store(&mut self, asked: &Asked, digest: &str, port: u16) -> Answer {
        if self.habits.greedy {
            let realm = format!("http://{REDIRECTED}:{port}/store-token");
            let challenge = format!("Bearer realm=\"{realm}\"");
            return (
                "401 Unauthorized",
                vec![("www-authenticate", challenge)],
                Vec::new(),
            );
        }
        self.bytes(asked, digest)
    }

    fn bytes(&mut self, asked: &Asked, digest: &str) -> Answer {
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let Some(whole) = self.blobs.get(hex) else {
            return error("404 Not Found", "BLOB_UNKNOWN");
        };
        let start = asked.start.unwrap_or(0) as usize;
        let end = asked.end.map_or(whole.len(), |end| end as usize);
        let end = end.min(whole.len());
        let mut body = whole.get(start..end).unwrap_or_default().to_vec();
        let mut headers = Vec::new();
        let status = match asked.start {
            None => "200 OK",
            Some(_) => {
                let last = end - 1;
                let range = format!("bytes {start}-{last}/{}", whole.len());
                headers.push(("content-range", range));
                "206 Partial Content"
            }
        };
        if let Some(cut) = self.habits.cut
            && body.len() as u64 > cut
            && !self.cut.iter().any(|d| d == digest)
        {
            self.cut.push(digest.to_owned());
            headers.push(("content-length", body.len().to_string()));
            body.truncate(cut as usize);
        }
        (status, headers, body)
    }
}
