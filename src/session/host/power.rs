//! The machine's own life: sleep, battery, memory pressure.

use std::sync::Arc;

use super::ModelHost;
use crate::engine::Pace;
use crate::session::loader::{Availability, ProviderInfo, Unloaded};
use crate::session::standing::Conditions;

impl ModelHost {
    /// Changes what holds the model back, and tells its engine. `false` where
    /// that is no change.
    fn under(&self, change: impl FnOnce(&mut Conditions)) -> bool {
        // Locked throughout: an engine that comes meanwhile is told, too, and of
        // two changes the later one last.
        let slot = self.slot();
        let before = self.standing.conditions();
        self.standing.change(change);
        let now = self.standing.conditions();
        let engine = slot.engine.upgrade();
        if let Some(engine) = &engine {
            engine.set_pace(now.pace());
        }
        drop(slot);
        before != now
    }

    /// How hard the engine may work on the present source of power. At
    /// [`Pace::Paused`] new requests are refused, and what runs halts. `false`
    /// where that is no change.
    pub fn set_power(&self, pace: Pace) -> bool {
        self.under(|conditions| conditions.power = pace)
    }

    /// Halts everything, since the machine is about to sleep. Returns when
    /// nothing is computed any more and no device holds anything: a model that
    /// lived in one is unloaded, and its requests have ended with an error.
    pub async fn sleep(self: &Arc<Self>) {
        self.slot().sleeps += 1;
        self.under(|conditions| conditions.asleep = true);
        self.leave_device().await;
        if let Some(engine) = self.engine() {
            engine.at_rest().await;
        }
    }

    /// Goes on after a sleep, once the execution provider has proven itself
    /// again. Requests that wait are answered then.
    pub async fn wake(self: &Arc<Self>) {
        // A load that was under way may have ended since.
        self.leave_device().await;
        let proven = self.blocking(|loader| loader.prove_again()).await;
        if let Err(why) = proven {
            tracing::error!(reason = why.reason(), "after the sleep: {why}");
            self.evict().await;
            self.provider.send_replace(ProviderInfo::default());
            self.standing.publish(Availability::Unavailable(why));
        }
        self.under(|conditions| conditions.asleep = false);
    }

    async fn leave_device(self: &Arc<Self>) {
        let on_device = self.slot().on_device;
        if on_device {
            self.evict().await;
        }
    }

    /// Ends what runs and waits in the engine, and unloads the model.
    async fn evict(self: &Arc<Self>) {
        if let Some(engine) = self.engine() {
            engine.suspend();
        }
        // Where none is there, one may be on its way: that load keeps the turn until
        // the machine is awake, and begins again then.
        let there = self.slot().resident.is_some();
        if there {
            self.unload_if(Unloaded::Sleep, |_| true).await;
        }
    }

    /// Gives up what is kept for prompts to come, and the memory it takes.
    pub fn drop_caches(&self) {
        if let Some(engine) = self.engine() {
            engine.trim();
        }
    }

    /// Unloads the model, if nobody uses it, and what was made for it. `false`
    /// where there is nothing to unload, or it is in use.
    pub async fn unload_unused(self: &Arc<Self>) -> bool {
        self.unload_if(Unloaded::MemoryPressure, |r| r.idle().is_some())
            .await
    }
}

#[cfg(test)]
#[path = "../tests/power.rs"]
mod tests;
