//! `org.gptoss.Daemon1.Manager`.

use std::collections::HashMap;
use std::os::fd::OwnedFd as StdOwnedFd;
use std::sync::Arc;

use tokio::net::UnixStream;
use zbus::message::Header;
use zbus::{Connection, OwnedFd, OwnedObjectPath, OwnedVariant, Variant, interface};

use super::Parts;
use super::access::Access;
use super::clients::{Client, Clients};
use super::decode::{self, Dictionary};
use super::error::Error;
use super::request::Request;
use super::stream::pump;
use crate::engine::Owner;
use crate::session::{
    Availability, Generation, ModelSummary, Options, Prompt, ProviderInfo, Unavailable,
    count_tokens,
};

/// What this daemon can do, beyond the interface itself.
const FEATURES: [&str; 12] = [
    "generate",
    "count-tokens",
    "prewarm",
    "cancel",
    "queue-position",
    "reasoning-effort",
    "show-reasoning",
    "sampling",
    "logprobs",
    "stop",
    "tools",
    "priority",
];

/// The root object.
pub struct Manager {
    parts: Parts,
    access: Access,
    clients: Arc<Clients>,
}

impl Manager {
    /// An object to be served at [`super::PATH`].
    pub fn new(parts: Parts, access: Access, clients: Arc<Clients>) -> Self {
        Self {
            parts,
            access,
            clients,
        }
    }

    async fn authorise(
        &self,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<Client, Error> {
        let client = self.clients.identify(header, connection).await?;
        self.access.check(client.uid)?;
        Ok(client)
    }

    fn prompt(&self, messages: &[Dictionary], options: &Options) -> Result<Prompt, Error> {
        let messages = decode::messages(messages)?;
        Ok(Prompt::new(messages, options, self.parts.prompt_bytes)?)
    }

    async fn resolve(&self, options: &Options) -> Result<String, Error> {
        let model = self.parts.host.resolve(options.model.clone()).await;
        Ok(model.map_err(crate::session::Failure::from)?)
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
        let models = self.parts.host.models().await;
        models.into_iter().map(describe_model).collect()
    }

    #[zbus(property)]
    async fn loaded_model(&self) -> String {
        self.parts.host.loaded_model()
    }

    #[zbus(property)]
    async fn availability(&self) -> (String, HashMap<String, OwnedVariant>) {
        describe_availability(self.parts.host.availability().await)
    }

    #[zbus(property)]
    async fn execution_provider(&self) -> (String, HashMap<String, OwnedVariant>) {
        describe_provider(&self.parts.host.watch_provider().borrow())
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
        let client = self.authorise(&header, connection).await?;
        let options = decode::options(&options)?;
        let prompt = self.prompt(&messages, &options)?;
        let model = self.resolve(&options).await?;
        let place = Arc::new(self.parts.quota.request(Owner(client.uid))?);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        // The caller's end blocks: nobody expects otherwise of a descriptor.
        ours.set_nonblocking(true)?;
        let (ours, theirs) = (UnixStream::from_std(ours)?, StdOwnedFd::from(theirs));

        let host = Arc::clone(&self.parts.host);
        let generation = Generation::start(host, model, prompt, Arc::clone(&place));
        let interrupter = generation.interrupter();
        let token = options.handle_token.as_deref();
        let reservation = self.clients.reserve(&client, token, interrupter.clone())?;
        let path = reservation.path.clone();
        let request = Request {
            owner: client.name,
            interrupter,
        };
        connection.object_server().at(path.clone(), request).await?;
        let (limit, connection) = (self.parts.spool_bytes, connection.clone());
        tokio::spawn(async move {
            pump(generation, ours, limit, client.presence, place).await;
            let server = connection.object_server();
            let removed = server.remove::<Request, _>(reservation.path.clone()).await;
            if let Err(error) = removed {
                tracing::warn!("cannot remove a request's object: {error}");
            }
            drop(reservation);
        });
        Ok((path, theirs.into()))
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
        self.authorise(&header, connection).await?;
        let options = decode::options(&options)?;
        let prompt = self.prompt(&messages, &options)?;
        let model = self.resolve(&options).await?;
        let count = count_tokens(&self.parts.host, &model, prompt).await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Loads the model without waiting for it.
    async fn prewarm(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.authorise(&header, connection).await?;
        let model = self.resolve(&decode::options(&options)?).await?;
        let host = Arc::clone(&self.parts.host);
        // What goes wrong is in `Availability`.
        tokio::spawn(async move { drop(host.acquire(&model).await) });
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
    let details = match now {
        Availability::Idle => vec![],
        Availability::Ready { model } => vec![entry("model", model)],
        Availability::Loading { model, progress } => {
            vec![entry("model", model), entry("progress", progress)]
        }
        Availability::Unavailable(why) => {
            let mut details = vec![
                entry("reason", why.reason()),
                entry("message", why.to_string()),
            ];
            match why {
                Unavailable::NoRuntime { library, .. } => details.push(entry("library", library)),
                Unavailable::NotEnoughMemory { need, have } => {
                    details.extend([entry("need", need), entry("have", have)]);
                }
                Unavailable::SelfTestFailed { provider, .. } => {
                    details.push(entry("provider", provider));
                }
                Unavailable::NoModel(_) | Unavailable::Failed(_) => {}
            }
            details
        }
    };
    (state, details.into_iter().flatten().collect())
}

/// The better providers' failures stand under `rejected`, name by name.
fn describe_provider(provider: &ProviderInfo) -> (String, HashMap<String, OwnedVariant>) {
    let rejected: HashMap<String, String> = provider.rejected.iter().cloned().collect();
    let details = entry("rejected", rejected);
    (provider.name.clone(), details.into_iter().collect())
}
