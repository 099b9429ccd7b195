//! What the parser reports.

use serde::Serialize;

use crate::harmony::message::{Channel, Message};

/// One thing that a model said, or that had to be put right.
///
/// No text in here was ever made from a control token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// More text of a message.
    Delta {
        /// The message's channel.
        channel: Channel,
        /// Whole UTF-8, never empty.
        text: String,
    },
    /// More arguments of a tool call, as the model writes them.
    ToolCallDelta {
        /// The call's id, as in the [`Event::ToolCall`] to come.
        id: String,
        /// The tool: a function's bare name, `python`, `browser.search`, ….
        name: String,
        /// The fragment, never empty.
        arguments: String,
    },
    /// A complete tool call.
    ToolCall {
        /// Made by the parser: `call_1`, `call_2`, ….
        id: String,
        /// The tool: a function's bare name, `python`, `browser.search`, ….
        name: String,
        /// A JSON object; for `python` the code. Differs from the fragments
        /// where [`Recovery::RepairedArguments`] was reported.
        arguments: String,
    },
    /// A message is complete: as it belongs into the history.
    MessageEnd(Message),
    /// The output was not as harmony wants it; what was done about it.
    Recovered {
        /// What was wrong.
        kind: Recovery,
        /// The text concerned where no other event has it.
        raw: String,
    },
    /// The model ended its turn.
    Stop(StopKind),
}

/// How the model ended its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StopKind {
    /// With an answer: `<|return|>`.
    Return,
    /// With a tool call whose result it waits for: `<|call|>`.
    Call,
}

/// What was wrong with the output, and what was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Recovery {
    /// Text without any header: taken as the answer.
    MissingHeader,
    /// A header without `<|start|>`: read all the same.
    MissingStart,
    /// A header without `<|message|>`: what is no header is the message's text.
    MissingMessage,
    /// A header without channel: `final`, or a call's usual one.
    MissingChannel,
    /// A message without `<|end|>`: ended where the next one begins.
    MissingEnd,
    /// A channel that harmony does not have (`raw`): taken as commentary.
    UnknownChannel,
    /// A header begun again; what it held before (`raw`) is dropped.
    RepeatedHeader,
    /// Words in a header that mean nothing (`raw`): dropped.
    MalformedHeader,
    /// The output ended inside a header that says nothing yet (`raw`).
    TruncatedHeader,
    /// A recipient with something glued on (`raw`): cut to a name.
    RepairedRecipient,
    /// A recipient without a name (`raw`): dropped.
    UnusableRecipient,
    /// A call on a channel where that tool is not called: taken as a call.
    MovedCall,
    /// The model went on in another role (`raw`: what it said there): dropped.
    ForeignRole {
        /// That role, or the tool whose answer it made up.
        role: String,
    },
    /// A control token where none belongs: dropped. Reported once a message.
    StrayToken,
    /// Blank text between messages (`raw`): dropped.
    StrayText,
    /// `<|call|>` after a message to nobody: taken as `<|end|>`.
    CallWithoutRecipient,
    /// A call ended as if it were an answer: taken as a call.
    WrongTerminator,
    /// A call's arguments (`raw`) were put right.
    RepairedArguments {
        /// The call.
        id: String,
        /// The tool.
        name: String,
    },
    /// A call's arguments (`raw`) are no JSON object and cannot be made one:
    /// there is no [`Event::ToolCall`], only the [`Event::MessageEnd`].
    InvalidArguments {
        /// The call.
        id: String,
        /// The tool.
        name: String,
    },
    /// The output ended inside a call's arguments (`raw`): no call was made.
    UnfinishedCall {
        /// The call.
        id: String,
        /// The tool.
        name: String,
    },
    /// `<|endoftext|>`: taken as `<|return|>`.
    EndOfText,
}

/// Where in its output the model is: what may be constrained, counted or cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// Right behind the prompt.
    Start,
    /// In a header.
    Header,
    /// In a message's text.
    Text(Channel),
    /// In a tool call's arguments.
    Arguments {
        /// The tool, as in [`Event::ToolCall`].
        name: String,
    },
    /// Between two messages, or in one of another role.
    Between,
}

/// The messages that `events` completed, to be appended to the history.
/// Empty ones other than calls are left out.
pub fn history(events: impl IntoIterator<Item = Event>) -> Vec<Message> {
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::MessageEnd(message) => Some(message),
            _ => None,
        })
        .filter(|message| message.recipient.is_some() || !message.content.is_empty())
        .collect()
}
