//! `org.freedesktop.LogControl1`: `systemctl service-log-level gptossd debug`.

use std::sync::Arc;

use tracing::Level;
use zbus::message::Header;
use zbus::{Connection, fdo, interface};

use super::shared::Shared;

/// The only object's path, on the daemon's connection.
pub const PATH: &str = "/org/freedesktop/LogControl1";

/// A level of syslog's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// `emerg`
    Emerg,
    /// `alert`
    Alert,
    /// `crit`
    Crit,
    /// `err`
    Err,
    /// `warning`
    Warning,
    /// `notice`
    Notice,
    /// `info`
    Info,
    /// `debug`
    Debug,
}

const LEVELS: [(&str, LogLevel); 8] = [
    ("emerg", LogLevel::Emerg),
    ("alert", LogLevel::Alert),
    ("crit", LogLevel::Crit),
    ("err", LogLevel::Err),
    ("warning", LogLevel::Warning),
    ("notice", LogLevel::Notice),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];

impl LogLevel {
    /// The closest that our log knows.
    pub fn tracing(self) -> Level {
        match self {
            LogLevel::Emerg | LogLevel::Alert | LogLevel::Crit | LogLevel::Err => Level::ERROR,
            LogLevel::Warning => Level::WARN,
            LogLevel::Notice | LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
        }
    }

    /// What a level of our log is in syslog.
    pub fn of(level: Level) -> LogLevel {
        match level {
            Level::ERROR => LogLevel::Err,
            Level::WARN => LogLevel::Warning,
            Level::INFO => LogLevel::Info,
            Level::DEBUG | Level::TRACE => LogLevel::Debug,
        }
    }
}

/// Where a log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// stderr
    Console,
    /// The journal, with fields.
    Journal,
    /// Nowhere.
    Null,
}

const TARGETS: [(&str, LogTarget); 3] = [
    ("console", LogTarget::Console),
    ("journal", LogTarget::Journal),
    ("null", LogTarget::Null),
];

/// The value of a word, or an error that has all of them.
fn of_word<T: Copy, const N: usize>(words: [(&str, T); N], word: &str) -> fdo::Result<T> {
    let found = words.iter().find(|(known, _)| *known == word);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known = words.map(|(known, _)| known).join(", ");
        fdo::Error::InvalidArgs(format!("{word:?} is none of {known}"))
    })
}

fn word<T: PartialEq, const N: usize>(words: [(&'static str, T); N], value: &T) -> String {
    let found = words.into_iter().find(|(_, known)| known == value);
    found.map_or("", |(word, _)| word).to_owned()
}

/// A log that can be controlled.
pub trait LogControl: Send + Sync + 'static {
    /// How much is logged.
    fn level(&self) -> LogLevel;
    /// Changes that.
    ///
    /// # Errors
    /// Why it can't.
    fn set_level(&self, level: LogLevel) -> Result<(), String>;
    /// Where the log goes.
    fn target(&self) -> LogTarget;
    /// Changes that.
    ///
    /// # Errors
    /// Why it can't.
    fn set_target(&self, target: LogTarget) -> Result<(), String>;
    /// What the log calls this program.
    fn identifier(&self) -> &'static str;
}

/// The object.
pub struct LogControlObject(Arc<Shared>);

impl LogControlObject {
    /// An object to be served at [`PATH`].
    pub fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn log(&self) -> &dyn LogControl {
        &*self.0.parts.log
    }

    /// Only root and the daemon's own user: there is no action of polkit's for
    /// the log.
    async fn authorise(
        &self,
        header: Option<Header<'_>>,
        connection: &Connection,
    ) -> fdo::Result<()> {
        let denied = |why: String| fdo::Error::AccessDenied(why);
        let header = header.ok_or_else(|| denied("who calls?".into()))?;
        let client = self.0.callers.identify(&header, connection).await;
        let client = client.map_err(|error| denied(error.to_string()))?;
        match self.0.access.owns(client.uid) {
            true => Ok(()),
            false => Err(denied(
                "root and the daemon's own user alone may change the log".into(),
            )),
        }
    }
}

#[interface(name = "org.freedesktop.LogControl1", introspection_docs = false)]
impl LogControlObject {
    #[zbus(property(emits_changed_signal = "false"))]
    async fn log_level(&self) -> String {
        word(LEVELS, &self.log().level())
    }

    #[zbus(property)]
    async fn set_log_level(
        &self,
        level: String,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        self.authorise(header, connection).await?;
        let set = self.log().set_level(of_word(LEVELS, &level)?);
        set.map_err(fdo::Error::Failed)?;
        tracing::info!(level, "another level of the log");
        Ok(())
    }

    #[zbus(property(emits_changed_signal = "false"))]
    async fn log_target(&self) -> String {
        word(TARGETS, &self.log().target())
    }

    #[zbus(property)]
    async fn set_log_target(
        &self,
        target: String,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] connection: &Connection,
    ) -> fdo::Result<()> {
        self.authorise(header, connection).await?;
        let set = self.log().set_target(of_word(TARGETS, &target)?);
        set.map_err(fdo::Error::Failed)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn syslog_identifier(&self) -> String {
        self.log().identifier().to_owned()
    }
}
