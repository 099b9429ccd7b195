//! D-Bus proxies and the reader of the event stream, for our command line and
//! for Rust applications.
//!
//! ```no_run
//! # async fn example() -> Result<(), gptoss::client::ClientError> {
//! use gptoss::client::{Bus, Client, Message, Options, StreamEvent};
//!
//! let client = Client::connect(Bus::Session).await?;
//! let messages = [Message::new("user", "What is the capital of France?")];
//! let mut answer = client.generate(&messages, &Options::default()).await?;
//! while let Some(event) = answer.next().await? {
//!     if let StreamEvent::Delta { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where there is no bus, [`Client::connect_socket`] finds the same on a socket.

mod event;
mod partial;
mod proxy;
mod session;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use zbus::{Connection, DBusError, OwnedObjectPath, OwnedVariant, Variant};

pub use event::{LogprobEntry, StreamEvent, UsageNumbers};
pub use partial::partial_json;
pub use proxy::{AdminProxy, ManagerProxy, RequestProxy, SessionProxy};
pub use session::Session;

/// Which bus the daemon is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// The machine's daemon.
    System,
    /// The user's own.
    Session,
}

/// Why a call, or a stream, failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers: no bus, no daemon, or it went away.
    #[error("gptossd does not answer: {0}")]
    Unreachable(String),
    /// The daemon says no.
    #[error("{message}")]
    Refused {
        /// The D-Bus error name.
        name: String,
        /// The daemon's words.
        message: String,
    },
    /// The stream ended in the middle: the daemon died.
    #[error("gptossd died in the middle of the answer; see its log (journalctl -u gptossd)")]
    Died,
    /// The stream holds something that is no event.
    #[error("gptossd sent something that is no event: {0}")]
    Malformed(String),
    /// The bus failed otherwise.
    #[error("{0}")]
    Bus(zbus::Error),
}

impl From<zbus::Error> for ClientError {
    fn from(error: zbus::Error) -> Self {
        match &error {
            zbus::Error::MethodError(name, message, _) => {
                answered(name.as_str(), message.as_deref())
            }
            zbus::Error::FDO(standard) => match standard.as_ref() {
                zbus::fdo::Error::ZBus(_) => ClientError::Bus(error),
                named => answered(named.name().as_str(), named.description()),
            },
            zbus::Error::InputOutput(io) => ClientError::Unreachable(io.to_string()),
            zbus::Error::Address(_) | zbus::Error::Handshake(_) | zbus::Error::Connection(..) => {
                ClientError::Unreachable(error.to_string())
            }
            _ => ClientError::Bus(error),
        }
    }
}

/// What an error reply means: nobody there, or the daemon's own word.
fn answered(name: &str, message: Option<&str>) -> ClientError {
    let message = message.unwrap_or(name).to_owned();
    let standard = name.strip_prefix("org.freedesktop.DBus.Error.");
    let absent = standard.is_some_and(|name| {
        let names = [
            "ServiceUnknown",
            "NameHasNoOwner",
            "NoReply",
            "Disconnected",
            // A unit that was started, and did not come.
            "TimedOut",
            "Timeout",
        ];
        names.contains(&name) || name.starts_with("Spawn.")
    });
    // A unit that is masked, or not there.
    let absent = absent || name.starts_with("org.freedesktop.systemd1.");
    match absent {
        true => ClientError::Unreachable(message),
        false => ClientError::Refused {
            name: name.to_owned(),
            message,
        },
    }
}

impl From<zbus::fdo::Error> for ClientError {
    fn from(error: zbus::fdo::Error) -> Self {
        zbus::Error::from(error).into()
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<String>,
    /// The speaker's or the tool's name.
    pub name: Option<String>,
    /// Whom it is for.
    pub recipient: Option<String>,
    /// The call that a tool's result answers.
    pub call_id: Option<String>,
}

impl Message {
    /// A message with role and text only.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            ..Self::default()
        }
    }

    fn dictionary(&self) -> HashMap<&'static str, Variant<'_>> {
        let mut entries = HashMap::from([
            ("role", Variant::from(self.role.as_str())),
            ("content", Variant::from(self.content.as_str())),
        ]);
        for (key, value) in [
            ("channel", &self.channel),
            ("name", &self.name),
            ("recipient", &self.recipient),
            ("call-id", &self.call_id),
        ] {
            if let Some(value) = value {
                entries.insert(key, Variant::from(value.as_str()));
            }
        }
        entries
    }
}

/// Options of a request, by their names on the bus.
#[derive(Debug, Default)]
pub struct Options(HashMap<String, OwnedVariant>);

impl Options {
    /// Adds one. The value's type must be the one the API says.
    pub fn set<'a>(mut self, key: &str, value: impl Into<Variant<'a>>) -> Self {
        // Only file descriptors can fail to become owned.
        if let Ok(value) = value.into().try_into_owned() {
            self.0.insert(key.to_owned(), value);
        }
        self
    }

    /// Adds one where there is a value.
    pub fn set_some<'a>(self, key: &str, value: Option<impl Into<Variant<'a>>>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    fn dictionary(&self) -> HashMap<&str, &Variant<'_>> {
        let entries = self.0.iter();
        entries
            .map(|(key, value)| (key.as_str(), &**value))
            .collect()
    }
}

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
    manager: ManagerProxy<'static>,
}

