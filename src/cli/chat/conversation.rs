//! What has been said, here and in the daemon's session.
//!
//! The session is the daemon's, and goes with it. What was said stays here too,
//! so a new session can be told all of it: after the daemon died, after the
//! session expired, after something was taken back.

use super::super::generation::GenerationArgs;
use crate::client::{Answer, Client, ClientError, Message, Options, Session};

/// A conversation, and those it was forked from.
pub(super) struct Conversation {
    pub generation: GenerationArgs,
    /// As asked; `None` is the daemon's choice.
    model: Option<String>,
    /// What else every request says.
    show_reasoning: bool,
    on_overflow: Option<String>,
    /// `None` once the bus or the daemon failed.
    client: Option<Client>,
    branch: Branch,
    earlier: Vec<Branch>,
    /// Whether the session was lost, and not given up.
    lost: bool,
}

/// One line of the conversation.
#[derive(Default)]
struct Branch {
    session: Option<Session>,
    /// The instructions, where there are, and everything said.
    messages: Vec<Message>,
    /// How many of them the session knows.
    told: usize,
}

/// An answer that begins.
pub(super) struct Begun {
    pub answer: Answer,
    /// How many earlier messages a new session had to be told.
    pub retold: usize,
}

impl Conversation {
    pub(super) fn new(
        generation: GenerationArgs,
        model: Option<String>,
        show_reasoning: bool,
        on_overflow: Option<String>,
    ) -> Self {
        let instructions = generation.instructions.as_deref();
        let messages = instructions.map(|text| Message::new("system", text));
        Self {
            model,
            show_reasoning,
            on_overflow,
            client: None,
            branch: Branch {
                messages: messages.into_iter().collect(),
                ..Branch::default()
            },
            earlier: Vec::new(),
            lost: false,
            generation,
        }
    }

    fn options(&self) -> Options {
        self.generation
            .options()
            .set("show-reasoning", self.show_reasoning)
            .set_some("on-overflow", self.on_overflow.as_deref())
    }

    /// The connection, made anew where it failed.
    pub(super) async fn client(&mut self) -> Result<Client, ClientError> {
        if self.client.is_none() {
            self.client = Some(self.generation.place.connect().await?);
        }
        // Just made, where it was not there.
        self.client
            .clone()
            .ok_or_else(|| ClientError::Unreachable("no connection".into()))
    }

    /// The session, made anew where it is gone.
    async fn session(&mut self) -> Result<Session, ClientError> {
        if let Some(session) = &self.branch.session {
            return Ok(session.clone());
        }
        let client = self.client().await?;
        let options = self.options().set_some("model", self.model.as_deref());
        let session = client.create_session(&options).await?;
        self.branch.session = Some(session.clone());
        self.branch.told = 0;
        Ok(session)
    }

    /// The model's name and the size of its context window.
    pub(super) async fn begin(&mut self) -> Result<(String, u32), ClientError> {
        let session = self.session().await?;
        let proxy = session.proxy();
        Ok((proxy.model().await?, proxy.context_window().await?))
    }

    /// Has the daemon load the model while the first message is being typed.
    pub(super) async fn prewarm(&mut self) {
        let Ok(client) = self.client().await else {
            return;
        };
        let options = Options::default().set_some("model", self.model.as_deref());
        // Without, it is loaded with the message.
        let _ = client.prewarm(&options).await;
    }

    /// Says something. A session that is gone is made anew, and told what was
    /// said before.
    pub(super) async fn prompt(&mut self, content: &str) -> Result<Begun, ClientError> {
        let used_before = self.client.is_some();
        match self.try_prompt(content).await {
            Err(error) if used_before && is_gone(&error) => {
                self.lose();
                self.try_prompt(content).await
            }
            result => result,
        }
    }

    async fn try_prompt(&mut self, content: &str) -> Result<Begun, ClientError> {
        let asked = async {
            let session = self.session().await?;
            let known = self.branch.messages.iter().skip(self.branch.told);
            let mut messages: Vec<Message> = known.cloned().collect();
            let spoken = messages.iter().filter(|m| m.role != "system").count();
            messages.push(Message::new("user", content));
            let answer = session.prompt(&messages, &self.options()).await?;
            let retold = if std::mem::take(&mut self.lost) {
                spoken
            } else {
                0
            };
            Ok(Begun { answer, retold })
        };
        let result = asked.await;
        if let Err(ClientError::Unreachable(_) | ClientError::Bus(_)) = &result {
            self.lose();
            // Perhaps the bus is gone as well.
            self.client = None;
        }
        result
    }

    /// A turn has ended well: the session knows it.
    pub(super) fn commit(&mut self, content: &str, said: Vec<Message>) {
        let messages = &mut self.branch.messages;
        messages.push(Message::new("user", content));
        messages.extend(said);
        self.branch.told = messages.len();
    }

