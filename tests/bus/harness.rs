//! Starts and ends what a test needs. Nothing here sleeps to wait: the bus
//! prints its address, the daemon notifies, streams have events.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use gptoss::client::{Answer, Client, ClientError, Message, Options, StreamEvent};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use zbus::{OwnedVariant, Variant};

/// The daemon's name on the bus.
pub const NAME: &str = "org.gptoss.Daemon1";

/// More than anything here takes; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(60);

/// A private message bus, open to every user of the machine.
pub struct Bus {
    daemon: Child,
    /// What clients connect to.
    pub address: String,
    /// Scratch.
    pub folder: TempDir,
}

impl Bus {
    pub fn start() -> Bus {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let config = folder.path().join("bus.conf");
        std::fs::create_dir(folder.path().join("services")).unwrap();
        std::fs::write(
            &config,
            format!(
                "<busconfig><type>session</type><keep_umask/>\
                 <listen>unix:dir={0}</listen><servicedir>{0}/services</servicedir>\
                 <auth>EXTERNAL</auth>\
                 <limit name='max_connections_per_user'>2000</limit>\
                 <policy context='default'>\
                 <allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>\
                 <allow own='*'/><allow user='*'/></policy></busconfig>",
                folder.path().display()
            ),
        )
        .unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon must be installed (Debian: package dbus)");
        let mut address = String::new();
        let stdout = daemon.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut address).unwrap();
        Bus {
            daemon,
            address: address.trim().to_owned(),
            folder,
        }
    }

    /// A client's connection of its own.
    pub async fn connect(&self) -> zbus::Connection {
        let builder = zbus::connection::Builder::address(self.address.as_str());
        builder.build().await.unwrap()
    }

    /// A client of the daemon.
    pub async fn client(&self) -> Client {
        Client::over(self.connect().await).await.unwrap()
    }

    /// Has the bus start the daemon for whoever calls it.
    pub async fn activate(&self, setup: &Setup<'_>) {
        let (daemon, _notices) = command(self, setup);
        let words = std::iter::once(daemon.get_program()).chain(daemon.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let service = format!("[D-BUS Service]\nName={NAME}\nExec={}\n", words.join(" "));
        std::fs::write(self.folder.path().join("services/daemon.service"), service).unwrap();
        let connection = self.connect().await;
        let bus = zbus::fdo::DBusProxy::new(&connection).await.unwrap();
        bus.reload_config().await.unwrap();
    }

    /// `gptoss-ctl` on this bus.
    pub fn ctl<const N: usize>(&self, arguments: [&str; N]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gptoss-ctl"));
        command
            .args(arguments)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .env("GPTOSS_BUS", "session")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }
}

impl Bus {
    /// The same as another user, who may not be able to look where programs
    /// are built: a copy beside the bus' socket.
    pub fn ctl_as_another_user<const N: usize>(&self, arguments: [&str; N]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(copied_ctl(self.folder.path()));
        command
            .args(arguments)
            .envs([
                ("DBUS_SESSION_BUS_ADDRESS", self.address.as_str()),
                ("GPTOSS_BUS", "session"),
                ("LC_ALL", "C"),
            ])
            .stdin(Stdio::null())
            .current_dir("/")
            .uid(65534)
            .gid(65534);
        command
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// `gptoss-ctl` in a folder that other users reach. Another process writes it: a child
/// that another test starts meanwhile would hold this one's file open for writing, and
/// what is open so cannot be run.
pub fn copied_ctl(folder: &Path) -> PathBuf {
    let copy = folder.join("gptoss-ctl");
    if !copy.exists() {
        let program = env!("CARGO_BIN_EXE_gptoss-ctl");
        let copied = Command::new("cp").arg(program).arg(&copy).status();
        assert!(copied.unwrap().success());
    }
    copy
}

/// Lets other users reach the bus' socket.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A running `gptossd`.
pub struct Daemon {
    pub bus: Bus,
    pub child: Child,
    /// What it tells the service manager.
    pub notices: UnixDatagram,
}

/// How a test wants its daemon.
#[derive(Default)]
pub struct Setup<'a> {
    pub script: &'a str,
    pub config: &'a str,
    pub watchdog: Option<Duration>,
    /// `--bus`; `session` unless said otherwise.
    pub bus: Option<&'a str>,
}

impl Daemon {
    /// A daemon that follows `script`.
    pub fn start(script: &str) -> Daemon {
        Daemon::with(Setup {
            script,
            ..Setup::default()
        })
    }

    pub fn with(setup: Setup<'_>) -> Daemon {
        let bus = Bus::start();
        let (command, notices) = command(&bus, &setup);
        Daemon::run(bus, command, notices)
    }

