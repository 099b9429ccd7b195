//! Sleep and battery, told by stand-ins for logind and UPower.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use gptoss::client::Options;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zbus::Connection;
use zbus::object_server::SignalEmitter;

use crate::harness::{
    Bus, Changes, Daemon, LONG, Setup, all, ask, command, failure, text, wait_for_start,
};

/// An answer of a thousand tokens, one after another.
const LENGTHY: &str = "[[answers]]\nwhen = 'lengthy'\ntoken-delay-ms = 1\nrepeat = 250\n\
                       text = '<|channel|>final<|message|>word'";

/// Gives locks and announces sleep.
struct Logind {
    locks: UnboundedSender<Lock>,
}

/// A lock that was asked for, and our end of it.
struct Lock {
    what: String,
    mode: String,
    ours: UnixStream,
}

impl Lock {
    /// Waits until the daemon lets go of it.
    async fn released(mut self) {
        let end = tokio::task::spawn_blocking(move || self.ours.read(&mut [0]));
        let end = tokio::time::timeout(LONG, end).await.expect("never let go");
        assert_eq!(end.unwrap().unwrap(), 0);
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    async fn inhibit(
        &self,
        what: String,
        _who: String,
        _why: String,
        mode: String,
    ) -> zbus::OwnedFd {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.locks.send(Lock { what, mode, ours }).unwrap();
        std::os::fd::OwnedFd::from(theirs).into()
    }

    #[zbus(signal)]
    async fn prepare_for_sleep(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

/// The machine, as far as its sleep goes.
struct Machine {
    logind: Connection,
    locks: UnboundedReceiver<Lock>,
}

impl Machine {
    async fn on(bus: &Bus) -> Machine {
        let (sender, locks) = unbounded_channel();
        let logind = zbus::connection::Builder::address(bus.address.as_str())
            .serve_at("/org/freedesktop/login1", Logind { locks: sender })
            .name("org.freedesktop.login1")
            .build()
            .await
            .unwrap();
        Machine { logind, locks }
    }

    /// The lock that the daemon takes, and may take back.
    async fn lock(&mut self) -> Lock {
        let lock = tokio::time::timeout(LONG, self.locks.recv()).await;
        let lock = lock.expect("no lock is asked for").unwrap();
        assert_eq!((lock.what.as_str(), lock.mode.as_str()), ("sleep", "delay"));
        lock
    }

    async fn announce(&self, sleep: bool) {
        let server = self.logind.object_server();
        let logind = server.interface::<_, Logind>("/org/freedesktop/login1");
        let logind = logind.await.unwrap();
        Logind::prepare_for_sleep(logind.signal_emitter(), sleep)
            .await
            .unwrap();
    }
}

/// A daemon that takes the private bus for the system's, too.
fn start(bus: Bus, script: &str, config: &str) -> Daemon {
    let setup = Setup {
        script,
        config,
        ..Setup::default()
    };
    let (mut gptossd, notices) = command(&bus, &setup);
    gptossd.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
    Daemon::run(bus, gptossd, notices)
}

fn pair(state: &str, why: &str) -> (String, String) {
    (state.to_owned(), why.to_owned())
}

#[tokio::test]
async fn a_request_goes_on_after_a_sleep() {
    let bus = Bus::start();
    let mut machine = Machine::on(&bus).await;
    let daemon = start(bus, LENGTHY, "");
    let lock = machine.lock().await;
    let client = daemon.client().await;
    let mut changes = Changes::of(&daemon).await;
    let mut running = ask(&client, "lengthy", Options::default()).await;
    wait_for_start(&mut running).await;
    while changes.state().await != pair("ready", "") {}

    machine.announce(true).await;
    lock.released().await;
    assert_eq!(changes.state().await, pair("unavailable", "sleep"));
    let (state, details) = client.manager().availability().await.unwrap();
    assert_eq!(state, "unavailable");
    assert_eq!(details["reason"].to_string(), "\"paused\"");
    // It comes too early, and waits.
    let mut early = ask(&client, "early", Options::default()).await;

    machine.announce(false).await;
    let _lock = machine.lock().await;
    assert_eq!(changes.state().await, pair("ready", ""));
    assert_eq!(text(&all(&mut running).await, "final"), "word".repeat(250));
    assert_eq!(text(&all(&mut early).await, "final"), "You said: early");
}

#[tokio::test]
async fn a_device_is_left_before_a_sleep() {
    let bus = Bus::start();
    let mut machine = Machine::on(&bus).await;
    let daemon = start(bus, &format!("on-device = true\n{LENGTHY}"), "");
    let lock = machine.lock().await;
    let client = daemon.client().await;
    let mut running = ask(&client, "lengthy", Options::default()).await;
    wait_for_start(&mut running).await;
    let mut changes = Changes::of(&daemon).await;

    machine.announce(true).await;
    let events = all(&mut running).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "ModelNotReady");
    assert!(message.contains("sleep"), "{message}");
    lock.released().await;
    assert_eq!(client.manager().loaded_model().await.unwrap(), "");
    assert_eq!(changes.state().await, pair("unavailable", "sleep"));

    machine.announce(false).await;
    assert_eq!(changes.state().await, pair("idle", "sleep"));
    let again = all(&mut ask(&client, "again", Options::default()).await).await;
    assert_eq!(text(&again, "final"), "You said: again");
}

/// A daemon that had its model loaded when the machine slept and woke, and what
/// it has said of its state since.
async fn slept(script: &str, config: &str) -> (Machine, Daemon, Changes) {
    let bus = Bus::start();
    let mut machine = Machine::on(&bus).await;
    let daemon = start(bus, script, config);
    let lock = machine.lock().await;
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    let changes = Changes::of(&daemon).await;
    machine.announce(true).await;
    lock.released().await;
    machine.announce(false).await;
    (machine, daemon, changes)
}

#[tokio::test]
async fn a_model_that_is_kept_is_loaded_again_after_a_sleep() {
    let (_machine, _daemon, mut changes) =
        slept("on-device = true", "[model]\nload = 'start'").await;
    while changes.state().await != pair("ready", "") {}
}

#[tokio::test]
async fn a_provider_that_did_not_survive_is_told() {
    let (_machine, daemon, mut changes) = slept("fails-after-sleep = true", "").await;
    let broken = pair("unavailable", "self-test-failed");
    while changes.state().await != broken {}
    let client = daemon.client().await;
    assert_eq!(client.manager().execution_provider().await.unwrap().0, "");
}

/// Says what powers the machine.
struct UPower(Mutex<bool>);

#[zbus::interface(name = "org.freedesktop.UPower")]
impl UPower {
    #[zbus(property)]
    async fn on_battery(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

/// A stand-in, and what switches it.
async fn upower(bus: &Bus, on_battery: bool) -> Connection {
    zbus::connection::Builder::address(bus.address.as_str())
        .serve_at("/org/freedesktop/UPower", UPower(Mutex::new(on_battery)))
        .name("org.freedesktop.UPower")
        .build()
        .await
        .unwrap()
}

async fn switch(upower: &Connection, on_battery: bool) {
    let server = upower.object_server();
    let object = server.interface::<_, UPower>("/org/freedesktop/UPower");
    let object = object.await.unwrap();
    let inside = object.get().await;
    *inside.0.lock().unwrap() = on_battery;
    let emitter = object.signal_emitter();
    inside.on_battery_changed(emitter).await.unwrap();
}

#[tokio::test]
async fn on_battery_requests_are_refused_and_running_ones_halt() {
    let bus = Bus::start();
    let upower = upower(&bus, false).await;
    let daemon = start(bus, LENGTHY, "[power]\non-battery = 'pause'");
    let client = daemon.client().await;
    let mut changes = Changes::of(&daemon).await;
    let mut running = ask(&client, "lengthy", Options::default()).await;
    wait_for_start(&mut running).await;
    while changes.state().await != pair("ready", "") {}

    switch(&upower, true).await;
    assert_eq!(changes.state().await, pair("unavailable", "battery"));
    let events = all(&mut ask(&client, "x", Options::default()).await).await;
    let (name, message) = failure(&events);
    assert_eq!(name, "ModelNotReady");
    assert!(message.contains("paused"), "{message}");

    switch(&upower, false).await;
    assert_eq!(changes.state().await, pair("ready", ""));
    assert_eq!(text(&all(&mut running).await, "final"), "word".repeat(250));
}

#[tokio::test]
async fn on_battery_it_can_be_slow() {
    let bus = Bus::start();
    let upower = upower(&bus, true).await;
    let daemon = start(bus, "", "[power]\non-battery = 'slow'");
    let client = daemon.client().await;
    let mut changes = Changes::of(&daemon).await;
    // What it is told at its start may come before the model or after it.
    let answer = all(&mut ask(&client, "x", Options::default()).await).await;
    assert_eq!(text(&answer, "final"), "You said: x");
    while changes.state().await != pair("ready", "battery") {}
    let background = Options::default().set("priority", "background");
    let mut later = ask(&client, "later", background).await;
    let now = all(&mut ask(&client, "now", Options::default()).await).await;
    assert_eq!(text(&now, "final"), "You said: now");
    switch(&upower, false).await;
    while changes.state().await != pair("ready", "") {}
    assert_eq!(text(&all(&mut later).await, "final"), "You said: later");
}
