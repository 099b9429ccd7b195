//! `org.gptoss.Admin1`: what an administrator does with the model. On a bus it is
//! on a connection of its own: who grants a sandbox the daemon's name does not
//! grant it this one.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::message::Header;
use zbus::{Connection, OwnedVariant, Variant, interface};

use super::access::Right;
use super::decode::Dictionary;
use super::error::Error;
use super::shared::Shared;
use crate::session::{Failure, Options};

/// The well-known name.
pub const NAME: &str = "org.gptoss.Admin1";
/// The only object's path.
pub const PATH: &str = "/org/gptoss/Admin1";

/// The administrator's object.
pub struct Admin(Arc<Shared>);

impl Admin {
    /// An object to be served at [`PATH`].
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    async fn authorise(&self, header: &Header<'_>, connection: &Connection) -> Result<(), Error> {
        let client = self.0.authorise(Right::Manage, header, connection).await;
        client.map(drop)
    }
}

#[interface(name = "org.gptoss.Admin1", introspection_docs = false)]
impl Admin {
    /// Loads a model, in place of the present one, without waiting for it.
    async fn load(
        &self,
        model: String,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.authorise(&header, connection).await?;
        // None are known yet.
        drop(options);
        let options = Options {
            model: (!model.is_empty()).then_some(model),
            ..Options::default()
        };
        let model = self.0.resolve(&options).await?;
        let host = Arc::clone(&self.0.parts.host);
        let probed = host.probe_model(&model).await;
        probed.map_err(Failure::from)?;
        // What goes wrong from here on is in `Availability`.
        tokio::spawn(async move { drop(host.acquire(&model).await) });
        Ok(())
    }

    /// Unloads the model once its requests have ended, without waiting for it.
    async fn unload(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.authorise(&header, connection).await?;
        drop(options);
        let host = Arc::clone(&self.0.parts.host);
        tokio::spawn(async move { host.unload().await });
        Ok(())
    }

    /// Looks at the store again.
    async fn rescan(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(), Error> {
        self.authorise(&header, connection).await?;
        self.0.parts.host.availability().await;
        Ok(())
    }

    /// Numbers since the daemon's start.
    #[zbus(out_args("stats"))]
    async fn stats(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<HashMap<String, OwnedVariant>, Error> {
        self.authorise(&header, connection).await?;
        let (parts, clients) = (&self.0.parts, &self.0.callers.clients);
        let engine = parts.host.statistics();
        let first_token = parts.host.outcomes().first_token;
        let millis = u64::try_from(first_token.sum.as_millis()).unwrap_or(u64::MAX);
        let numbers = [
            ("uptime-seconds", self.0.started.elapsed().as_secs()),
            ("clients", clients.count() as u64),
            ("sessions", parts.quota.sessions() as u64),
            ("requests", parts.quota.requests() as u64),
            ("requests-running", engine.running as u64),
            ("requests-waiting", engine.waiting as u64),
            ("requests-submitted", engine.submitted),
            ("requests-refused", engine.refused),
            ("requests-completed", engine.completed),
            ("requests-cancelled", engine.cancelled),
            ("requests-failed", engine.failed),
            ("prompt-tokens-computed", engine.prefill_tokens),
            ("prompt-tokens-cached", engine.cached_tokens),
            ("output-tokens", engine.generated_tokens),
            ("prefill-ms", engine.prefill_us / 1000),
            ("decode-ms", engine.decode_us / 1000),
            ("compute-ms", engine.forward_us / 1000),
            ("first-tokens", first_token.count),
            ("first-token-ms", millis),
            ("cache-blocks", engine.cache.total as u64),
            ("cache-blocks-used", engine.cache.used as u64),
        ];
        let model = Variant::from(parts.host.loaded_model()).try_into_owned();
        let mut stats = HashMap::from([("model".to_owned(), model?)]);
        for (name, number) in numbers {
            let number = Variant::from(number).try_into_owned();
            stats.insert(name.to_owned(), number?);
        }
        Ok(stats)
    }
}
