//! D-Bus adaptor: decode, authorise, one call, encode. One file per object.
//!
//! Service `org.gptoss.Daemon1`:
//!
//! ```text
//! /org/gptoss/Daemon1                         Manager   manager.rs
//! /org/gptoss/Daemon1/session/SENDER/TOKEN    Session   session.rs
//! /org/gptoss/Daemon1/request/SENDER/TOKEN    Request   request.rs
//! /org/freedesktop/LogControl1                LogControlObject   log_control.rs
//! ```
//!
//! Service `org.gptoss.Admin1`, on a connection of its own:
//!
//! ```text
//! /org/gptoss/Admin1                          Admin     admin.rs
//! ```
//!
//! The answers themselves travel on sockets, not on the bus: `stream.rs`.

mod access;
mod admin;
mod clients;
mod decode;
mod error;
mod introspection;
mod log_control;
mod manager;
mod request;
mod session;
mod shared;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::RequestNameFlags;

pub use access::Bus;
pub use error::Error;
pub use log_control::{LogControl, LogLevel, LogTarget};

use self::access::Access;
use self::admin::Admin;
use self::clients::Clients;
use self::log_control::LogControlObject;
use self::manager::Manager;
use self::shared::Shared;
use crate::session::{Availability, ModelHost, Quota, Unavailable};

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
    /// How long a session stays that nobody uses.
    pub session_idle: Duration,
    /// Bytes of text in one request, a session's history included.
    pub prompt_bytes: usize,
    /// Bytes of events kept for a slow reader.
    pub spool_bytes: usize,
    /// The daemon's log.
    pub log: Arc<dyn LogControl>,
}

/// The served objects.
pub struct Service {
    connection: Connection,
    admin: Connection,
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
        let shared = Arc::new(Shared {
            parts: parts.clone(),
            access: Access::new(parts.bus),
            clients: Arc::clone(&clients),
            started: Instant::now(),
        });
        let builder = || match parts.bus {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
        };
        // Objects that are added to a connection that stands already would
        // miss the calls that arrive before the library's own task listens.
        let manager = Manager::new(Arc::clone(&shared));
        let log = LogControlObject::new(parts.log, shared.access, Arc::clone(&clients));
        let connection = builder()
            .serve_at(PATH, manager)
            .serve_at(log_control::PATH, log);
        let connection = connection.build().await?;
        clients.watch(&connection).await?;
        introspection::take_over(&connection, &clients).await?;
        let admin = builder().serve_at(admin::PATH, Admin::new(shared));
        let admin = admin.build().await?;
        tokio::spawn(announce(connection.clone(), parts.host));
        Ok(Service {
            connection,
            admin,
            clients,
        })
    }

    /// Waits until the bus has closed the connection.
    pub async fn lost(&self) {
        self.connection.closed().await;
    }

    /// Takes the well-known names. `false` if another process has the daemon's.
    ///
    /// # Errors
    /// The bus'. Not having the administrator's name is a warning: a bus whose
    /// policy does not know it can be used all the same.
    pub async fn request_name(&self) -> zbus::Result<bool> {
        // The library's own default would take the name from its owner.
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match self.connection.request_name_with_flags(NAME, flags).await {
            Ok(_) => {}
            Err(zbus::Error::NameTaken) => return Ok(false),
            Err(error) => return Err(error),
        }
        let admin = self.admin.request_name_with_flags(admin::NAME, flags).await;
        if let Err(error) = admin {
            tracing::warn!("cannot take the name {}: {error}", admin::NAME);
        }
        Ok(true)
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
        Availability::Unavailable(Unavailable::Paused(pause)) => (a.state(), pause.why()),
        _ => (a.state(), a.reason()),
    };
    let seen = |a: &Availability| (shown(a), host.loaded_model());
    let mut last = seen(&availability.borrow_and_update());
    let server = connection.object_server();
    let Ok(manager) = server.interface::<_, Manager>(PATH).await else {
        return;
    };
    let emitter = manager.signal_emitter();
    loop {
        let sent = tokio::select! {
            changed = availability.changed() => {
                let now = seen(&availability.borrow_and_update());
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
