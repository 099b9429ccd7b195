//! The system bus: who may call.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::harness::{Bus, Daemon, Setup, command, outcome};

/// A daemon that takes the private bus for the system's.
fn start() -> Daemon {
    let bus = Bus::start();
    let setup = Setup {
        bus: Some("system"),
        ..Setup::default()
    };
    let (mut gptossd, notices) = command(&bus, &setup);
    gptossd
        .env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/bus");
    Daemon::run(bus, gptossd, notices)
}

#[tokio::test]
async fn its_own_user_may_and_others_may_not() {
    let daemon = start();
    let arguments = ["run", "simulated", "hello", "--bus", "system"];
    let run = |mut command: Command| {
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &daemon.bus.address);
        outcome(&command.output().unwrap())
    };
    let (code, stdout, stderr) = run(daemon.bus.ctl(arguments));
    assert_eq!(
        (code, stdout.as_str()),
        (0, "You said: hello\n"),
        "{stderr}"
    );
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        let (code, stdout, stderr) = run(daemon.bus.ctl_as_another_user(arguments));
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("root and its own user"), "{stderr}");
    } else {
        eprintln!("not root: cannot become another user");
    }
}
