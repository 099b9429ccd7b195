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
//! A socket of the daemon's own (`peers.rs`) needs no bus: whoever connects there
//! finds all of these objects on that one connection, in the places above. SENDER is
//! then `peer_N`. What a bus bounds for a caller, `peer_socket.rs` does.
//!
//! The answers themselves travel on sockets of their own, not on the bus: `stream.rs`.

mod access;
mod admin;
mod callers;
mod clients;
mod decode;
mod error;
mod introspection;
mod log_control;
mod manager;
mod peer_socket;
mod peers;
mod request;
mod session;
mod shared;
mod socket_file;
mod stream;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::RequestNameFlags;

pub use access::Bus;
pub use error::Error;
pub use log_control::{LogControl, LogLevel, LogTarget};
pub use socket_file::SocketError;

use self::access::{Access, Way};
use self::admin::Admin;
use self::callers::Callers;
use self::clients::Clients;
use self::log_control::LogControlObject;
use self::manager::Manager;
use self::peers::Peers;
use self::shared::Shared;
use crate::session::{Availability, ModelHost, Quota, Unavailable};

/// The well-known name.
pub const NAME: &str = "org.gptoss.Daemon1";
/// The manager's path; everything else is below it.
pub const PATH: &str = "/org/gptoss/Daemon1";

/// What the objects are made from.
#[derive(Clone)]
pub struct Parts {
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

/// A socket of the daemon's own.
#[derive(Debug, Clone)]
pub struct SocketSettings {
    /// Where it is.
    pub path: PathBuf,
    /// Most connections at a time.
    pub connections: usize,
}

/// Why the objects cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such bus, or it fails.
    #[error(
        "cannot connect to the {} bus: {source}; `gptossd --socket PATH` needs none",
        .bus.name()
    )]
    Bus {
        /// The bus.
        bus: Bus,
        /// Its reason.
        source: zbus::Error,
    },
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// The served objects.
pub struct Service {
    bus: Option<OnBus>,
    peers: Option<Peers>,
    clients: Arc<Clients>,
}

/// Our connections to a bus.
struct OnBus {
    connection: Connection,
    admin: Connection,
}

impl Service {
    /// Connects to a bus, listens on a socket, or both, and serves the objects there.
    /// The name on the bus is still to be requested, afterwards, so that the first
    /// call finds them.
    ///
    /// # Errors
    /// There is no bus, it fails, or there is no socket.
    pub async fn start(
        parts: Parts,
        bus: Option<Bus>,
        socket: Option<SocketSettings>,
    ) -> Result<Service, StartError> {
        let (clients, started) = (Clients::new(), Instant::now());
        let peers = match socket {
            Some(settings) => {
                let (parts, clients) = (parts.clone(), Arc::clone(&clients));
                Some(Peers::listen(&settings, parts, clients, started)?)
            }
            None => None,
        };
        let bus = match bus {
            Some(bus) => {
                let served = OnBus::start(bus, parts, &clients, started).await;
                Some(served.map_err(|source| StartError::Bus { bus, source })?)
            }
            None => None,
        };
        Ok(Service {
            bus,
            peers,
            clients,
        })
    }

    /// Waits until the bus has closed the connection.
    pub async fn lost(&self) {
        match &self.bus {
            Some(bus) => bus.connection.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the well-known names. `false` if another process has the daemon's.
    ///
    /// # Errors
    /// The bus'. Not having the administrator's name is a warning: a bus whose
    /// policy does not know it can be used all the same.
    pub async fn request_name(&self) -> zbus::Result<bool> {
        let Some(bus) = &self.bus else {
            return Ok(true);
        };
        // The library's own default would take the name from its owner.
        let flags = RequestNameFlags::DO_NOT_QUEUE;
        match bus.connection.request_name_with_flags(NAME, flags).await {
            Ok(_) => {}
            Err(zbus::Error::NameTaken) => return Ok(false),
            Err(error) => return Err(error),
        }
        let admin = bus.admin.request_name_with_flags(admin::NAME, flags).await;
        if let Err(error) = admin {
            tracing::warn!("cannot take the name {}: {error}", admin::NAME);
        }
        Ok(true)
    }

    /// The socket, where there is one.
    pub fn socket(&self) -> Option<&Path> {
        self.peers.as_ref().map(Peers::path)
    }

    /// Lets nobody else in, ends every request with an error and waits, for `patience`
    /// at most, until the readers have it.
    pub async fn stop(&mut self, patience: Duration) {
        self.peers = None;
        self.clients.stop(patience).await;
    }
}

impl OnBus {
    async fn start(
        bus: Bus,
        parts: Parts,
        clients: &Arc<Clients>,
        started: Instant,
    ) -> zbus::Result<OnBus> {
        let callers = Callers::of_bus(Arc::clone(clients));
        let host = Arc::clone(&parts.host);
        let shared = Arc::new(Shared {
            parts,
            access: Access::new(Way::Bus(bus)),
            callers: callers.clone(),
            started,
        });
        let builder = || match bus {
            Bus::System => Builder::system(),
            Bus::Session => Builder::session(),
        };
        let connection = serve_objects(builder(), &shared).build().await?;
        clients.watch(&connection).await?;
        introspection::take_over(&connection, &callers).await?;
        let admin = builder().serve_at(admin::PATH, Admin::new(shared));
        let admin = admin.build().await?;
        tokio::spawn(announce(connection.clone(), host));
        Ok(OnBus { connection, admin })
    }
}

/// Has a connection serve what goes by the daemon's name. Objects that are added to one
/// that stands already would miss the calls that arrive before the library's own task
/// listens.
fn serve_objects<'a>(builder: Builder<'a>, shared: &Arc<Shared>) -> Builder<'a> {
    let manager = Manager::new(Arc::clone(shared));
    let log = LogControlObject::new(Arc::clone(shared));
    builder
        .serve_at(PATH, manager)
        .serve_at(log_control::PATH, log)
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