    /// The session is gone without our doing.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.branch.session = None;
        self.branch.told = 0;
    }

    /// Gives the session up: the next one is told everything.
    pub(super) fn renew(&mut self) {
        self.branch.told = 0;
        close(self.branch.session.take());
    }

    /// What has been said, without the instructions.
    pub(super) fn said(&self) -> &[Message] {
        let from = usize::from(self.instructions().is_some());
        self.branch.messages.get(from..).unwrap_or_default()
    }

    pub(super) fn instructions(&self) -> Option<&str> {
        let first = self.branch.messages.first();
        first
            .filter(|message| message.role == "system")
            .map(|message| message.content.as_str())
    }

    /// Everything, as messages of the API.
    pub(super) fn messages(&self) -> &[Message] {
        &self.branch.messages
    }

    /// Other instructions, which hold for what was said before too; empty ones
    /// are none.
    pub(super) fn instruct(&mut self, text: &str) {
        let said = self.said().to_vec();
        let instructions = Some(Message::new("system", text)).filter(|m| !m.content.is_empty());
        self.branch.messages = instructions.into_iter().chain(said).collect();
        self.renew();
    }

    /// Another conversation, with the same instructions.
    pub(super) fn restart(&mut self) {
        let keep = usize::from(self.instructions().is_some());
        self.branch.messages.truncate(keep);
        self.renew();
        for branch in self.earlier.drain(..) {
            close(branch.session);
        }
    }

    /// Takes the last thing the user said back, and what came after it: at least one
    /// message.
    pub(super) fn undo(&mut self) -> Option<Vec<Message>> {
        let messages = &mut self.branch.messages;
        let last = messages
            .iter()
            .rposition(|message| message.role == "user")?;
        let taken = messages.split_off(last);
        self.renew();
        Some(taken)
    }

    /// What was taken back is said again, as it was.
    pub(super) fn redo(&mut self, taken: Vec<Message>) {
        self.branch.messages.extend(taken);
        self.renew();
    }

    /// Goes on with another model, if there is one of this name.
    pub(super) async fn change_model(&mut self, name: &str) -> Result<(String, u32), ClientError> {
        let client = self.client().await?;
        let options = self.options().set("model", name);
        let session = client.create_session(&options).await?;
        let proxy = session.proxy();
        let begun = match (proxy.model().await, proxy.context_window().await) {
            (Ok(model), Ok(window)) => (model, window),
            (Err(error), _) | (_, Err(error)) => {
                close(Some(session));
                return Err(error.into());
            }
        };
        // Nothing is awaited from here on: whoever gives up waiting leaves all as it was.
        close(self.branch.session.replace(session));
        self.branch.told = 0;
        self.model = Some(name.to_owned());
        Ok(begun)
    }

    /// Goes on in a copy; returns how many there are now.
    pub(super) async fn fork(&mut self) -> Result<usize, ClientError> {
        let copy = match &self.branch.session {
            Some(session) => Some(session.fork(&Options::default()).await?),
            None => None,
        };
        let copy = Branch {
            session: copy,
            messages: self.branch.messages.clone(),
            told: self.branch.told,
        };
        self.earlier.push(std::mem::replace(&mut self.branch, copy));
        Ok(self.earlier.len())
    }

    /// Returns to where the last copy was made.
    pub(super) fn back(&mut self) -> bool {
        let Some(branch) = self.earlier.pop() else {
            return false;
        };
        close(std::mem::replace(&mut self.branch, branch).session);
        true
    }

    /// Tokens in use, and the size of the window.
    pub(super) async fn usage(&mut self) -> Result<(u32, u32), ClientError> {
        let mut session = self.session().await?;
        let window = match session.proxy().context_window().await {
            Ok(window) => window,
            Err(_) => {
                self.lose();
                session = self.session().await?;
                session.proxy().context_window().await?
            }
        };
        let used = match self.branch.told == self.branch.messages.len() {
            true => session.proxy().context_usage().await?,
            // Said before, and not yet to this session.
            false => {
                let options = self.options().set_some("model", self.model.as_deref());
                let client = self.client().await?;
                client.count_tokens(&self.branch.messages, &options).await?
            }
        };
        Ok((used, window))
    }
}

/// Whether the session that was called is no longer there.
fn is_gone(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(_) | ClientError::Bus(_) => true,
        ClientError::Refused { name, .. } => {
            let name = name.rsplit('.').next().unwrap_or_default();
            matches!(name, "UnknownObject" | "UnknownMethod" | "Cancelled")
        }
        _ => false,
    }
}

/// Closes a session that nobody needs any more; a turn in it is cancelled.
fn close(session: Option<Session>) {
    if let Some(session) = session {
        tokio::spawn(async move {
            // It may be gone already.
            let _ = session.close().await;
        });
    }
}
