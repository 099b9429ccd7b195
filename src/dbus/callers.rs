//! Who sends the calls that a connection brings: on a bus whoever it says, on a
//! socket of the daemon's own the one peer at its other end.

use std::sync::Arc;

use zbus::message::Header;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, OwnedObjectPath};

use super::clients::{Client, Clients, Kind};
use super::error::Error;

/// The callers of one connection.
#[derive(Clone)]
pub struct Callers {
    /// Those of all connections.
    pub clients: Arc<Clients>,
    /// What a peer's messages say of their sender is its own invention.
    peer: Option<Client>,
}

impl Callers {
    /// Whoever is on a bus.
    pub fn of_bus(clients: Arc<Clients>) -> Self {
        Self {
            clients,
            peer: None,
        }
    }

    /// The one at the other end.
    pub fn one(clients: Arc<Clients>, peer: Client) -> Self {
        Self {
            clients,
            peer: Some(peer),
        }
    }

    /// Whether there is but one.
    pub fn is_one(&self) -> bool {
        self.peer.is_some()
    }

    /// Who sent a call.
    ///
    /// # Errors
    /// The call has no sender, or it has left already.
    pub async fn identify(
        &self,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<Client, Error> {
        match &self.peer {
            Some(peer) => Ok(peer.clone()),
            None => self.clients.identify(header, connection).await,
        }
    }

    fn sender(&self, header: &Header<'_>) -> Option<OwnedUniqueName> {
        match &self.peer {
            Some(peer) => Some(peer.name.clone()),
            None => header.sender().map(|sender| sender.to_owned().into()),
        }
    }

    /// Whether a call to an object is its owner's. To anyone else it is the same as
    /// a path that never was.
    ///
    /// # Errors
    /// It is not.
    pub fn check_owner(
        &self,
        owner: &OwnedUniqueName,
        kind: Kind,
        header: &Header<'_>,
    ) -> Result<(), Error> {
        match self.sender(header).as_ref() == Some(owner) {
            true => Ok(()),
            false => Err(Error::UnknownObject(format!(
                "no such {} of yours",
                kind.word()
            ))),
        }
    }

    /// The paths of what the sender of a call has.
    pub fn paths(&self, header: &Header<'_>) -> Vec<OwnedObjectPath> {
        let sender = self.sender(header);
        sender.map_or_else(Vec::new, |sender| self.clients.paths(&sender))
    }
}
