//! The daemon on a socket of its own, without any bus.

use std::collections::HashMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use gptoss::client::{Client, ClientError, Options};
use rustix::process::Signal;
use tempfile::TempDir;
use zbus::{Connection, OwnedVariant, Variant};

use crate::harness::{
    Bus, LONG, NAME, Setup, all, ask, command, copied_ctl, failure, finish, outcome, refusal, send,
    text, user, wait_for_start,
};

const HANGING: &str = "[[answers]]\nwhen = 'wait'\nprefill-delay-ms = 3600000";

/// A daemon on a socket, and no bus.
pub struct Peerless {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
    folder: TempDir,
}

impl Peerless {
    pub fn start(script: &str) -> Peerless {
        Peerless::with(script, "")
    }

    pub fn with(script: &str, config: &str) -> Peerless {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("own/socket");
        let (mut command, notices) = gptossd(folder.path(), &socket, script, config);
        let child = command.spawn().unwrap();
        let daemon = Peerless {
            child,
            socket,
            folder,
        };
        let mut buffer = [0; 4096];
        loop {
            let length = notices.recv(&mut buffer).expect("READY=1");
            if buffer[..length].starts_with(b"READY=1") {
                return daemon;
            }
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect_socket(&self.socket).await.unwrap()
    }

    /// A connection for calls that no client of ours makes.
    pub async fn raw(&self) -> Connection {
        let stream = UnixStream::connect(&self.socket).unwrap();
        let builder = zbus::connection::Builder::unix_stream(stream);
        builder.p2p().build().await.unwrap()
    }

    fn ctl<const N: usize>(&self, arguments: [&str; N]) -> Output {
        ctl(&self.socket, arguments)
    }

    /// Someone who knows nothing of the others is answered.
    pub async fn answers(&self) {
        let client = self.client().await;
        let mut answer = ask(&client, "hello", Options::default()).await;
        assert_eq!(text(&all(&mut answer).await, "final"), "You said: hello");
    }

    async fn stat(&self, name: &str) -> u64 {
        let admin = self.client().await.admin().await.unwrap();
        let stats = admin.stats().await.unwrap();
        match &*stats[name] {
            Variant::U64(number) => *number,
            other => panic!("{name}: {other:?}"),
        }
    }

    /// Waits until a number of the daemon's is this.
    async fn wait_for(&self, name: &str, wanted: u64) {
        let reached = async {
            while self.stat(name).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(LONG, reached).await;
        reached.unwrap_or_else(|_| panic!("{name} never is {wanted}"));
    }
}

impl Drop for Peerless {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `gptossd --socket`, not yet started, where no bus can be found.
fn gptossd(folder: &Path, socket: &Path, script: &str, config: &str) -> (Command, UnixDatagram) {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let notify = folder.join("notify");
    let _ = std::fs::remove_file(&notify);
    let notices = UnixDatagram::bind(&notify).unwrap();
    notices.set_read_timeout(Some(LONG)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptossd"));
    command
        .arg("--socket")
        .arg(socket)
        .arg("--config")
        .arg(file("gptossd.toml", config))
        .arg("--simulate")
        .arg(file("script.toml", script))
        .env("NOTIFY_SOCKET", notify)
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env("MEMORY_PRESSURE_WATCH", "/dev/null")
        .env_remove("JOURNAL_STREAM")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null());
    if std::env::var_os("GPTOSS_LOG").is_none() {
        command.stderr(Stdio::null());
    }
    (command, notices)
}

fn ctl<const N: usize>(socket: &Path, arguments: [&str; N]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"));
    command
        .args(arguments)
        .env("GPTOSS_SOCKET", socket)
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env_remove("GPTOSS_BUS")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command.output().unwrap()
}

#[tokio::test]
async fn all_of_the_interface_is_there() {
    let daemon = Peerless::start(HANGING);
    let client = daemon.client().await;
    assert_eq!(
        client.manager().version().await.unwrap(),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        client.daemon_process().await.unwrap(),
        Some(daemon.child.id()),
        "the kernel says who listens"
    );
    let options = Options::default().set("handle-token", "mine");
    let mut answer = ask(&client, "x", options).await;
    let path = answer.request().inner().path().to_string();
    assert!(
        path.starts_with("/org/gptoss/Daemon1/request/peer_"),
        "{path}"
    );
    assert!(path.ends_with("/mine"), "{path}");
    assert_eq!(text(&all(&mut answer).await, "final"), "You said: x");
    assert!(
        client
            .count_tokens(&user("x"), &Options::default())
            .await
            .unwrap()
            > 0
    );

    let session = client.create_session(&Options::default()).await.unwrap();
    let mut closed = session.proxy().receive_closed().await.unwrap();
    for text in ["one", "two"] {
        let mut turn = session
            .prompt(&user(text), &Options::default())
            .await
            .unwrap();
        assert_eq!(finish(&all(&mut turn).await), "stop");
    }
    let fork = session.fork(&Options::default()).await.unwrap();
    assert_eq!(fork.history(&Options::default()).await.unwrap().len(), 4);
    session.close().await.unwrap();
    let farewell = tokio::time::timeout(LONG, closed.next()).await.unwrap();
    let details = farewell.unwrap().args().unwrap().details().to_owned();
    assert_eq!(details["reason"].to_string(), "\"closed\"");

    let mut waiting = ask(&client, "wait", Options::default()).await;
    wait_for_start(&mut waiting).await;
    waiting.cancel().await.unwrap();
    assert_eq!(finish(&all(&mut waiting).await), "cancelled");
}

#[tokio::test]
async fn changes_are_signalled_to_every_peer() {
    let daemon = Peerless::start("");
    let (one, other) = (daemon.client().await, daemon.raw().await);
    let mut messages = zbus::MessageStream::from(&other);
    let admin = one.admin().await.unwrap();
    admin.load("simulated", &HashMap::new()).await.unwrap();
    let ready = async {
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let header = message.header();
            let Some("PropertiesChanged") = header.member().map(|m| m.as_str()) else {
                continue;
            };
            let body = message.body();
            let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
                body.deserialize().unwrap();
            if changed
                .get("LoadedModel")
                .is_some_and(|m| m.to_string().contains("simulated"))
            {
                return;
            }
        }
        panic!("the connection ended");
    };
    tokio::time::timeout(LONG, ready).await.expect("no signal");
}

#[tokio::test]
async fn who_disconnects_loses_requests_and_sessions() {
    let daemon = Peerless::with(HANGING, "[limits]\nrequests-per-user = 1");
    let connection = daemon.raw().await;
    let leaving = Client::over(connection.clone()).await.unwrap();
    leaving.create_session(&Options::default()).await.unwrap();
    let mut running = ask(&leaving, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    let staying = daemon.client().await;
    // One user's, whichever connections they come by.
    let refused = staying.generate(&user("x"), &Options::default()).await;
    assert_eq!(refusal(refused).0, "LimitsExceeded");
    assert_eq!(daemon.stat("sessions").await, 1);
    connection.close().await.unwrap();
    // The stream is open still; that its caller is gone ends it.
    let end = tokio::time::timeout(LONG, async { while running.next().await.is_ok() {} });
    end.await.expect("the stream of one who left goes on");
    daemon.wait_for("requests", 0).await;
    daemon.wait_for("sessions", 0).await;
    daemon.answers().await;
}

#[tokio::test]
async fn a_peer_sees_its_own_alone_and_cannot_lend_itself_a_name() {
    let daemon = Peerless::start(HANGING);
    let owner = daemon.client().await;
    let session = owner.create_session(&Options::default()).await.unwrap();
    let path = session.proxy().inner().path().to_string();
    let mut running = ask(&owner, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    let request = running.request().inner().path().to_string();

    let thief = daemon.raw().await;
    let name = path.split('/').nth(5).unwrap().replace("peer_", ":peer.");
    for (path, interface, method) in [
        (&path, "org.gptoss.Daemon1.Session", "Close"),
        (&request, "org.gptoss.Daemon1.Request", "Cancel"),
    ] {
        // In the owner's name, which only a bus would correct.
        let call = zbus::Message::method_call(path.as_str(), method)
            .interface(interface)
            .destination(NAME)
            .sender(name.as_str())
            .build(&())
            .unwrap();
        let mut replies = zbus::MessageStream::from(&thief);
        thief.send(&call).await.unwrap();
        let reply = tokio::time::timeout(LONG, replies.next()).await.unwrap();
        let reply = reply.unwrap().unwrap();
        let error = reply.header().error_name().unwrap().to_string();
        assert_eq!(error, "org.freedesktop.DBus.Error.UnknownObject");
    }
    let tree = introspect(&thief, "/org/gptoss/Daemon1").await;
    assert!(!tree.contains("<node name"), "{tree}");
    let tree = introspect(&thief, "/org/gptoss").await;
    assert!(
        tree.contains("Daemon1") && tree.contains("Admin1"),
        "{tree}"
    );
    running.cancel().await.unwrap();
    session.close().await.unwrap();
}

async fn introspect(connection: &Connection, path: &str) -> String {
    let interface = Some("org.freedesktop.DBus.Introspectable");
    let reply = connection.call_method(None::<&str>, path, interface, "Introspect", &());
    reply.await.unwrap().body().deserialize().unwrap()
}

#[tokio::test]
async fn the_command_line_needs_no_bus() {
    let daemon = Peerless::start("");
    let (code, stdout, stderr) = outcome(&daemon.ctl(["run", "simulated", "héllo"]));
    assert_eq!(
        (code, stdout.as_str()),
        (0, "You said: héllo\n"),
        "{stderr}"
    );
    assert_eq!(outcome(&daemon.ctl(["load", "simulated"])).0, 0);
    let (code, stdout, _) = outcome(&daemon.ctl(["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &status["loaded-model"]), (0, &"simulated".into()));
    assert_eq!(outcome(&daemon.ctl(["unload"])).0, 0);
    let (_, stdout, _) = outcome(&daemon.ctl(["doctor", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let socket = findings.iter().find(|f| f["check"] == "socket").unwrap();
    assert_eq!(socket["verdict"], "good", "{socket}");
    let bench = [
        "bench",
        "simulated",
        "--over-dbus",
        "-r",
        "1",
        "-n",
        "4",
        "-p",
        "4",
    ];
    let (code, stdout, stderr) = outcome(&daemon.ctl(bench));
    assert_eq!(code, 0, "{stdout}{stderr}");
    // What the command line says counts before the environment.
    let (code, _, stderr) = outcome(&daemon.ctl(["status", "--bus", "session"]));
    assert_eq!(code, 6, "{stderr}");
    let (code, _, stderr) = outcome(&daemon.ctl(["status", "--bus", "session", "--socket", "/x"]));
    assert_eq!(code, 2, "{stderr}");
}

#[tokio::test]
async fn nobody_there_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (code, _, stderr) = outcome(&ctl(&path, ["status"]));
    assert_eq!(code, 6);
    let advice = format!("gptossd --socket {}", path.display());
    assert!(stderr.contains(&advice), "{stderr}");
    // A socket whose program died.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(outcome(&ctl(&path, ["status"])).0, 6);
    let connected = Client::connect_socket(&path).await;
    assert!(matches!(connected, Err(ClientError::Unreachable(_))));
}

#[tokio::test]
async fn the_socket_comes_and_goes_with_its_daemon() {
    let mut daemon = Peerless::start(HANGING);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&daemon.socket), 0o600);
    assert_eq!(mode(daemon.socket.parent().unwrap()), 0o700);

    let second = tempfile::tempdir().unwrap();
    let (mut second, _notices) = gptossd(second.path(), &daemon.socket, "", "");
    let (code, _, stderr) = outcome(&second.stderr(Stdio::piped()).output().unwrap());
    assert_eq!(code, 1);
    let said = format!("another gptossd listens on {}", daemon.socket.display());
    assert!(stderr.contains(&said), "{stderr}");

    let client = daemon.client().await;
    let mut running = ask(&client, "wait", Options::default()).await;
    wait_for_start(&mut running).await;
    send(&daemon.child, Signal::TERM);
    assert_eq!(failure(&all(&mut running).await).0, "Cancelled");
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert!(!daemon.socket.exists());
}

#[tokio::test]
async fn a_killed_daemons_socket_is_replaced() {
    let mut daemon = Peerless::start("");
    send(&daemon.child, Signal::KILL);
    daemon.child.wait().unwrap();
    assert!(daemon.socket.exists());
    let (mut next, notices) = gptossd(daemon.folder.path(), &daemon.socket, "", "");
    daemon.child = next.spawn().unwrap();
    notices.recv(&mut [0; 64]).expect("READY=1");
    daemon.answers().await;
}

#[tokio::test]
async fn another_user_is_kept_out() {
    let daemon = Peerless::start("");
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("not root: cannot become another user");
        return;
    }
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let program = copied_ctl(daemon.folder.path());
    open(daemon.folder.path(), 0o755);
    let as_another = || {
        let mut command = Command::new(&program);
        command
            .args(["status", "--socket"])
            .arg(&daemon.socket)
            .env("LC_ALL", "C")
            .current_dir("/")
            .uid(65534)
            .gid(65534);
        outcome(&command.output().unwrap())
    };
    let (code, _, stderr) = as_another();
    assert_eq!(code, 6);
    assert!(stderr.contains("Permission denied"), "{stderr}");
    // Whatever becomes of the modes, the kernel says who it is.
    open(daemon.socket.parent().unwrap(), 0o755);
    open(&daemon.socket, 0o666);
    let (code, stdout, stderr) = as_another();
    assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
    assert!(stderr.contains("its own user and root alone"), "{stderr}");
    daemon.answers().await;
}

#[tokio::test]
async fn a_bus_and_a_socket_at_once() {
    let bus = Bus::start();
    let socket = bus.folder.path().join("own/socket");
    let config = format!("[socket]\npath = {socket:?}");
    let setup = Setup {
        config: &config,
        ..Setup::default()
    };
    let (gptossd, notices) = command(&bus, &setup);
    let daemon = crate::harness::Daemon::run(bus, gptossd, notices);
    let on_bus = daemon.client().await;
    let on_socket = Client::connect_socket(&socket).await.unwrap();
    for client in [&on_bus, &on_socket] {
        let mut answer = ask(client, "x", Options::default()).await;
        assert_eq!(text(&all(&mut answer).await, "final"), "You said: x");
    }
    let session = on_socket.create_session(&Options::default()).await.unwrap();
    let path = session.proxy().inner().path().to_string();
    let foreign = daemon.bus.connect().await;
    let interface = Some("org.gptoss.Daemon1.Session");
    let stolen = foreign.call_method(Some(NAME), path.as_str(), interface, "Close", &());
    let stolen = stolen.await.map(drop).map_err(ClientError::from);
    assert_eq!(refusal(stolen).0, "UnknownObject");
}
