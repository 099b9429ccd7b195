//! A mirror of the hub on the loopback interface, with faults on request.
//!
//! One thread a connection, HTTP/1.1 with keep-alive. It serves one repository:
//!
//! ```text
//! GET  /api/models/OWNER/NAME[/revision/REV]      the commit
//! GET  /api/models/OWNER/NAME/tree/REV            files; large ones with lfs.oid
//! GET, HEAD /OWNER/NAME/resolve/REV/FILE          bytes; Range; 302 to /cdn/ on request
//! GET  /simple/PROJECT/                           the file simple/PROJECT
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sha1::{Digest as _, Sha1};

pub const REPO: &str = "test/tiny";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What happens to an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The connection closes after this many bytes of the body.
    Cut(u64),
    /// The connection stays open and silent after this many bytes, until the
    /// mirror is gone.
    Stall(u64),
    /// A byte now and then after this many bytes.
    Trickle(u64),
    /// The byte at this offset of the file is another one.
    Corrupt(u64),
    /// The file ends here, and the headers say so.
    Shorter(u64),
    /// This many more bytes follow, and the headers say so.
    Longer(u64),
    /// As [`Effect::Longer`], but nothing in the headers tells.
    Endless(u64),
    /// The whole file with 200, whatever was asked for.
    IgnoreRange,
    /// 206 from another first byte than the one asked for.
    ShiftRange,
    /// 206 with the right headers, and the bytes of the file's beginning.
    WrongRange,
    /// 206 without a word about which bytes these are.
    SilentRange,
    /// This status and nothing else.
    Status(u16),
}

/// A file's bytes, in memory or where they lie on disk, and their digests.
#[derive(Clone)]
pub struct Body {
    bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    pub sha256: String,
    git_oid: String,
}

impl Body {
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let sha256 = sha256(bytes.as_ref());
        // Nobody asks for the git id of a really large file.
        let git_oid = match bytes.as_ref() {
            large if large.len() > 1 << 28 => git_oid(sha256.as_bytes()),
            bytes => git_oid(bytes),
        };
        Self {
            bytes: Arc::new(bytes),
            sha256,
            git_oid,
        }
    }

    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

#[derive(Debug)]
struct Fault {
    file: String,
    /// First byte asked for; none for whichever.
    start: Option<u64>,
    times: usize,
    effect: Effect,
}

/// One answer with bytes of a file.
#[derive(Debug, Clone)]
pub struct Served {
    pub file: String,
    pub start: u64,
    pub bytes: u64,
    pub token: Option<String>,
    pub cdn: bool,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Body>,
    faults: Vec<Fault>,
    served: Vec<Served>,
    requests: usize,
    redirect: bool,
    stalled: usize,
    /// Connections that were accepted and have not ended.
    open: usize,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    port: u16,
}

pub const HOST: &str = "127.0.0.1";
/// The other host: a second address of this machine, so that no name need be
/// resolved.
pub const REDIRECTED: &str = "127.0.0.2";

