//! The daemon's interfaces as a client sees them.

use std::collections::HashMap;

use zbus::{OwnedFd, OwnedObjectPath, OwnedVariant, Variant, proxy};

/// `org.gptoss.Daemon1.Manager`
#[proxy(
    interface = "org.gptoss.Daemon1.Manager",
    default_service = "org.gptoss.Daemon1",
    default_path = "/org/gptoss/Daemon1"
)]
pub trait Manager {
    /// One answer without a session: the request and the stream of its events.
    fn generate(
        &self,
        messages: &[HashMap<&str, Variant<'_>>],
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// Tokens of the prompt that these messages make.
    fn count_tokens(
        &self,
        messages: &[HashMap<&str, Variant<'_>>],
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<u32>;

    /// Loads the model without waiting for it.
    fn prewarm(&self, options: &HashMap<&str, &Variant<'_>>) -> zbus::Result<()>;

    /// The daemon's version.
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;

    /// What it can do.
    #[zbus(property)]
    fn features(&self) -> zbus::Result<Vec<String>>;

    /// What is installed.
    #[zbus(property)]
    fn models(&self) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;

    /// What is loaded; empty where nothing is.
    #[zbus(property)]
    fn loaded_model(&self) -> zbus::Result<String>;

    /// Whether a prompt would be answered, and why not.
    #[zbus(property)]
    fn availability(&self) -> zbus::Result<(String, HashMap<String, OwnedVariant>)>;

    /// What computes, and why not something better.
    #[zbus(property)]
    fn execution_provider(&self) -> zbus::Result<(String, HashMap<String, OwnedVariant>)>;
}

/// `org.gptoss.Daemon1.Request`
#[proxy(
    interface = "org.gptoss.Daemon1.Request",
    default_service = "org.gptoss.Daemon1"
)]
pub trait Request {
    /// Ends the request; its stream ends with finish reason `cancelled`.
    fn cancel(&self) -> zbus::Result<()>;
}
