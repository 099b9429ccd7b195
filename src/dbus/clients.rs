//! The callers: who they are, what they have, and that they are still there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath};

use super::PATH;
use super::error::Error;
use crate::session::{Interrupt, Interrupter};

/// How long the bus may take to say who calls.
const PATIENCE: Duration = Duration::from_secs(5);

/// A caller.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its unique name: the bus', or ours for a peer without a bus.
    pub name: OwnedUniqueName,
    /// Its user, as the bus or the system says.
    pub uid: u32,
    /// Closed once it has left.
    pub presence: watch::Receiver<()>,
}

struct Entry {
    client: Client,
    /// Dropped with the entry: everything the client has ends.
    _presence: watch::Sender<()>,
    /// Its requests, with what ends them, and its sessions.
    objects: HashMap<OwnedObjectPath, Option<Interrupter>>,
}

/// Everyone who called and has not left.
pub struct Clients {
    entries: Mutex<HashMap<OwnedUniqueName, Entry>>,
    /// Requests alive, their readers' backlog included.
    live: watch::Sender<usize>,
    stopping: AtomicBool,
    next_token: Mutex<u64>,
    next_peer: AtomicU64,
}

impl Clients {
    /// Nobody called yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            live: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
            next_token: Mutex::new(0),
            next_peer: AtomicU64::new(0),
        })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<OwnedUniqueName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has whatever a caller has end when it leaves the bus. One subscription for
    /// all: the bus grants a connection only some hundreds.
    ///
    /// # Errors
    /// The bus'.
    pub async fn watch(self: &Arc<Self>, connection: &Connection) -> zbus::Result<()> {
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(2, "")
            .build()?;
        let mut departures = MessageStream::for_match_rule(rule, connection, None).await?;
        let clients = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(departure) = departures.next().await {
                let Some(clients) = clients.upgrade() else {
                    return;
                };
                if let Some(name) = departure.ok().as_ref().and_then(who_left) {
                    clients.entries().remove(&name);
                }
            }
            // The connection is closed, and so is everyone's.
            if let Some(clients) = clients.upgrade() {
                clients.entries().clear();
            }
        });
        Ok(())
    }

    /// A peer that came by itself, without a bus. It is there until what is returned
    /// is dropped.
    ///
    /// # Errors
    /// None: the name is well formed.
    pub fn welcome(self: &Arc<Self>, uid: u32) -> zbus::Result<Peer> {
        // No bus names anybody so.
        let number = self.next_peer.fetch_add(1, Ordering::Relaxed);
        let name = OwnedUniqueName::try_from(format!(":peer.{number}"))?;
        Ok(Peer {
            client: self.admit(name, uid),
            clients: Arc::clone(self),
        })
    }

    /// Who sent a call. From its first call on a client is known until it leaves.
    ///
    /// # Errors
    /// The call has no sender, or it has left already.
    pub async fn identify(
        self: &Arc<Self>,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<Client, Error> {
        let nameless = || Error::AccessDenied("the call has no sender".into());
        let name: OwnedUniqueName = header.sender().ok_or_else(nameless)?.to_owned().into();
        if let Some(entry) = self.entries().get(&name) {
            return Ok(entry.client.clone());
        }
        // Who is asked about while a property is being served holds up every other
        // call meanwhile, the bus' answer perhaps among them.
        let asked = tokio::time::timeout(PATIENCE, self.ask(name.clone(), connection));
        asked.await.unwrap_or_else(|_| {
            let mut entries = self.entries();
            if entries.get(&name).is_some_and(|e| e.objects.is_empty()) {
                entries.remove(&name);
            }
            Err(Error::AccessDenied(
                "who calls? The bus does not say".into(),
            ))
        })
    }

    async fn ask(
        self: &Arc<Self>,
        name: OwnedUniqueName,
        connection: &Connection,
    ) -> Result<Client, Error> {
        let bus = DBusProxy::new(connection).await?;
        let uid = bus.get_connection_unix_user(name.clone().into()).await;
        let uid = uid.map_err(|e| Error::AccessDenied(format!("who calls? {e}")))?;
        let client = self.admit(name.clone(), uid);
        // A client that is still there now can't have left unnoticed before.
        match bus.name_has_owner(name.clone().into()).await {
            Ok(true) => Ok(client),
            Ok(false) | Err(_) => {
                self.entries().remove(&name);
                Err(Error::AccessDenied("the caller has left the bus".into()))
            }
        }
    }

    fn admit(&self, name: OwnedUniqueName, uid: u32) -> Client {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&name) {
            // Two first calls at once.
            return entry.client.clone();
        }
        let (sender, presence) = watch::channel(());
        let client = Client {
            name: name.clone(),
            uid,
            presence,
        };
        let entry = Entry {
            client: client.clone(),
            _presence: sender,
            objects: HashMap::new(),
        };
        entries.insert(name, entry);
        client
    }

    /// The paths of what a caller has.
    pub fn paths(&self, caller: &OwnedUniqueName) -> Vec<OwnedObjectPath> {
        let entries = self.entries();
        let objects = entries.get(caller).map(|entry| entry.objects.keys());
        objects.into_iter().flatten().cloned().collect()
    }

    /// Who called and has not left.
    pub fn count(&self) -> usize {
        self.entries().len()
    }

    /// Makes the path of a new object: `…/request/1_42/TOKEN`.
    ///
    /// # Errors
    /// The token is not `[A-Za-z0-9_]{1,64}` or in use.
    pub fn reserve(
        self: &Arc<Self>,
        client: &Client,
        kind: Kind,
        token: Option<&str>,
    ) -> Result<Reservation, Error> {
        let token = match token {
            Some(token) => {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
                if !(1..=64).contains(&token.len()) || !token.bytes().all(allowed) {
                    return Err(Error::invalid(
                        "handle-token must be 1 to 64 letters, digits or underscores",
                    ));
                }
                token.to_owned()
            }
            None => self.new_token(),
        };
        let sender = client
            .name
            .as_str()
            .trim_start_matches(':')
            .replace('.', "_");
        let path = format!("{PATH}/{}/{sender}/{token}", kind.word());
        let path = OwnedObjectPath::try_from(path)?;
        let mut entries = self.entries();
        let gone = || Error::AccessDenied("the caller has left the bus".into());
        let entry = entries.get_mut(&client.name).ok_or_else(gone)?;
        if entry.objects.contains_key(&path) {
            return Err(Error::invalid(format!(
                "handle-token {token:?} is in use; each {} of yours needs another one",
                kind.word()
            )));
        }
        entry.objects.insert(path.clone(), None);
        if kind == Kind::Request {
            self.live.send_modify(|n| *n += 1);
        }
        Ok(Reservation {
            clients: Arc::clone(self),
            client: client.name.clone(),
            kind,
            path,
        })
    }

    fn new_token(&self) -> String {
        let next = self.next_token.lock();
        let mut next = next.unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        format!("gptoss_{next}")
    }

    /// Ends every request and waits until the readers have the last event.
    pub async fn stop(&self, patience: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        for entry in self.entries().values() {
            for interrupter in entry.objects.values().flatten() {
                interrupter.interrupt(Interrupt::Stop);
            }
        }
        let mut live = self.live.subscribe();
        let all_gone = live.wait_for(|n| *n == 0);
        if tokio::time::timeout(patience, all_gone).await.is_err() {
            tracing::warn!("some readers did not take their last event");
        }
    }
}

