//! Sleep, as logind tells it: everything halts before, and goes on after.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use zbus::{Connection, OwnedFd, proxy};

use crate::session::ModelHost;

/// Less than logind waits for those who delay a sleep (`InhibitDelayMaxSec`,
/// five seconds unless an administrator says otherwise).
const MOST: Duration = Duration::from_secs(4);

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    /// A descriptor that delays a sleep until it is closed.
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    /// The machine is about to sleep, or has slept.
    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// Follows the machine's sleep for as long as `system` stands.
pub async fn follow(system: &Connection, host: Arc<ModelHost>) -> zbus::Result<()> {
    let logind = ManagerProxy::new(system).await?;
    // Listening first: a sleep that is announced meanwhile is not missed.
    let mut announcements = logind.receive_prepare_for_sleep().await?;
    let mut lock = delay(&logind).await;
    while let Some(announcement) = announcements.next().await {
        let Ok(announced) = announcement.args() else {
            continue;
        };
        if announced.start {
            tracing::info!("the machine goes to sleep");
            if tokio::time::timeout(MOST, host.sleep()).await.is_err() {
                tracing::warn!("the model did not halt in time before the sleep");
            }
            drop(lock.take());
        } else {
            lock = delay(&logind).await;
            host.wake().await;
            tracing::info!("the machine is awake");
        }
    }
    Ok(())
}

/// Has logind wait for us before the next sleep.
async fn delay(logind: &ManagerProxy<'_>) -> Option<OwnedFd> {
    let why = "Release the model's device and halt requests";
    match logind.inhibit("sleep", "gptossd", why, "delay").await {
        Ok(lock) => Some(lock),
        Err(error) => {
            tracing::info!("a sleep will not wait for this daemon: logind says {error}");
            None
        }
    }
}
