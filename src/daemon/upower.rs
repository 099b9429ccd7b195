//! The source of power, as UPower tells it.

use std::sync::Arc;

use futures_util::StreamExt;
use zbus::{Connection, proxy};

use crate::config::OnBattery;
use crate::engine::Pace;
use crate::session::ModelHost;

#[proxy(
    interface = "org.freedesktop.UPower",
    default_service = "org.freedesktop.UPower",
    default_path = "/org/freedesktop/UPower"
)]
trait UPower {
    /// Whether the machine runs on battery.
    #[zbus(property)]
    fn on_battery(&self) -> zbus::Result<bool>;
}

/// Follows the source of power for as long as `system` stands.
pub async fn follow(
    system: &Connection,
    host: Arc<ModelHost>,
    setting: OnBattery,
) -> zbus::Result<()> {
    let upower = UPowerProxy::new(system).await?;
    let mut changes = upower.receive_on_battery_changed().await;
    apply(&host, setting, upower.on_battery().await?);
    while let Some(change) = changes.next().await {
        match change.get().await {
            Ok(on_battery) => apply(&host, setting, on_battery),
            Err(error) => tracing::warn!("UPower does not say what powers the machine: {error}"),
        }
    }
    Ok(())
}

fn apply(host: &ModelHost, setting: OnBattery, on_battery: bool) {
    let pace = match setting {
        _ if !on_battery => Pace::Full,
        OnBattery::Run => Pace::Full,
        OnBattery::Slow => Pace::Slow,
        OnBattery::Pause => Pace::Paused,
    };
    if host.set_power(pace) {
        tracing::info!(on_battery, ?pace, "another source of power");
    }
}
