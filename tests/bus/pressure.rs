//! Memory pressure, told as a service manager tells it: through a FIFO.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use gptoss::client::{Client, Options};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use zbus::OwnedVariant;

use crate::harness::{Bus, Changes, Daemon, LONG, Setup, all, ask, command};

/// What stands in for the service manager.
pub struct Pressure(std::fs::File);

impl Pressure {
    /// What a daemon on `bus` that has not begun yet will watch.
    pub fn watched_by(gptossd: &mut Command, bus: &Bus) -> Pressure {
        let path = bus.folder.path().join("pressure");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        gptossd.env("MEMORY_PRESSURE_WATCH", &path);
        // Open on both sides: nobody waits for the other.
        let fifo = OpenOptions::new().read(true).write(true).open(path);
        Pressure(fifo.unwrap())
    }

    fn tell(&mut self) {
        self.0.write_all(b"\n").unwrap();
    }

    /// Has the daemon drop what it keeps for prompts to come.
    pub async fn drop_caches(&mut self, client: &Client) {
        self.tell();
        let dropped = async {
            while blocks_used(client).await > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, dropped)
            .await
            .expect("still kept");
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
    let bus = Bus::start();
    let setup = Setup {
        config: "[memory]\npressure-seconds = 1",
        ..Setup::default()
    };
    let (mut gptossd, notices) = command(&bus, &setup);
    let mut pressure = Pressure::watched_by(&mut gptossd, &bus);
    let daemon = Daemon::run(bus, gptossd, notices);
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
    pressure.drop_caches(&client).await;
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