/// The connection that a `NameOwnerChanged` is about; `None` for other names,
/// which their owners gave back.
fn who_left(departure: &Message) -> Option<OwnedUniqueName> {
    let body = departure.body();
    let (name, _, _): (&str, &str, &str) = body.deserialize().ok()?;
    OwnedUniqueName::try_from(name).ok()
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A generation at work.
    Request,
    /// A conversation.
    Session,
}

impl Kind {
    /// What it is called, in paths too.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Request => "request",
            Kind::Session => "session",
        }
    }
}

/// A peer without a bus. Dropped when its connection ends: all it has ends too.
pub struct Peer {
    clients: Arc<Clients>,
    /// The caller it is.
    pub client: Client,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.clients.entries().remove(&self.client.name);
    }
}

/// An object's place in the registry; gone when dropped.
pub struct Reservation {
    clients: Arc<Clients>,
    client: OwnedUniqueName,
    kind: Kind,
    /// The object's path.
    pub path: OwnedObjectPath,
}

impl Reservation {
    /// Has the daemon's stop end the request.
    pub fn attach(&self, interrupter: Interrupter) {
        if let Some(entry) = self.clients.entries().get_mut(&self.client) {
            entry
                .objects
                .insert(self.path.clone(), Some(interrupter.clone()));
        }
        if self.clients.stopping.load(Ordering::SeqCst) {
            interrupter.interrupt(Interrupt::Stop);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(entry) = self.clients.entries().get_mut(&self.client) {
            entry.objects.remove(&self.path);
        }
        if self.kind == Kind::Request {
            self.clients.live.send_modify(|n| *n -= 1);
        }
    }
}