impl Client {
    /// Connects to a bus. The daemon is asked with the first call.
    ///
    /// # Errors
    /// There is no such bus.
    pub async fn connect(bus: Bus) -> Result<Self, ClientError> {
        let builder = match bus {
            Bus::System => zbus::connection::Builder::system(),
            Bus::Session => zbus::connection::Builder::session(),
        };
        Self::over(builder.build().await?).await
    }

    /// Connects to a daemon's own socket, without a bus: one that was started with
    /// `gptossd --socket PATH`.
    ///
    /// # Errors
    /// No daemon listens there, or it does not let this user in.
    pub async fn connect_socket(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let connect = async {
            let stream = UnixStream::connect(path).await?.into_std()?;
            let builder = zbus::connection::Builder::unix_stream(stream);
            builder.p2p().build().await
        };
        Self::over(connect.await?).await
    }

    /// Uses a connection that exists.
    ///
    /// # Errors
    /// The bus'.
    pub async fn over(connection: Connection) -> Result<Self, ClientError> {
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self {
            connection,
            manager,
        })
    }

    /// The manager's methods and properties.
    pub fn manager(&self) -> &ManagerProxy<'static> {
        &self.manager
    }

    /// The daemon's process, once it runs; `None` where the system does not tell, as
    /// macOS does not of a socket's other end.
    ///
    /// # Errors
    /// It can't be started, or the bus'.
    pub async fn daemon_process(&self) -> Result<Option<u32>, ClientError> {
        // Has the bus start it.
        self.manager.version().await?;
        if !self.connection.is_bus() {
            let peer = self
                .connection
                .peer_creds()
                .await
                .map_err(zbus::Error::from)?;
            return Ok(peer.process_id());
        }
        let bus = zbus::fdo::DBusProxy::new(&self.connection).await?;
        let name = self.manager.inner().destination().to_owned();
        Ok(Some(bus.get_connection_unix_process_id(name).await?))
    }

    /// The administrator's methods.
    ///
    /// # Errors
    /// The bus'.
    pub async fn admin(&self) -> Result<AdminProxy<'static>, ClientError> {
        Ok(AdminProxy::new(&self.connection).await?)
    }

    /// Asks for one answer.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn generate(
        &self,
        messages: &[Message],
        options: &Options,
    ) -> Result<Answer, ClientError> {
        let messages: Vec<_> = messages.iter().map(Message::dictionary).collect();
        let options = options.dictionary();
        let answer = self.manager.generate(&messages, &options).await?;
        Answer::new(&self.connection, answer).await
    }

    /// Begins a conversation; the options hold for all its turns.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn create_session(&self, options: &Options) -> Result<Session, ClientError> {
        let path = self.manager.create_session(&options.dictionary()).await?;
        Session::new(&self.connection, path).await
    }

    /// Has the model loaded, without waiting for it.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn prewarm(&self, options: &Options) -> Result<(), ClientError> {
        Ok(self.manager.prewarm(&options.dictionary()).await?)
    }

    /// Tokens of the prompt that these messages make.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn count_tokens(
        &self,
        messages: &[Message],
        options: &Options,
    ) -> Result<u32, ClientError> {
        let messages: Vec<_> = messages.iter().map(Message::dictionary).collect();
        let options = options.dictionary();
        Ok(self.manager.count_tokens(&messages, &options).await?)
    }
}

/// An answer on its way. Dropping it cancels the request.
#[derive(Debug)]
pub struct Answer {
    request: RequestProxy<'static>,
    lines: BufReader<UnixStream>,
    line: Vec<u8>,
    ended: bool,
}

impl Answer {
    async fn new(
        connection: &Connection,
        (path, stream): (OwnedObjectPath, zbus::OwnedFd),
    ) -> Result<Self, ClientError> {
        let request = RequestProxy::builder(connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(stream));
        let socket = socket
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(socket));
        let socket = socket.map_err(|e| ClientError::Bus(e.into()))?;
        Ok(Self {
            request,
            lines: BufReader::new(socket),
            line: Vec::new(),
            ended: false,
        })
    }

    /// The request's object.
    pub fn request(&self) -> &RequestProxy<'static> {
        &self.request
    }

    /// The next event; `None` after `end` or `error`. Cancel-safe.
    ///
    /// # Errors
    /// [`ClientError::Died`] where the stream ends before its last event.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>, ClientError> {
        Ok(match self.next_line().await? {
            Some(line) => Some(StreamEvent::parse(&line)?),
            None => None,
        })
    }

    /// The same as the daemon's own line, without the line feed.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        if self.ended {
            return Ok(None);
        }
        // What was read stays in `line` if this is dropped.
        let read = self.lines.read_until(b'\n', &mut self.line).await;
        let read = read.map_err(|e| ClientError::Malformed(e.to_string()))?;
        // A line that is not whole is no event.
        if read == 0 || self.line.pop() != Some(b'\n') {
            self.ended = true;
            return Err(ClientError::Died);
        }
        let line = String::from_utf8(std::mem::take(&mut self.line));
        let line = line.map_err(|e| ClientError::Malformed(e.to_string()))?;
        self.ended = StreamEvent::parse(&line)?.is_last();
        Ok(Some(line))
    }

    /// Asks the daemon to stop; the stream then ends with `cancelled`.
    ///
    /// # Errors
    /// The request has ended, or the bus'.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        Ok(self.request.cancel().await?)
    }
}
