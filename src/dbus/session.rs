//! `org.gptoss.Daemon1.Session`: a conversation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedFd, OwnedObjectPath, OwnedVariant, Variant, fdo, interface};

use super::clients::{Client, Kind, Reservation};
use super::decode::{self, Dictionary};
use super::error::Error;
use super::introspection;
use super::shared::Shared;
use crate::engine::Owner;
use crate::session::{
    Failure, Generation, MessageParts, Options, Prompt, Seat, Session, ToolResult, Turn,
};

/// Serves `session` to `client` until it is closed, unused for long, or the
/// client has left.
///
/// # Errors
/// The user has too many, or the handle is in use.
pub async fn open(
    shared: &Arc<Shared>,
    client: Client,
    token: Option<&str>,
    session: Arc<Session>,
    connection: &Connection,
) -> Result<OwnedObjectPath, Error> {
    let seat = shared.parts.quota.session(Owner(client.uid))?;
    let callers = &shared.callers;
    let reservation = callers.clients.reserve(&client, Kind::Session, token)?;
    let path = reservation.path.clone();
    let object = SessionObject {
        shared: Arc::clone(shared),
        session: Arc::clone(&session),
        client: client.clone(),
    };
    introspection::serve(connection, callers, &path, object).await?;
    let life = Life {
        session,
        client,
        idle: shared.parts.session_idle,
        reservation,
        seat,
    };
    tokio::spawn(life.live(connection.clone()));
    Ok(path)
}

/// What an open session holds, and how long.
struct Life {
    session: Arc<Session>,
    client: Client,
    idle: Duration,
    reservation: Reservation,
    seat: Seat,
}

impl Life {
    async fn live(mut self, connection: Connection) {
        let reason = tokio::select! {
            _ = self.client.presence.changed() => None,
            () = self.session.closed() => Some("closed"),
            () = unused(&self.session, self.idle) => Some("expired"),
        };
        self.session.close();
        let path = self.reservation.path.clone();
        let server = connection.object_server();
        if let Err(error) = server.remove::<SessionObject, _>(path.clone()).await {
            tracing::warn!("cannot remove a session's object: {error}");
        }
        // Whoever hears that it is closed may open another.
        drop((self.reservation, self.seat));
        if let Some(reason) = reason {
            let told = farewell(&connection, path, &self.client, reason).await;
            if let Err(error) = told {
                tracing::warn!("cannot emit Closed: {error}");
            }
        }
    }
}

/// Waits until nobody has used it for `idle`.
async fn unused(session: &Session, idle: Duration) {
    loop {
        let left = match session.idle_since() {
            Some(since) => idle.saturating_sub(since.elapsed()),
            None => idle,
        };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// Tells the owner, and nobody else.
async fn farewell(
    connection: &Connection,
    path: OwnedObjectPath,
    client: &Client,
    reason: &str,
) -> zbus::Result<()> {
    let mut emitter = SignalEmitter::new(connection, path)?;
    // On a socket nobody else listens, and nobody has a name.
    if connection.is_bus() {
        emitter = emitter.set_destination(client.name.clone().into());
    }
    let reason = Variant::from(reason).try_into_owned()?;
    SessionObject::closed(&emitter, HashMap::from([("reason".into(), reason)])).await
}

/// The object of one session.
pub struct SessionObject {
    shared: Arc<Shared>,
    session: Arc<Session>,
    client: Client,
}

impl SessionObject {
    /// The caller, if it is the owner.
    fn own(&self, header: &Header<'_>) -> Result<Client, Error> {
        let callers = &self.shared.callers;
        callers.check_owner(&self.client.name, Kind::Session, header)?;
        self.session.touch();
        Ok(self.client.clone())
    }

    /// The same for properties.
    fn owned(&self, header: Option<&Header<'_>>) -> fdo::Result<()> {
        let refused = |error: Error| fdo::Error::UnknownObject(error.to_string());
        match header {
            Some(header) => self.own(header).map(drop).map_err(refused),
            // Asked by ourselves.
            None => Ok(()),
        }
    }

    /// A session keeps its model: it may be named again, no other one.
    async fn check_model(&self, options: &Options) -> Result<(), Error> {
        if options.model.is_none() || self.shared.resolve(options).await? == self.session.model() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "option \"model\": this session is with {:?}; create another one",
            self.session.model()
        )))
    }

    async fn turn(
        &self,
        client: Client,
        options: Options,
        connection: &Connection,
        begin: impl FnOnce(Options) -> Result<(Prompt, Turn), Failure>,
    ) -> Result<(OwnedObjectPath, OwnedFd), Error> {
        self.check_model(&options).await?;
        let token = options.handle_token.clone();
        let start = |place| {
            let (prompt, turn) = begin(options)?;
            let host = Arc::clone(&self.shared.parts.host);
            let model = self.session.model().to_owned();
            let generation = Generation::start(host, model, prompt, place, Some(turn));
            self.session.running(generation.interrupter());
            Ok(generation)
        };
        let token = token.as_deref();
        self.shared.answer(client, token, connection, start).await
    }
}