/// Both hosts, on the same port.
pub fn listeners() -> ([TcpListener; 2], u16) {
    loop {
        let first = TcpListener::bind((HOST, 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        // Another test's mirror may have the port there.
        if let Ok(second) = TcpListener::bind((REDIRECTED, port)) {
            return ([first, second], port);
        }
    }
}

#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
}

impl Mirror {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let with_digests = files.into_iter().map(|(name, b)| (name, Body::new(b)));
        Self::serve(with_digests.collect())
    }

    pub fn serve(files: BTreeMap<String, Body>) -> Self {
        let (listeners, port) = listeners();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                files,
                ..State::default()
            }),
            changed: Condvar::new(),
            port,
        });
        for listener in listeners {
            let accepting = shared.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if accepting.state.lock().unwrap().closed {
                        return;
                    }
                    let shared = accepting.clone();
                    shared.state.lock().unwrap().open += 1;
                    thread::spawn(move || {
                        // A client that goes away is part of the tests.
                        let _ = stream.map(|s| shared.serve(s));
                        shared.state.lock().unwrap().open -= 1;
                        shared.changed.notify_all();
                    });
                }
            });
        }
        Self { shared }
    }

    pub fn url(&self) -> String {
        format!("http://{HOST}:{}", self.shared.port)
    }

    /// The next `times` answers with `file` suffer.
    pub fn fault(&self, file: &str, times: usize, effect: Effect) {
        self.add_fault(file, None, times, effect);
    }

    /// The next `times` answers to who asks for `file` from the byte `start` on suffer.
    pub fn fault_at(&self, file: &str, start: u64, times: usize, effect: Effect) {
        self.add_fault(file, Some(start), times, effect);
    }

    fn add_fault(&self, file: &str, start: Option<u64>, times: usize, effect: Effect) {
        self.shared.state.lock().unwrap().faults.push(Fault {
            file: file.into(),
            start,
            times,
            effect,
        });
    }

    pub fn heal(&self) {
        self.shared.state.lock().unwrap().faults.clear();
    }

    /// Large files are redirected to another host, as the hub does.
    pub fn redirect(&self) {
        self.shared.state.lock().unwrap().redirect = true;
    }

    pub fn set_file(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.shared.state.lock().unwrap();
        state.files.insert(name.into(), Body::new(bytes));
    }

    /// Waits until an answer has come to its stall.
    pub fn wait_for_stall(&self) {
        self.wait_for_stalls(1);
    }

    /// Waits until so many answers have come to their stalls.
    pub fn wait_for_stalls(&self, answers: usize) {
        let state = self.shared.state.lock().unwrap();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, Duration::from_secs(60), |s| s.stalled < answers)
            .unwrap();
        let (stalled, served) = (state.stalled, state.served.clone());
        drop(state);
        assert!(
            !waited.timed_out(),
            "{stalled} of {answers} answers stalled: {served:?}"
        );
    }

    /// Waits until everything is answered that was asked before, by clients that are gone.
    pub fn settle(&self) {
        for host in [HOST, REDIRECTED] {
            // Whoever came before was accepted before.
            let mut last = TcpStream::connect((host, self.shared.port)).unwrap();
            last.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            last.read_exact(&mut [0; 1]).unwrap();
        }
        let state = self.shared.state.lock().unwrap();
        let (state, waited) = self
            .shared
            .changed
            .wait_timeout_while(state, Duration::from_secs(60), |s| s.open > 0)
            .unwrap();
        drop(state);
        assert!(!waited.timed_out(), "a client is still there");
    }

    /// Answers with bytes since the last call.
    pub fn take_served(&self) -> Vec<Served> {
        std::mem::take(&mut self.shared.state.lock().unwrap().served)
    }

    /// Requests of any kind so far.
    pub fn requests(&self) -> usize {
        self.shared.state.lock().unwrap().requests
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().closed = true;
        self.shared.changed.notify_all();
        for host in [HOST, REDIRECTED] {
            let _ = TcpStream::connect((host, self.shared.port));
        }
    }
}

/// What somebody asks over HTTP/1.1; a body is left unread.
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn read(reader: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        Some(Self {
            method,
            path,
            headers,
        })
    }

    /// First byte asked for.
    pub fn start(&self) -> Option<u64> {
        self.range()?.0.parse().ok()
    }

    /// Behind the last byte asked for, where one was named.
    pub fn end(&self) -> Option<u64> {
        let last: u64 = self.range()?.1.parse().ok()?;
        Some(last + 1)
    }

    fn range(&self) -> Option<(&str, &str)> {
        let range = self.headers.get("range")?.strip_prefix("bytes=")?;
        range.split_once('-')
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    gptoss::model::sha256_bytes(bytes)
}

fn git_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    gptoss::model::to_hex(&hash.finalize())
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors")
}

