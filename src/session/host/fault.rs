//! A provider that fails while it computes: another takes over, if there may be one.

use std::sync::Arc;

use super::{Lease, ModelHost, Resident};
use crate::session::loader::Loader;

impl Resident {
    /// What its provider failed with, where another one could compute instead.
    pub(super) fn fault(&self) -> Option<String> {
        let said = self.engine.fault();
        let said = said.borrow();
        said.clone().filter(|_| self.replaceable)
    }
}

/// Tells the loader of the fault that ended this model's time, if one did.
pub(super) fn set_aside(loader: &dyn Loader, old: &Resident) {
    if let Some(why) = old.fault() {
        let provider = &old.engine.info().provider;
        tracing::error!(provider, "the execution provider failed: {why}");
        loader.set_aside(provider, &why);
    }
}

impl ModelHost {
    /// Should the provider fail, has the model loaded on the next one at once: the
    /// request that met the fault has its error, and the one after that need not wait.
    pub(super) fn reload_after_fault(self: &Arc<Self>, lease: &Lease) {
        let resident = &lease.0;
        if !resident.replaceable {
            return;
        }
        let (host, model) = (Arc::downgrade(self), resident.model.clone());
        let mut fault = resident.engine.fault();
        tokio::spawn(async move {
            let failed = fault.wait_for(Option::is_some).await.is_ok();
            // Without the fault, the engine has ended.
            if failed && let Some(host) = host.upgrade() {
                // What goes wrong is in `Availability`.
                drop(host.acquire(&model).await);
            }
        });
    }
}

#[cfg(test)]
#[path = "../tests/fault.rs"]
mod tests;
