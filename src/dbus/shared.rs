//! What the objects have in common: who calls, and how an answer begins.

use std::os::fd::OwnedFd as StdOwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UnixStream;
use zbus::message::Header;
use zbus::{Connection, OwnedFd, OwnedObjectPath};

use super::Parts;
use super::access::{Access, Right};
use super::callers::Callers;
use super::clients::{Client, Kind};
use super::error::Error;
use super::introspection;
use super::request::Request;
use super::stream::pump;
use crate::engine::Owner;
use crate::session::{Failure, Generation, Options, Place};

/// Behind every object of a connection.
pub struct Shared {
    /// What they are made from.
    pub parts: Parts,
    /// Who may call.
    pub access: Access,
    /// Who calls.
    pub callers: Callers,
    /// Since when the daemon runs.
    pub started: Instant,
}

impl Shared {
    /// The caller, if it has this right.
    ///
    /// # Errors
    /// It has not, or has left.
    pub async fn authorise(
        &self,
        right: Right,
        header: &Header<'_>,
        connection: &Connection,
    ) -> Result<Client, Error> {
        let client = self.callers.identify(header, connection).await?;
        let access = &self.access;
        access.check(right, client.uid, header, connection).await?;
        Ok(client)
    }

    /// The full name of the model that the options ask for.
    ///
    /// # Errors
    /// It is not installed.
    pub async fn resolve(&self, options: &Options) -> Result<String, Error> {
        let model = self.parts.host.resolve(options.model.clone()).await;
        Ok(model.map_err(Failure::from)?)
    }

    /// Begins an answer: its request object and the reader's end of its stream.
    /// `begin` is called once everything else is known to work.
    ///
    /// # Errors
    /// The user has too much already, the handle is in use, `begin`'s, or the
    /// operating system's.
    pub async fn answer(
        &self,
        client: Client,
        token: Option<&str>,
        connection: &Connection,
        begin: impl FnOnce(Arc<Place>) -> Result<Generation, Failure>,
    ) -> Result<(OwnedObjectPath, OwnedFd), Error> {
        let place = Arc::new(self.parts.quota.request(Owner(client.uid))?);
        let reservation = self
            .callers
            .clients
            .reserve(&client, Kind::Request, token)?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        // The caller's end blocks: nobody expects otherwise of a descriptor.
        ours.set_nonblocking(true)?;
        let (ours, theirs) = (UnixStream::from_std(ours)?, StdOwnedFd::from(theirs));

        let generation = begin(Arc::clone(&place))?;
        let interrupter = generation.interrupter();
        reservation.attach(interrupter.clone());
        let path = reservation.path.clone();
        let request = Request {
            callers: self.callers.clone(),
            owner: client.name,
            interrupter,
        };
        introspection::serve(connection, &self.callers, &path, request).await?;
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
}
