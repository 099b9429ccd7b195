//! `org.gptoss.Daemon1.Manager`.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::message::Header;
use zbus::{Connection, OwnedFd, OwnedObjectPath, OwnedVariant, Variant, interface};

use super::access::Right;
use super::decode::{self, Dictionary};
use super::error::Error;
use super::session;
use super::shared::Shared;
use crate::engine::Owner;
use crate::session::{
    Availability, Failure, Generation, ModelSummary, Options, Prompt, ProviderInfo, Session,
    Unavailable, count_tokens,
};

/// What this daemon can do, beyond the interface itself.
const FEATURES: [&str; 21] = [
    "generate",
    "count-tokens",
    "prewarm",
    "prewarm-messages",
    "cancel",
    "queue-position",
    "reasoning-effort",
    "show-reasoning",
    "sampling",
    "logprobs",
    "stop",
    "tools",
    "tool-choice",
    "builtin-tools",
    "response-schema",
    "reasoning-budget",
    "priority",
    "sessions",
    "tool-results",
    "fork",
    "on-overflow",
];

/// The root object.
pub struct Manager(Arc<Shared>);

impl Manager {
    /// An object to be served at [`super::PATH`].
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn prompt(&self, messages: &[Dictionary], options: &Options) -> Result<Prompt, Error> {
        let messages = decode::messages(messages)?;
        Ok(Prompt::new(messages, options, self.0.parts.prompt_bytes)?)
    }
}

