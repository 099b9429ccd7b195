//! What the service manager is told.

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::session::ModelHost;

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, and no error.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}

/// The name is owned.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// On the way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, where there is one, unless the engine computes and its
/// heart stands still. One chunk of a prefill beats once, so the unit's
/// WatchdogSec must be several times what a chunk takes.
pub async fn watchdog(host: Arc<ModelHost>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut interval = tokio::time::interval(limit / 4);
    let mut last = None;
    loop {
        interval.tick().await;
        let pulse = host.pulse();
        if pulse.is_none() || pulse != last {
            tell(&[NotifyState::Watchdog]);
        }
        last = pulse;
    }
}
