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

    /// A conversation that the daemon keeps.
    fn create_session(
        &self,
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<OwnedObjectPath>;

    /// Tokens of the prompt that these messages make.
    fn count_tokens(
        &self,
        messages: &[HashMap<&str, Variant<'_>>],
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<u32>;

    /// Loads the model, and computes what `messages` need where there are some,
    /// without waiting for it.
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

/// `org.gptoss.Daemon1.Session`
#[proxy(
    interface = "org.gptoss.Daemon1.Session",
    default_service = "org.gptoss.Daemon1"
)]
pub trait Session {
    /// Says something and has it answered.
    fn prompt(
        &self,
        messages: &[HashMap<&str, Variant<'_>>],
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// Goes on with the results of the tool calls.
    fn submit_tool_results(
        &self,
        results: &[(&str, &str, HashMap<&str, Variant<'_>>)],
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// The messages so far.
    fn history(
        &self,
        options: &HashMap<&str, &Variant<'_>>,
    ) -> zbus::Result<Vec<HashMap<String, OwnedVariant>>>;

    /// Another session that begins as this one does.
    fn fork(&self, options: &HashMap<&str, &Variant<'_>>) -> zbus::Result<OwnedObjectPath>;

    /// Ends it; a running turn is cancelled.
    fn close(&self) -> zbus::Result<()>;

    /// It is gone: `reason` is `closed` or `expired`.
    #[zbus(signal)]
    fn closed(&self, details: HashMap<String, OwnedVariant>) -> zbus::Result<()>;

    /// The model's name.
    #[zbus(property)]
    fn model(&self) -> zbus::Result<String>;

    /// Positions of the model's context window.
    #[zbus(property)]
    fn context_window(&self) -> zbus::Result<u32>;

    /// Tokens of the messages so far.
    #[zbus(property)]
    fn context_usage(&self) -> zbus::Result<u32>;
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

/// `org.gptoss.Admin1`
#[proxy(
    interface = "org.gptoss.Admin1",
    default_service = "org.gptoss.Admin1",
    default_path = "/org/gptoss/Admin1"
)]
pub trait Admin {
    /// Loads a model without waiting for it.
    fn load(&self, model: &str, options: &HashMap<&str, &Variant<'_>>) -> zbus::Result<()>;

    /// Unloads the model without waiting for it.
    fn unload(&self, options: &HashMap<&str, &Variant<'_>>) -> zbus::Result<()>;

    /// Looks at the store again.
    fn rescan(&self) -> zbus::Result<()>;

    /// Numbers since the daemon's start.
    fn stats(&self) -> zbus::Result<HashMap<String, OwnedVariant>>;
}
