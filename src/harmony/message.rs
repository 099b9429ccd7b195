//! A conversation as applications see it: roles, channels, messages.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::settings::Settings;

/// Who wrote a message, by falling authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The application's own instructions; rendered in the developer message,
    /// before the developer's, because harmony's system message is made from
    /// [`Settings`] alone.
    System,
    /// Instructions of the application's developer.
    Developer,
    /// The person asking.
    #[default]
    User,
    /// The model.
    Assistant,
    /// The answer of a tool.
    Tool,
}

/// What a message of the assistant is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// Chain of thought and calls of built-in tools; not for an end user's eyes.
    Analysis,
    /// Calls of function tools; without a recipient, a preamble for the user.
    Commentary,
    /// The answer.
    Final,
}

/// A role or channel that harmony does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} {given:?}: use one of {known}")]
pub struct ParseNameError {
    kind: &'static str,
    given: String,
    known: &'static str,
}

impl Role {
    /// The name used in messages: `system`, `developer`, `user`, `assistant`, `tool`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

impl Channel {
    /// The name used on the wire: `analysis`, `commentary`, `final`.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Analysis => "analysis",
            Channel::Commentary => "commentary",
            Channel::Final => "final",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [
            Role::System,
            Role::Developer,
            Role::User,
            Role::Assistant,
            Role::Tool,
        ]
        .into_iter()
        .find(|role| role.as_str() == name)
        .ok_or_else(|| ParseNameError {
            kind: "role",
            given: name.to_owned(),
            known: "system, developer, user, assistant, tool",
        })
    }
}

impl FromStr for Channel {
    type Err = ParseNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Channel::Analysis, Channel::Commentary, Channel::Final]
            .into_iter()
            .find(|channel| channel.as_str() == name)
            .ok_or_else(|| ParseNameError {
                kind: "channel",
                given: name.to_owned(),
                known: "analysis, commentary, final",
            })
    }
}

/// One message of a conversation. All of it is plain text, never control tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Message {
    /// Who wrote it.
    pub role: Role,
    /// The text; for a tool call its arguments, as JSON.
    #[serde(default)]
    pub content: String,
    /// The assistant's channel. Without one an assistant's message is `final`,
    /// a call is `commentary` (`analysis` for built-in tools).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// A user's or assistant's name; for [`Role::Tool`] the tool's name, with
    /// or without the namespace (`functions.` is added to a bare one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whom the message is for: the tool, in an assistant's call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Ties a tool's answer to the call; never rendered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// `json`, `code`, …: what the model says the text is. Without one a call
    /// of a function tool is `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl Message {
    /// A message with role and text only.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            ..Self::default()
        }
    }

    /// The application's own instructions.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new(Role::System, content)
    }

    /// The developer's instructions.
    pub fn developer(content: impl Into<String>) -> Self {
        Self::new(Role::Developer, content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User, content)
    }

    /// What the model said on a channel.
    pub fn assistant(channel: Channel, content: impl Into<String>) -> Self {
        Self {
            channel: Some(channel),
            ..Self::new(Role::Assistant, content)
        }
    }

    /// The model's call of the function tool `name` (no namespace).
    pub fn function_call(
        call_id: impl Into<String>,
        name: &str,
        arguments: impl Into<String>,
    ) -> Self {
        Self {
            recipient: Some(format!("functions.{name}")),
            call_id: Some(call_id.into()),
            content_type: Some("json".to_owned()),
            ..Self::assistant(Channel::Commentary, arguments)
        }
    }

    /// What a tool answered. `name` as in [`Message::name`]; the call's id
    /// alone is enough where the call is in the same conversation.
    pub fn tool_result(
        call_id: impl Into<String>,
        name: Option<&str>,
        content: impl Into<String>,
    ) -> Self {
        Self {
            name: name.map(str::to_owned),
            call_id: Some(call_id.into()),
            ..Self::new(Role::Tool, content)
        }
    }

    /// The recipient, where the message has a real one: `all` means none.
    pub(super) fn addressee(&self) -> Option<&str> {
        self.recipient
            .as_deref()
            .filter(|recipient| *recipient != "all")
    }

    /// Whether this is a final answer of the assistant.
    pub(super) fn is_final(&self) -> bool {
        self.role == Role::Assistant
            && match self.channel {
                Some(channel) => channel == Channel::Final,
                None => self.addressee().is_none(),
            }
    }
}

/// All that a prompt is made from.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// The system message's content, the tools, the response format.
    #[serde(default)]
    pub settings: Settings,
    /// The messages so far, oldest first.
    #[serde(default)]
    pub messages: Vec<Message>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["system", "developer", "user", "assistant", "tool"] {
            assert_eq!(name.parse::<Role>().unwrap().to_string(), name);
        }
        for name in ["analysis", "commentary", "final"] {
            assert_eq!(name.parse::<Channel>().unwrap().to_string(), name);
        }
        let error = "thinking".parse::<Channel>().unwrap_err().to_string();
        assert!(
            error.contains("thinking") && error.contains("analysis"),
            "{error}"
        );
        assert!("Assistant".parse::<Role>().is_err());
    }

    #[test]
    fn a_message_without_channel_or_recipient_is_the_answer() {
        assert!(Message::new(Role::Assistant, "yes").is_final());
        assert!(!Message::assistant(Channel::Analysis, "hm").is_final());
        assert!(!Message::user("yes").is_final());
        assert!(!Message::function_call("call_1", "f", "{}").is_final());
    }
}
