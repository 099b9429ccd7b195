//! D-Bus adaptor: decode, authorise, one call, encode. One file per object.
//!
//! Service `org.gptoss.Daemon1`:
//!
//! ```text
//! /org/gptoss/Daemon1                         Manager   manager.rs
//! /org/gptoss/Daemon1/request/SENDER/TOKEN    Request   request.rs
//! ```
//!
//! The answers themselves travel on sockets, not on the bus: `stream.rs`.

mod access;
mod clients;
mod decode;
mod error;
mod manager;
mod request;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::RequestNameFlags;

pub use access::Bus;
pub use error::Error;

use self::access::Access;
use self::clients::Clients;
use self::manager::Manager;
use crate::session::{Availability, ModelHost, Quota};

/// The well-known name.
pub const NAME: &str = "org.gptoss.Daemon1";
/// The manager's path; everything else is below it.
pub const PATH: &str = "/org/gptoss/Daemon1";

/// What the objects are made from.
#[derive(Clone)]
pub struct Parts {
    /// Which bus it is, and so who may call.
    pub bus: Bus,
    /// The model that answers.
    pub host: Arc<ModelHost>,
    /// What one user may have.
    pub quota: Arc<Quota>,
    /// Bytes of text in one request.
    pub prompt_bytes: usize,
    /// Bytes of events kept for a slow reader.
    pub spool_bytes: usize,
}

/// The served objects.
pub struct Service {
    connection: Connection,
    clients: Arc<Clients>,
}

impl Service {
    /// Connects to the bus and serves the objects there. The name is still to
    /// be requested, afterwards, so that the first call finds them.
    ///
    /// # Errors
    /// There is no bus, or it fails.
    pub async fn start(parts: Parts) -> zbus::Result<Service> {
        let clients = Clients::new();
        let manager = Manager::new(parts.clone(), Access::new(parts.bus), Arc::clone(&clients));
        let builder = match parts.bus {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
        };
        // Objects that are added to a connection that stands already would
        // miss the calls that arrive before the library's own task listens.
        let connection = builder.serve_at(PATH, manager).build().await?;
        tokio::spawn(announce(connection.clone(), parts.host));
        Ok(Service {
            connection,
            clients,
        })
    }

    /// Waits until the bus has closed the connection.
    pub async fn lost(&self) {
        self.connection.closed().await;
    }

    /// Takes the well-known name. `false` if another process has it.
    ///
    /// # Errors
    /// The bus'.
    pub async fn request_name(&self) -> zbus::Result<bool> {
        // The library's own default would take the name from its owner.
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match self.connection.request_name_with_flags(NAME, flags).await {
            Ok(_) => Ok(true),
            Err(zbus::Error::NameTaken) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends every request with an error and waits, for `patience` at most,
    /// until the readers have it.
    pub async fn stop(&self, patience: Duration) {
        self.clients.stop(patience).await;
    }
}

/// Emits PropertiesChanged when a state changes; progress alone is no change.
async fn announce(connection: Connection, host: Arc<ModelHost>) {
    let mut availability = host.watch_availability();
    let mut provider = host.watch_provider();
    let shown = |a: &Availability| match a {
        Availability::Unavailable(why) => (a.state(), why.reason()),
        _ => (a.state(), ""),
    };
    let mut last = shown(&availability.borrow_and_update());
    let server = connection.object_server();
    let Ok(manager) = server.interface::<_, Manager>(PATH).await else {
        return;
    };
    let emitter = manager.signal_emitter();
    loop {
        let sent = tokio::select! {
            changed = availability.changed() => {
                let now = shown(&availability.borrow_and_update());
                match changed {
                    Err(_) => return,
                    Ok(()) if now == last => continue,
                    Ok(()) => {}
                }
                last = now;
                let manager = manager.get().await;
                match manager.availability_changed(emitter).await {
                    Ok(()) => manager.loaded_model_changed(emitter).await,
                    failed => failed,
                }
            }
            changed = provider.changed() => {
                if changed.is_err() {
                    return;
                }
                manager.get().await.execution_provider_changed(emitter).await
            }
        };
        if let Err(error) = sent {
            tracing::warn!("cannot emit PropertiesChanged: {error}");
        }
    }
}
