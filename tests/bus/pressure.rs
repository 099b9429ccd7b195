//! Memory pressure, told as a service manager tells it: through a FIFO.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use gptoss::client::{Client, Options};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use zbus::OwnedVariant;

use crate::harness::{Bus, Changes, Daemon, LONG, Setup, all, ask, command};

/// What stands in for the service manager.
struct Pressure(std::fs::File);

impl Pressure {
    /// A daemon that watches, and what it watches.
    fn on(config: &str) -> (Pressure, Daemon) {
        let bus = Bus::start();
        let path = bus.folder.path().join("pressure");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let setup = Setup {
            config,
            ..Setup::default()
        };
        let (mut gptossd, notices) = command(&bus, &setup);
        gptossd.env("MEMORY_PRESSURE_WATCH", &path);
        let daemon = Daemon::run(bus, gptossd, notices);
        // Open on both sides: nobody waits for the other.
        let fifo = OpenOptions::new().read(true).write(true).open(path);
        (Pressure(fifo.unwrap()), daemon)
    }

    fn tell(&mut self) {
        self.0.write_all(b"\n").unwrap();
    }
}

async fn blocks_used(client: &Client) -> u64 {
    let stats = client.admin().await.unwrap().stats().await.unwrap();
    match stats["cache-blocks-used"] {
        ref used if *used == OwnedVariant::from(0u64) => 0,
        ref used => u64::try_from(used.try_clone().unwrap()).unwrap(),
    }
}

#[tokio::test]
async fn caches_go_first_and_then_the_model() {
    let (mut pressure, daemon) = Pressure::on("[memory]\npressure-seconds = 1");
    let client = daemon.client().await;
    all(&mut ask(&client, "x", Options::default()).await).await;
    let mut changes = Changes::of(&daemon).await;
    let kept = async {
        while blocks_used(&client).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, kept)
        .await
        .expect("nothing kept");
    pressure.tell();
    let dropped = async {
        while blocks_used(&client).await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, dropped)
        .await
        .expect("still kept");
    // It goes on, and goes on.
    let unloaded = async {
        while client.manager().loaded_model().await.unwrap() != "" {
            pressure.tell();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, unloaded)
        .await
        .expect("still loaded");
    let (state, why) = changes.state().await;
    assert_eq!((state.as_str(), why.as_str()), ("idle", "memory-pressure"));
}
