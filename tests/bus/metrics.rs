//! The text file for a monitoring system.

use std::os::unix::fs::PermissionsExt;

use gptoss::client::Options;
use rustix::process::Signal;

use crate::harness::{Bus, Daemon, Setup, all, ask, command};

#[tokio::test]
async fn the_numbers_are_written_at_the_end_too() {
    let bus = Bus::start();
    let path = bus.folder.path().join("gptoss.prom");
    let config = format!(
        "[metrics]\ntextfile = '{}'\ninterval-seconds = 3600",
        path.display()
    );
    let setup = Setup {
        config: &config,
        ..Setup::default()
    };
    let (gptossd, notices) = command(&bus, &setup);
    let mut daemon = Daemon::run(bus, gptossd, notices);
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    let text = std::fs::read_to_string(&path).unwrap();
    for line in [
        "gptoss_requests_total{outcome=\"stop\"} 1",
        "gptoss_first_token_seconds_count 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}