#[interface(name = "org.gptoss.Daemon1.Manager", introspection_docs = false)]
impl Manager {
    #[zbus(property(emits_changed_signal = "const"))]
    async fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn features(&self) -> Vec<String> {
        FEATURES.map(String::from).to_vec()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn models(&self) -> Vec<HashMap<String, OwnedVariant>> {
        let models = self.0.parts.host.models().await;
        models.into_iter().map(describe_model).collect()
    }

    #[zbus(property)]
    async fn loaded_model(&self) -> String {
        self.0.parts.host.loaded_model()
    }

    #[zbus(property)]
    async fn availability(&self) -> (String, HashMap<String, OwnedVariant>) {
        describe_availability(self.0.parts.host.availability().await)
    }

    #[zbus(property)]
    async fn execution_provider(&self) -> (String, HashMap<String, OwnedVariant>) {
        describe_provider(&self.0.parts.host.watch_provider().borrow())
    }

    /// One answer without a session: the request object and the stream of its
    /// events.
    #[zbus(out_args("request", "stream"))]
    async fn generate(
        &self,
        messages: Vec<Dictionary>,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(OwnedObjectPath, OwnedFd), Error> {
        let client = self.0.authorise(Right::Use, &header, connection).await?;
        let options = decode::options(&options)?;
        let prompt = self.prompt(&messages, &options)?;
        let model = self.0.resolve(&options).await?;
        let token = options.handle_token.as_deref();
        let host = Arc::clone(&self.0.parts.host);
        let begin = |place| Ok(Generation::start(host, model, prompt, place, None));
        self.0.answer(client, token, connection, begin).await
    }

    /// A conversation that the daemon keeps.
    #[zbus(out_args("session"))]
    async fn create_session(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Error> {
        let client = self.0.authorise(Right::Use, &header, connection).await?;
        let options = decode::options(&options)?;
        let token = options.handle_token.clone();
        let model = self.0.resolve(&options).await?;
        let window = self.0.parts.host.context_window(&model).await;
        let window = window.map_err(Failure::from)?;
        let limit = self.0.parts.prompt_bytes;
        let new = Session::new(model, window, options, limit)?;
        session::open(&self.0, client, token.as_deref(), new, connection).await
    }

    /// Tokens of the prompt these messages make.
    #[zbus(out_args("tokens"))]
    async fn count_tokens(
        &self,
        messages: Vec<Dictionary>,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<u32, Error> {
        self.0.authorise(Right::Use, &header, connection).await?;
        let options = decode::options(&options)?;
        let prompt = self.prompt(&messages, &options)?;
        let model = self.0.resolve(&options).await?;
        let count = count_tokens(&self.0.parts.host, &model, prompt).await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Loads the model and, where there are `messages`, computes what a prompt
    /// that begins with them needs, in the background. Waits for neither.
    async fn prewarm(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        let client = self.0.authorise(Right::Use, &header, connection).await?;
        let messages = decode::prepared(&options)?;
        let options = decode::options(&options)?;
        let model = self.0.resolve(&options).await?;
        let host = Arc::clone(&self.0.parts.host);
        let place = Arc::new(self.0.parts.quota.request(Owner(client.uid))?);
        let mut presence = client.presence;
        let Some(messages) = messages else {
            tokio::spawn(async move {
                let _place = place;
                tokio::select! {
                    _ = presence.changed() => {}
                    // What goes wrong is in `Availability`.
                    _ = host.acquire(&model) => {}
                }
            });
            return Ok(());
        };
        let options = Options {
            priority: Some("background".into()),
            max_output_tokens: Some(1),
            ..options
        };
        let prompt = Prompt::new(messages, &options, self.0.parts.prompt_bytes)?;
        let mut generation = Generation::start(host, model, prompt, place, None);
        tokio::spawn(async move {
            // The one token that must be asked for is nobody's.
            let computed = async { while generation.next().await.is_some() {} };
            tokio::select! {
                _ = presence.changed() => {}
                () = computed => {}
            }
        });
        Ok(())
    }
}

/// An owned variant; `None` never happens without file descriptors.
fn entry<'a>(key: &str, value: impl Into<Variant<'a>>) -> Option<(String, OwnedVariant)> {
    Some((key.to_owned(), value.into().try_into_owned().ok()?))
}

fn describe_model(model: ModelSummary) -> HashMap<String, OwnedVariant> {
    let entries = [
        entry("name", model.name),
        entry("revision", model.revision),
        entry("size", model.size),
        entry("target", model.target),
        entry("verified-at", model.verified_at),
    ];
    entries.into_iter().flatten().collect()
}

fn describe_availability(now: Availability) -> (String, HashMap<String, OwnedVariant>) {
    let state = now.state().to_owned();
    let reason = now.reason();
    let mut details = match now {
        Availability::Idle(_) => vec![],
        Availability::Ready { model, slow } => {
            vec![entry("model", model), entry("slow", slow)]
        }
        Availability::Loading { model, progress } => {
            vec![entry("model", model), entry("progress", progress)]
        }
        Availability::Unavailable(why) => {
            let mut details = vec![entry("message", why.to_string())];
            match why {
                Unavailable::NoRuntime { library, .. } => details.push(entry("library", library)),
                Unavailable::NotEnoughMemory { need, have, .. } => {
                    details.extend([entry("need", need), entry("have", have)]);
                }
                Unavailable::SelfTestFailed { provider, .. } => {
                    details.push(entry("provider", provider));
                }
                Unavailable::Paused(pause) => details.push(entry("why", pause.why())),
                Unavailable::NoModel(_) | Unavailable::Failed(_) => {}
            }
            details
        }
    };
    if !reason.is_empty() {
        details.push(entry("reason", reason));
    }
    (state, details.into_iter().flatten().collect())
}

/// The better providers' failures stand under `rejected`, name by name; under
/// `streamed-experts` the bytes of memory for experts, where the others are on the disk.
fn describe_provider(provider: &ProviderInfo) -> (String, HashMap<String, OwnedVariant>) {
    let rejected: HashMap<String, String> = provider.rejected.iter().cloned().collect();
    let streamed = provider
        .streamed
        .map(|bytes| entry("streamed-experts", bytes));
    let details = [Some(entry("rejected", rejected)), streamed];
    let details = details.into_iter().flatten().flatten();
    (provider.name.clone(), details.collect())
}
