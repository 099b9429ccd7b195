//! A conversation that the daemon keeps: history, turns, tool results, forks.
//!
//! ```text
//!            prompt            commit                     tool_results
//! free ────────────────► turn ────────► free, or waiting ─────────────► turn …
//!   ▲                     │              for the results
//!   └── dropped: the history is as before ┘              of its tool calls
//! ```
//!
//! The history lives in memory only.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::failure::Failure;
use super::generation::{Interrupt, Interrupter, count_history};
use super::host::ModelHost;
use super::prompt::{MessageParts, Options, Prompt, parse_messages, settings};
use crate::harmony::{Channel, Conversation, Message, Role, Settings};

/// What one call of a tool gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// The call's id, as in its event.
    pub call_id: String,
    /// The result's text.
    pub content: String,
}

/// A conversation with one model.
#[derive(Debug)]
pub struct Session {
    model: String,
    window: usize,
    /// What holds for every turn that does not say otherwise.
    options: Options,
    /// Most bytes of text in it.
    limit: usize,
    /// The date it began: a later one would change the prompt's beginning,
    /// and everything behind it would have to be computed again.
    date: Option<String>,
    state: Mutex<State>,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    messages: Vec<Message>,
    /// Delivered calls that wait for their results.
    pending: Vec<String>,
    /// The number of the next call.
    next_call: usize,
    /// Whether a turn is running.
    busy: bool,
    /// Ends it, once that is known.
    interrupter: Option<Interrupter>,
    /// Of the last turn, or of the last call.
    used: Instant,
}

impl State {
    fn new(messages: Vec<Message>, pending: Vec<String>, next_call: usize) -> Mutex<Self> {
        Mutex::new(Self {
            messages,
            pending,
            next_call,
            busy: false,
            interrupter: None,
            used: Instant::now(),
        })
    }
}

impl Session {
    /// A conversation without messages, with the model of this name and context
    /// window. `options` hold for all its turns, `limit` is the most bytes of
    /// text it may have.
    ///
    /// # Errors
    /// Options that make no sense.
    pub fn new(
        model: String,
        window: usize,
        options: Options,
        limit: usize,
    ) -> Result<Arc<Self>, Failure> {
        let prompt = Prompt::of_messages(Vec::new(), &options, limit)?;
        Ok(Arc::new(Self {
            model,
            window,
            options,
            limit,
            date: prompt.conversation.settings.current_date,
            state: State::new(Vec::new(), Vec::new(), 1),
            closed: watch::Sender::new(false),
        }))
    }