#[interface(name = "org.gptoss.Daemon1.Session", introspection_docs = false)]
impl SessionObject {
    #[zbus(property(emits_changed_signal = "const"))]
    async fn model(&self, #[zbus(header)] header: Option<Header<'_>>) -> fdo::Result<String> {
        self.owned(header.as_ref())?;
        Ok(self.session.model().to_owned())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn context_window(&self, #[zbus(header)] header: Option<Header<'_>>) -> fdo::Result<u32> {
        self.owned(header.as_ref())?;
        Ok(u32::try_from(self.session.window()).unwrap_or(u32::MAX))
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn context_usage(&self, #[zbus(header)] header: Option<Header<'_>>) -> fdo::Result<u32> {
        self.owned(header.as_ref())?;
        let tokens = self.session.tokens(&self.shared.parts.host).await;
        let tokens = tokens.map_err(|failure| fdo::Error::Failed(failure.to_string()))?;
        Ok(u32::try_from(tokens).unwrap_or(u32::MAX))
    }

    /// Says something and has it answered.
    #[zbus(out_args("request", "stream"))]
    async fn prompt(
        &self,
        messages: Vec<Dictionary>,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(OwnedObjectPath, OwnedFd), Error> {
        let client = self.own(&header)?;
        let (messages, options) = (decode::messages(&messages)?, decode::options(&options)?);
        let begin = |options| self.session.prompt(messages, options);
        self.turn(client, options, connection, begin).await
    }

    /// Goes on with the results of the tool calls.
    #[zbus(out_args("request", "stream"))]
    async fn submit_tool_results(
        &self,
        results: Vec<(String, String, Dictionary)>,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(OwnedObjectPath, OwnedFd), Error> {
        let client = self.own(&header)?;
        let options = decode::options(&options)?;
        let results = results.into_iter();
        let results = results
            .map(|(call_id, content, _)| ToolResult { call_id, content })
            .collect();
        let begin = |options| self.session.tool_results(results, options);
        self.turn(client, options, connection, begin).await
    }

    /// The messages so far.
    #[zbus(out_args("messages"))]
    async fn history(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<HashMap<String, OwnedVariant>>, Error> {
        self.own(&header)?;
        let analysis = decode::options(&options)?.show_reasoning.unwrap_or(false);
        let messages = self.session.history(analysis).into_iter();
        Ok(messages.map(describe).collect())
    }

    /// Another session that begins as this one does.
    #[zbus(out_args("session"))]
    async fn fork(
        &self,
        options: Dictionary,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedObjectPath, Error> {
        let client = self.own(&header)?;
        let options = decode::options(&options)?;
        self.check_model(&options).await?;
        let token = options.handle_token.clone();
        let fork = self.session.fork(options)?;
        open(&self.shared, client, token.as_deref(), fork, connection).await
    }

    /// Ends it; a running turn is cancelled.
    async fn close(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        self.own(&header)?;
        self.session.close();
        Ok(())
    }

    /// The session is gone: `reason` is `closed` or `expired`.
    #[zbus(signal)]
    async fn closed(
        emitter: &SignalEmitter<'_>,
        details: HashMap<String, OwnedVariant>,
    ) -> zbus::Result<()>;
}

/// A message as it comes in.
fn describe(message: MessageParts) -> HashMap<String, OwnedVariant> {
    let entries = [
        ("role", Some(message.role)),
        ("content", Some(message.content)),
        ("channel", message.channel),
        ("name", message.name),
        ("recipient", message.recipient),
        ("call-id", message.call_id),
    ];
    let owned = |(key, value): (&str, Option<String>)| {
        let value = Variant::from(value?).try_into_owned().ok()?;
        Some((key.to_owned(), value))
    };
    entries.into_iter().filter_map(owned).collect()
}
