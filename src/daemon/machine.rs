//! What the machine does: it sleeps, and changes its source of power.

use std::sync::Arc;

use zbus::connection::Builder;

use super::{logind, upower};
use crate::config::OnBattery;
use crate::session::ModelHost;

/// Follows the machine on the system bus, whichever bus the daemon serves.
pub async fn follow(host: Arc<ModelHost>, on_battery: OnBattery) {
    let system = match Builder::system().build().await {
        Ok(system) => system,
        Err(error) => {
            tracing::info!("sleep and battery go unnoticed, there is no system bus: {error}");
            return;
        }
    };
    let sleep = async {
        if let Err(error) = logind::follow(&system, Arc::clone(&host)).await {
            tracing::info!("sleep goes unnoticed: {error}");
        }
    };
    let power = async {
        if on_battery == OnBattery::Run {
            return;
        }
        if let Err(error) = upower::follow(&system, Arc::clone(&host), on_battery).await {
            tracing::info!("battery goes unnoticed: {error}");
        }
    };
    tokio::join!(sleep, power);
}
