//! The system bus: who may call.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use zbus::OwnedVariant;

use crate::harness::{Bus, Daemon, Setup, command, outcome};

/// A daemon that takes the private bus for the system's.
pub fn start(script: &str, config: &str) -> Daemon {
    start_with(script, config, |_, _| ()).0
}

/// The same; `prepare` has a say before it begins.
pub fn start_with<T>(
    script: &str,
    config: &str,
    prepare: impl FnOnce(&mut Command, &Bus) -> T,
) -> (Daemon, T) {
    let bus = Bus::start();
    let setup = Setup {
        script,
        config,
        bus: Some("system"),
        ..Setup::default()
    };
    let (mut gptossd, notices) = command(&bus, &setup);
    gptossd
        .env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    let prepared = prepare(&mut gptossd, &bus);
    (Daemon::run(bus, gptossd, notices), prepared)
}

/// What stands in for polkit: grants the use, or not, and keeps what it was
/// asked. The real one is asked in `tests/boot`.
#[derive(Clone, Default)]
struct Polkit {
    grants: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<(String, String, u32)>>>,
}

impl Polkit {
    async fn serve(self, daemon: &Daemon) -> zbus::Connection {
        zbus::connection::Builder::address(daemon.bus.address.as_str())
            .serve_at("/org/freedesktop/PolicyKit1/Authority", self)
            .name("org.freedesktop.PolicyKit1")
            .build()
            .await
            .unwrap()
    }
}

/// A polkit that lets everyone use the daemon, as long as the connection stands.
pub async fn polkit_that_grants(daemon: &Daemon) -> zbus::Connection {
    let polkit = Polkit::default();
    polkit.grants.store(true, Ordering::SeqCst);
    polkit.serve(daemon).await
}

/// Polkit's answer: `(bba{ss})`.
type Answer = ((bool, bool, HashMap<String, String>),);

#[zbus::interface(name = "org.freedesktop.PolicyKit1.Authority")]
impl Polkit {
    async fn check_authorization(
        &self,
        subject: (String, HashMap<String, OwnedVariant>),
        action: String,
        _details: HashMap<String, String>,
        flags: u32,
        _cancellation: String,
    ) -> Answer {
        self.asked.lock().unwrap().push((subject.0, action, flags));
        let granted = self.grants.load(Ordering::SeqCst);
        ((granted, false, HashMap::new()),)
    }
}

#[tokio::test]
async fn its_own_user_may_and_others_whom_polkit_lets() {
    let daemon = start("", "");
    let arguments = ["run", "simulated", "hello", "--bus", "system"];
    let run = async |mut command: Command| {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &daemon.bus.address);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap());
        outcome(&done.await.unwrap())
    };
    let (code, stdout, stderr) = run(daemon.bus.ctl(arguments)).await;
    assert_eq!(
        (code, stdout.as_str()),
        (0, "You said: hello\n"),
        "{stderr}"
    );
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("not root: cannot become another user");
        return;
    }
    let another = || run(daemon.bus.ctl_as_another_user(arguments));
    let (code, stdout, stderr) = another().await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("polkit does not say"), "{stderr}");

    let polkit = Polkit::default();
    let _polkit = polkit.clone().serve(&daemon).await;
    let (code, stdout, stderr) = another().await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("adduser"), "{stderr}");
    polkit.grants.store(true, Ordering::SeqCst);
    let (code, stdout, stderr) = another().await;
    assert_eq!(
        (code, stdout.as_str()),
        (0, "You said: hello\n"),
        "{stderr}"
    );
    let asked = polkit.asked.lock().unwrap();
    assert!(asked.len() >= 2);
    let expected = ("system-bus-name".into(), "org.gptoss.use".into(), 0);
    assert!(
        asked.iter().all(|question| *question == expected),
        "{asked:?}"
    );
}