    /// Another conversation that begins as this one does. What is being
    /// answered now is no part of it.
    ///
    /// # Errors
    /// Options that make no sense.
    pub fn fork(&self, options: Options) -> Result<Arc<Self>, Failure> {
        let options = options.or(&self.options);
        Prompt::of_messages(Vec::new(), &options, self.limit)?;
        let state = self.state();
        Ok(Arc::new(Self {
            model: self.model.clone(),
            window: self.window,
            options,
            limit: self.limit,
            date: self.date.clone(),
            state: State::new(
                state.messages.clone(),
                state.pending.clone(),
                state.next_call,
            ),
            closed: watch::Sender::new(false),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Positions of the model's context window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// The messages so far; with those of the analysis channel if `analysis`.
    pub fn history(&self, analysis: bool) -> Vec<MessageParts> {
        // A call of a tool that the model was trained with is on this channel, too; its
        // result would make no sense without it.
        let thought = |m: &Message| m.channel == Some(Channel::Analysis) && m.recipient.is_none();
        let shown = |m: &&Message| analysis || !thought(m);
        let state = self.state();
        let messages = state.messages.iter().filter(shown).cloned();
        messages.map(MessageParts::from).collect()
    }

    /// Begins a turn with new messages: its prompt, and the turn to commit.
    ///
    /// # Errors
    /// A turn is running, calls wait for results, or the messages or options
    /// make no sense.
    pub fn prompt(
        self: &Arc<Self>,
        messages: Vec<MessageParts>,
        options: Options,
    ) -> Result<(Prompt, Turn), Failure> {
        self.begin(parse_messages(messages)?, options, |state| {
            if state.pending.is_empty() {
                return Ok(());
            }
            Err(Failure::ToolResultMismatch(format!(
                "the model waits for the results of {}: submit them first",
                state.pending.join(", ")
            )))
        })
    }

    /// Goes on with the results of the last turn's tool calls.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt); each waiting call needs one result, and each
    /// result a call.
    pub fn tool_results(
        self: &Arc<Self>,
        results: Vec<ToolResult>,
        options: Options,
    ) -> Result<(Prompt, Turn), Failure> {
        let ids: Vec<String> = results.iter().map(|r| r.call_id.clone()).collect();
        let results = results.into_iter();
        let messages = results
            .map(|result| Message::tool_result(result.call_id, None, result.content))
            .collect();
        self.begin(messages, options, |state| state.check_results(&ids))
    }

    fn begin(
        self: &Arc<Self>,
        new: Vec<Message>,
        options: Options,
        check: impl FnOnce(&State) -> Result<(), Failure>,
    ) -> Result<(Prompt, Turn), Failure> {
        let options = options.or(&self.options);
        let (messages, turn) = self.take_turn(new, check)?;
        // Not under the lock: a schema takes milliseconds. An error gives the turn
        // back.
        let mut prompt = Prompt::of_messages(messages, &options, self.limit)?;
        self.date(&mut prompt.conversation.settings);
        Ok((prompt, turn))
    }

    /// All messages with the new ones, and the turn, if it can begin.
    fn take_turn(
        self: &Arc<Self>,
        new: Vec<Message>,
        check: impl FnOnce(&State) -> Result<(), Failure>,
    ) -> Result<(Vec<Message>, Turn), Failure> {
        let mut state = self.state();
        if *self.closed.borrow() {
            return Err(Failure::Cancelled("the session is closed".into()));
        }
        if state.busy {
            return Err(Failure::SessionBusy);
        }
        check(&state)?;
        let messages: Vec<Message> = state.messages.iter().chain(&new).cloned().collect();
        // Where the application gave calls of an earlier session, theirs are taken.
        let taken = new.iter().filter_map(call_number).max();
        let first_call = taken.map_or(state.next_call, |n| state.next_call.max(n + 1));
        state.busy = true;
        let turn = Turn {
            session: Arc::clone(self),
            forgotten: 0..0,
            new,
            first_call,
        };
        Ok((messages, turn))
    }

    /// The conversation's date instead of today's.
    fn date(&self, settings: &mut Settings) {
        settings.current_date.clone_from(&self.date);
    }

    /// Tells how the turn that has begun is ended.
    pub fn running(&self, interrupter: Interrupter) {
        let mut state = self.state();
        if *self.closed.borrow() {
            interrupter.interrupt(Interrupt::Cancel);
        }
        // It may be over already.
        state.interrupter = state.busy.then_some(interrupter);
    }

    /// Tokens of the messages so far, as the next prompt will hold them.
    ///
    /// # Errors
    /// The tokenizer cannot be read.
    pub async fn tokens(&self, host: &Arc<ModelHost>) -> Result<usize, Failure> {
        let messages = self.state().messages.clone();
        let mut settings = settings(&self.options)?;
        self.date(&mut settings);
        let conversation = Conversation { settings, messages };
        count_history(host, &self.model, conversation).await
    }

    /// Since when nobody has used it; `None` while a turn is running.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (!state.busy).then_some(state.used)
    }

    /// Counts as a use of it.
    pub fn touch(&self) {
        self.state().used = Instant::now();
    }

    /// Ends it: a running turn is cancelled, and no other begins.
    pub fn close(&self) {
        let state = self.state();
        self.closed.send_replace(true);
        if let Some(interrupter) = &state.interrupter {
            interrupter.interrupt(Interrupt::Cancel);
        }
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

impl State {
    /// Whether these results are of calls that have none yet, once each, and
    /// no waiting call is left out.
    fn check_results(&self, ids: &[String]) -> Result<(), Failure> {
        let mismatch = |message: String| Err(Failure::ToolResultMismatch(message));
        if ids.is_empty() {
            return mismatch("there are no results; give one for each tool call".into());
        }
        let open = self.unanswered();
        for (index, id) in ids.iter().enumerate() {
            if !open.contains(&id.as_str()) {
                return mismatch(format!("{id:?} is no call that waits for a result"));
            }
            if ids.iter().take(index).any(|earlier| earlier == id) {
                return mismatch(format!("{id:?} has two results"));
            }
        }
        match self.pending.iter().find(|id| !ids.contains(id)) {
            Some(missing) => mismatch(format!("the result of {missing:?} is missing")),
            None => Ok(()),
        }
    }

    /// Calls without a result, those among them that could not be delivered:
    /// a result may tell the model what was wrong with its arguments.
    fn unanswered(&self) -> Vec<&str> {
        let id = |role: Role| {
            let messages = self.messages.iter().filter(move |m| m.role == role);
            messages.filter_map(|m| m.call_id.as_deref())
        };
        let answered: Vec<&str> = id(Role::Tool).collect();
        id(Role::Assistant)
            .filter(|id| !answered.contains(id))
            .collect()
    }
}

/// The number in the id of a call that a session of ours gave out.
fn call_number(message: &Message) -> Option<usize> {
    let number = message.call_id.as_deref()?.strip_prefix("call_")?;
    number.parse::<u32>().ok().map(|n| n as usize)
}

/// A turn at work. Dropped without a commit, it never was.
#[derive(Debug)]
pub struct Turn {
    session: Arc<Session>,
    /// Which of the prompt's messages are left out.
    forgotten: Range<usize>,
    new: Vec<Message>,
    first_call: usize,
}

/// What the model said in a turn.
#[derive(Debug, Default)]
pub struct Said {
    /// Its messages, analysis included.
    pub messages: Vec<Message>,
    /// The ids of the calls that were delivered.
    pub calls: Vec<String>,
    /// The number of the next call.
    pub next_call: usize,
}

impl Turn {
    /// The number of the turn's first tool call.
    pub fn first_call(&self) -> usize {
        self.first_call
    }

    /// Leaves out these of the prompt's messages.
    pub fn forget(&mut self, messages: Range<usize>) {
        self.forgotten = messages;
    }

    /// Adds what was asked and said to the history.
    pub fn commit(mut self, said: Said) {
        let mut state = self.session.state();
        state.messages.append(&mut self.new);
        state.messages.drain(self.forgotten.clone());
        state.messages.extend(said.messages);
        state.pending = said.calls;
        state.next_call = said.next_call.max(self.first_call);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.session.state();
        state.busy = false;
        state.interrupter = None;
        state.used = Instant::now();
    }
}

#[cfg(test)]
#[path = "tests/conversation.rs"]
mod tests;
