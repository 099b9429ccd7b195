//! Callers without a bus: each connection to the daemon's own socket brings one. It
//! finds the objects that are on a bus, all on this connection, and its own alone.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use zbus::connection::{AuthMechanism, Builder};
use zbus::{Connection, Guid};

use super::access::{Access, Way};
use super::admin::{self, Admin};
use super::callers::Callers;
use super::clients::{Clients, Peer};
use super::peer_socket::{Admission, PeerSocket};
use super::shared::Shared;
use super::socket_file::{SocketError, SocketFile};
use super::{Parts, SocketSettings, announce, introspection, serve_objects};

/// How long a peer may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Peers that have not said yet who they are. With one more the oldest of them must
/// go, so that whoever says nothing keeps nobody out.
const MOST_UNKNOWN: usize = 32;

/// How long to wait when the system has nothing left for another connection.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// The daemon's own socket and who comes there.
pub struct Peers {
    socket: SocketFile,
    accepting: JoinHandle<()>,
}

impl Peers {
    /// Listens, and serves whoever comes.
    ///
    /// # Errors
    /// The socket can't be had.
    pub fn listen(
        settings: &SocketSettings,
        parts: Parts,
        clients: Arc<Clients>,
        started: Instant,
    ) -> Result<Peers, SocketError> {
        let (socket, listener) = SocketFile::listen(&settings.path)?;
        let failed = |source| SocketError::Io {
            path: settings.path.clone(),
            source,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let door = Door {
            parts,
            clients,
            started,
            access: Access::new(Way::Socket),
            guid: Guid::generate(),
            room: Arc::new(Semaphore::new(settings.connections)),
        };
        let accepting = tokio::spawn(Arc::new(door).accept(listener));
        Ok(Peers { socket, accepting })
    }

    /// Where they come.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What every connection is made from.
struct Door {
    parts: Parts,
    clients: Arc<Clients>,
    started: Instant,
    access: Access,
    guid: Guid<'static>,
    /// For connections.
    room: Arc<Semaphore>,
}

impl Door {
    async fn accept(self: Arc<Self>, listener: UnixListener) {
        let mut unknown: VecDeque<Unknown> = VecDeque::new();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("no connection on the socket: {error}");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let Some(uid) = self.admissible(&stream) else {
                continue;
            };
            unknown.retain(|peer| !peer.0.is_finished());
            if unknown.len() >= MOST_UNKNOWN {
                unknown.pop_front();
            }
            let admitted = tokio::spawn(Arc::clone(&self).admit(stream, uid));
            unknown.push_back(Unknown(admitted.abort_handle()));
        }
    }

    /// The peer's user, by the kernel's word, if it may come in.
    fn admissible(&self, stream: &UnixStream) -> Option<u32> {
        match stream.peer_cred() {
            Ok(peer) if self.access.owns(peer.uid()) => Some(peer.uid()),
            Ok(peer) => {
                tracing::warn!("user {} was refused on the socket", peer.uid());
                None
            }
            Err(error) => {
                tracing::warn!("a peer on the socket was refused, it is unknown: {error}");
                None
            }
        }
    }

    /// Has the peer say who it is, in time, and serves it from then on.
    async fn admit(self: Arc<Self>, stream: UnixStream, uid: u32) {
        match tokio::time::timeout(HANDSHAKE, self.connect(stream, uid)).await {
            Ok(Ok(peer)) => match Arc::clone(&self.room).try_acquire_owned() {
                Ok(place) => drop(tokio::spawn(peer.serve(self, place))),
                Err(_) => tracing::warn!("the socket has no room for another connection"),
            },
            Ok(Err(error)) => tracing::debug!("no handshake on the socket: {error}"),
            Err(_) => tracing::debug!("no handshake on the socket in time"),
        }
    }

    async fn connect(&self, stream: UnixStream, uid: u32) -> zbus::Result<Connected> {
        let peer = self.clients.welcome(uid)?;
        let callers = Callers::one(Arc::clone(&self.clients), peer.client.clone());
        let shared = Arc::new(Shared {
            parts: self.parts.clone(),
            access: self.access,
            callers: callers.clone(),
            started: self.started,
        });
        let (socket, admission) = PeerSocket::new(stream);
        let builder = Builder::socket(socket)
            .server(self.guid.clone())
            .p2p()
            .user_id(uid)
            .auth_mechanism(AuthMechanism::External);
        let builder = serve_objects(builder, &shared).serve_at(admin::PATH, Admin::new(shared));
        let connection = builder.build().await?;
        introspection::take_over(&connection, &callers).await?;
        Ok(Connected {
            connection,
            peer,
            admission,
        })
    }
}

/// A peer that has not said yet who it is, and must go when this is dropped.
struct Unknown(AbortHandle);

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A peer that said who it is.
struct Connected {
    connection: Connection,
    peer: Peer,
    admission: Admission,
}

impl Connected {
    /// Stays until it leaves; then all it has ends.
    async fn serve(self, door: Arc<Door>, place: OwnedSemaphorePermit) {
        let host = Arc::clone(&door.parts.host);
        self.admission.grant();
        tokio::select! {
            () = self.connection.closed() => {}
            () = announce(self.connection.clone(), host) => self.connection.closed().await,
        }
        drop((self.peer, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_unknown_goes_with_the_door() {
        let silent = tokio::spawn(std::future::pending::<()>());
        drop(Unknown(silent.abort_handle()));
        let ended = tokio::time::timeout(HANDSHAKE, silent).await;
        assert!(ended.expect("it stays").unwrap_err().is_cancelled());
    }
}