    /// Starts it and waits until it is ready.
    pub fn run(bus: Bus, mut command: Command, notices: UnixDatagram) -> Daemon {
        // Its log is for whoever looks into a failure.
        if std::env::var_os("GPTOSS_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let child = command.spawn().unwrap();
        let daemon = Daemon {
            bus,
            child,
            notices,
        };
        daemon.wait_for_notice("READY=1");
        daemon
    }

    /// Waits until the service manager is told so.
    pub fn wait_for_notice(&self, wanted: &str) {
        let mut buffer = [0; 4096];
        loop {
            let length = self.notices.recv(&mut buffer).expect(wanted);
            let notice = std::str::from_utf8(&buffer[..length]).unwrap();
            if notice.lines().any(|line| line == wanted) {
                return;
            }
        }
    }

    pub async fn client(&self) -> Client {
        self.bus.client().await
    }

    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
    }
}

/// Sends a process a signal.
pub fn send(child: &Child, signal: Signal) {
    let process = Pid::from_child(child);
    rustix::process::kill_process(process, signal).unwrap();
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `gptossd --simulate` on `bus`, not yet started.
pub fn command(bus: &Bus, setup: &Setup<'_>) -> (Command, UnixDatagram) {
    let (mut command, notices) = bare_command(bus, setup);
    let script = bus.folder.path().join("script.toml");
    std::fs::write(&script, setup.script).unwrap();
    command.arg("--simulate").arg(script);
    (command, notices)
}

/// `gptossd` on `bus` with installed models, not yet started.
pub fn bare_command(bus: &Bus, setup: &Setup<'_>) -> (Command, UnixDatagram) {
    let file = |name: &str, text: &str| -> PathBuf {
        let path = bus.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let socket = bus.folder.path().join("notify");
    let _ = std::fs::remove_file(&socket);
    let notices = UnixDatagram::bind(&socket).unwrap();
    notices.set_read_timeout(Some(LONG)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gptossd"));
    command
        .args(["--bus", setup.bus.unwrap_or("session")])
        .arg("--config")
        .arg(file("gptossd.toml", setup.config))
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .env("NOTIFY_SOCKET", socket)
        // What this machine does is no part of a test.
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
        .env("MEMORY_PRESSURE_WATCH", "/dev/null")
        .env_remove("JOURNAL_STREAM")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null());
    if let Some(limit) = setup.watchdog {
        command.env("WATCHDOG_USEC", limit.as_micros().to_string());
    }
    (command, notices)
}

/// What becomes of `Availability`, change by change.
pub struct Changes(zbus::MessageStream);

impl Changes {
    pub async fn of(daemon: &Daemon) -> Changes {
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface("org.freedesktop.DBus.Properties")
            .member("PropertiesChanged")
            .path("/org/gptoss/Daemon1")
            .build()
            .unwrap();
        let watcher = daemon.bus.connect().await;
        let stream = zbus::MessageStream::for_match_rule(rule, &watcher, None);
        Changes(stream.await.unwrap())
    }

    /// The next properties that changed.
    pub async fn next(&mut self) -> HashMap<String, OwnedVariant> {
        let message = tokio::time::timeout(LONG, self.0.next()).await;
        let message = message.expect("no change in time").unwrap().unwrap();
        let body = message.body();
        let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) =
            body.deserialize().unwrap();
        changed
    }

    /// Reads on to the next state: its name and why it is so.
    pub async fn state(&mut self) -> (String, String) {
        loop {
            if let Some(Variant::Structure(now)) =
                self.next().await.get("Availability").map(|v| &**v)
            {
                let [Variant::Str(state), Variant::Dict(details)] = now.fields() else {
                    panic!("{now:?}");
                };
                let text = |key: &str| match details.get::<_, String>(&key) {
                    Ok(found) => found,
                    Err(error) => panic!("{error}"),
                };
                let why = text("why").or_else(|| text("reason"));
                return (state.to_string(), why.unwrap_or_default());
            }
        }
    }
}

/// One user message.
pub fn user(text: &str) -> [Message; 1] {
    [Message::new("user", text)]
}

/// Asks one question.
pub async fn ask(client: &Client, text: &str, options: Options) -> Answer {
    client.generate(&user(text), &options).await.unwrap()
}

/// The next event, in time.
pub async fn next(answer: &mut Answer) -> StreamEvent {
    let event = tokio::time::timeout(LONG, answer.next()).await;
    event.expect("no event in time").unwrap().expect("the end")
}

/// All events to the last.
pub async fn all(answer: &mut Answer) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        let event = tokio::time::timeout(LONG, answer.next()).await;
        match event.expect("no event in time").unwrap() {
            Some(event) => events.push(event),
            None => return events,
        }
    }
}

/// Reads on until the model works on the request.
pub async fn wait_for_start(answer: &mut Answer) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        events.push(next(answer).await);
        if let Some(StreamEvent::Start { .. }) = events.last() {
            return events;
        }
    }
}

/// Tokens of the prompt, and those of them that were cached.
pub fn counts(events: &[StreamEvent]) -> (u64, u64) {
    let start = events.iter().find_map(|event| match event {
        StreamEvent::Start {
            prompt_tokens,
            cached_tokens,
            ..
        } => Some((*prompt_tokens, *cached_tokens)),
        _ => None,
    });
    start.expect("a start")
}

/// The text on one channel.
pub fn text(events: &[StreamEvent], wanted: &str) -> String {
    let text = |event: &StreamEvent| match event {
        StreamEvent::Delta { channel, text, .. } if channel == wanted => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

/// The finish reason, where it ended well.
pub fn finish(events: &[StreamEvent]) -> &str {
    match events.last() {
        Some(StreamEvent::End { finish_reason }) => finish_reason,
        other => panic!("{other:?}"),
    }
}

/// Short name and text of the error at the end.
pub fn failure(events: &[StreamEvent]) -> (&str, &str) {
    match events.last() {
        Some(StreamEvent::Error { name, message }) => (name.rsplit('.').next().unwrap(), message),
        other => panic!("{other:?}"),
    }
}

/// Short name and text of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, String) {
    match result {
        Err(ClientError::Refused { name, message }) => {
            (name.rsplit('.').next().unwrap().to_owned(), message)
        }
        other => panic!("{other:?}"),
    }
}

/// What a command printed, and its exit code.
pub fn outcome(output: &Output) -> (i32, String, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout.clone()).unwrap(),
        String::from_utf8(output.stderr.clone()).unwrap(),
    )
}