pub fn head(status: &str, headers: &[(&str, String)]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes()
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut out = stream.try_clone().ok()?;
        while let Some(request) = Request::read(&mut reader) {
            self.state.lock().unwrap().requests += 1;
            self.answer(&request, &mut out)?;
        }
        Some(())
    }

    /// None ends the connection.
    fn answer(&self, request: &Request, out: &mut TcpStream) -> Option<()> {
        // A proxy is asked with the whole URL.
        let path = match request.path.strip_prefix("http://") {
            Some(url) => url.find('/').map_or("/", |at| &url[at..]),
            None => &request.path,
        };
        let path = path.split('?').next().unwrap_or_default();
        let api = format!("/api/models/{REPO}");
        if let Some(rest) = path.strip_prefix(&api) {
            return self.answer_api(rest, out);
        }
        let (cdn, path) = match path.strip_prefix("/cdn") {
            Some(rest) => (true, rest),
            None => (false, path),
        };
        let prefix = format!("/{REPO}/resolve/{COMMIT}/");
        let file = match path.starts_with("/simple/") {
            true => path.trim_matches('/'),
            false => path.strip_prefix(&prefix).unwrap_or_default(),
        };
        let body = self.state.lock().unwrap().files.get(file).cloned();
        match body {
            Some(body) => self.answer_file(request, file, &body, cdn, out),
            None => json_answer(out, "404 Not Found", &json!({"error": "Entry not found"})),
        }
    }

    fn answer_api(&self, rest: &str, out: &mut TcpStream) -> Option<()> {
        let parts: Vec<&str> = rest.split('/').filter(|p| !p.is_empty()).collect();
        if let [_, revision] = parts[..]
            && !["main", COMMIT].contains(&revision)
        {
            return json_answer(out, "404 Not Found", &json!({"error": "Invalid rev id"}));
        }
        if parts.first() != Some(&"tree") {
            let tags = ["license:apache-2.0"];
            let info = json!({"id": REPO, "modelId": REPO, "sha": COMMIT, "tags": tags});
            return json_answer(out, "200 OK", &info);
        }
        let state = self.state.lock().unwrap();
        let mut entries = vec![json!({"type": "directory", "oid": "0", "path": "original"})];
        for (name, body) in &state.files {
            let size = body.bytes().len();
            let mut entry =
                json!({"type": "file", "path": name, "size": size, "oid": body.git_oid});
            if is_large(name) {
                entry["lfs"] = json!({"oid": body.sha256, "size": size, "pointerSize": 135});
            }
            entries.push(entry);
        }
        drop(state);
        json_answer(out, "200 OK", &json!(entries))
    }

    fn take_fault(&self, file: &str, start: u64) -> Option<Effect> {
        let mut state = self.state.lock().unwrap();
        let meant =
            |f: &&mut Fault| f.file == file && f.times > 0 && f.start.is_none_or(|s| s == start);
        let fault = state.faults.iter_mut().find(meant)?;
        fault.times -= 1;
        Some(fault.effect.clone())
    }

    fn answer_file(
        &self,
        request: &Request,
        file: &str,
        body: &Body,
        cdn: bool,
        out: &mut TcpStream,
    ) -> Option<()> {
        let etag = match is_large(file) {
            true => &body.sha256,
            false => &body.git_oid,
        };
        let mut bytes = Cow::Borrowed(body.bytes());
        let mut headers = vec![("etag", format!("\"{etag}\""))];
        if is_large(file) && !cdn {
            headers.push(("x-linked-etag", format!("\"{etag}\"")));
            headers.push(("x-linked-size", bytes.len().to_string()));
        }
        if !cdn && is_large(file) && self.state.lock().unwrap().redirect {
            let target = format!("http://{REDIRECTED}:{}/cdn{}", self.port, request.path);
            headers.extend([("location", target), ("content-length", "0".into())]);
            self.log(request, file, 0, 0, cdn);
            return out.write_all(&head("302 Found", &headers)).ok();
        }
        if request.method == "HEAD" {
            headers.push(("content-length", bytes.len().to_string()));
            return out.write_all(&head("200 OK", &headers)).ok();
        }
        let effect = self.take_fault(file, request.start().unwrap_or(0));
        match &effect {
            Some(Effect::Status(code)) => {
                self.log(request, file, 0, 0, cdn);
                return json_answer(out, &format!("{code} Fault"), &json!({"error": "fault"}));
            }
            Some(Effect::Corrupt(at)) => bytes.to_mut()[*at as usize] ^= 1,
            Some(Effect::Shorter(length)) => bytes.to_mut().truncate(*length as usize),
            Some(Effect::Longer(more) | Effect::Endless(more)) => {
                let longer = bytes.len() + *more as usize;
                bytes.to_mut().resize(longer, b'x');
            }
            _ => {}
        }
        self.send(request, file, &bytes, headers, effect, cdn, out)
    }

    #[expect(clippy::too_many_arguments, reason = "one answer's whole context")]
    fn send(
        &self,
        request: &Request,
        file: &str,
        bytes: &[u8],
        mut headers: Vec<(&str, String)>,
        effect: Option<Effect>,
        cdn: bool,
        out: &mut TcpStream,
    ) -> Option<()> {
        let size = bytes.len() as u64;
        let asked = request
            .start()
            .filter(|_| effect != Some(Effect::IgnoreRange));
        let (status, start, end) = match asked {
            Some(start) if start >= size => {
                headers.push(("content-range", format!("bytes */{size}")));
                headers.push(("content-length", "0".into()));
                self.log(request, file, start, 0, cdn);
                return out
                    .write_all(&head("416 Range Not Satisfiable", &headers))
                    .ok();
            }
            Some(start) => {
                let start = if effect == Some(Effect::ShiftRange) {
                    start - 1
                } else {
                    start
                };
                let end = request.end().unwrap_or(size).min(size);
                if effect != Some(Effect::SilentRange) {
                    let range = format!("bytes {start}-{}/{size}", end - 1);
                    headers.push(("content-range", range));
                }
                ("206 Partial Content", start, end)
            }
            None => ("200 OK", 0, size),
        };
        let endless = matches!(effect, Some(Effect::Endless(_)));
        if endless {
            headers.push(("connection", "close".into()));
        } else {
            headers.push(("content-length", (end - start).to_string()));
        }
        let body = match effect {
            Some(Effect::WrongRange) => &bytes[..(end - start) as usize],
            _ => &bytes[start as usize..end as usize],
        };
        let stop = match effect {
            Some(Effect::Cut(n) | Effect::Stall(n) | Effect::Trickle(n)) => {
                n.min(body.len() as u64)
            }
            _ => body.len() as u64,
        };
        self.log(request, file, start, stop, cdn);
        out.write_all(&head(status, &headers)).ok()?;
        out.write_all(&body[..stop as usize]).ok()?;
        match effect {
            Some(Effect::Stall(_)) => self.wait_until_closed(out),
            Some(Effect::Trickle(_)) => self.trickle(&body[stop as usize..], out),
            Some(Effect::Cut(_)) => {}
            _ if endless => {}
            _ => return Some(()),
        }
        let _ = out.shutdown(Shutdown::Both);
        None
    }

    fn log(&self, request: &Request, file: &str, start: u64, bytes: u64, cdn: bool) {
        let token = request.headers.get("authorization").cloned();
        self.state.lock().unwrap().served.push(Served {
            file: file.into(),
            start,
            bytes,
            token,
            cdn,
        });
    }

    /// Holds a connection open, without a word, until the client or the mirror
    /// is gone.
    fn wait_until_closed(&self, out: &mut TcpStream) {
        self.state.lock().unwrap().stalled += 1;
        self.changed.notify_all();
        let _ = out.set_read_timeout(Some(Duration::from_millis(50)));
        while !self.state.lock().unwrap().closed {
            match out.read(&mut [0; 1]) {
                Ok(0) => break,
                Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        self.state.lock().unwrap().stalled -= 1;
    }

    /// Ten bytes a second.
    fn trickle(&self, rest: &[u8], out: &mut TcpStream) {
        for byte in rest {
            if out.write_all(&[*byte]).is_err() || self.state.lock().unwrap().closed {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn json_answer(out: &mut TcpStream, status: &str, body: &serde_json::Value) -> Option<()> {
    let body = body.to_string();
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("content-length", body.len().to_string()),
    ];
    out.write_all(&head(status, &headers)).ok()?;
    out.write_all(body.as_bytes()).ok()
}
