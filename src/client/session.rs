//! A conversation that the daemon keeps.

use std::collections::HashMap;

use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::{Answer, ClientError, Message, Options, SessionProxy};

/// A conversation. It stays until it is closed, unused for long, or this
/// connection ends.
#[derive(Debug, Clone)]
pub struct Session {
    connection: Connection,
    proxy: SessionProxy<'static>,
}

impl Session {
    pub(super) async fn new(
        connection: &Connection,
        path: OwnedObjectPath,
    ) -> Result<Self, ClientError> {
        let proxy = SessionProxy::builder(connection)
            .path(path)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self {
            connection: connection.clone(),
            proxy,
        })
    }

    /// Its methods, properties and signal.
    pub fn proxy(&self) -> &SessionProxy<'static> {
        &self.proxy
    }

    /// Says something and has it answered.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn prompt(
        &self,
        messages: &[Message],
        options: &Options,
    ) -> Result<Answer, ClientError> {
        let messages: Vec<_> = messages.iter().map(Message::dictionary).collect();
        let answer = self.proxy.prompt(&messages, &options.dictionary()).await?;
        Answer::new(&self.connection, answer).await
    }

    /// Goes on with what the tool calls gave: pairs of a call's id and text.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn submit_tool_results(
        &self,
        results: &[(&str, &str)],
        options: &Options,
    ) -> Result<Answer, ClientError> {
        let result = |&(id, text)| (id, text, HashMap::<&str, Variant<'_>>::new());
        let results: Vec<_> = results.iter().map(result).collect();
        let options = options.dictionary();
        let answer = self.proxy.submit_tool_results(&results, &options).await?;
        Answer::new(&self.connection, answer).await
    }

    /// The messages so far; with the model's reasoning where `show-reasoning`
    /// is set.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn history(&self, options: &Options) -> Result<Vec<Message>, ClientError> {
        let messages = self.proxy.history(&options.dictionary()).await?;
        Ok(messages.into_iter().map(message).collect())
    }

    /// Another session that begins as this one does.
    ///
    /// # Errors
    /// The daemon's, by name.
    pub async fn fork(&self, options: &Options) -> Result<Session, ClientError> {
        let path = self.proxy.fork(&options.dictionary()).await?;
        Session::new(&self.connection, path).await
    }

    /// Ends it.
    ///
    /// # Errors
    /// It is gone already, or the bus'.
    pub async fn close(&self) -> Result<(), ClientError> {
        Ok(self.proxy.close().await?)
    }
}

/// What is no text, from a later version, is left out.
fn message(mut entries: HashMap<String, OwnedVariant>) -> Message {
    let mut text = |key: &str| {
        let value = entries.remove(key)?;
        match &*value {
            Variant::Str(text) => Some(text.as_str().to_owned()),
            _ => None,
        }
    };
    Message {
        role: text("role").unwrap_or_default(),
        content: text("content").unwrap_or_default(),
        channel: text("channel"),
        name: text("name"),
        recipient: text("recipient"),
        call_id: text("call-id"),
    }
}
