//! The stream's lines as a client reads them.

use serde::Deserialize;

use super::ClientError;

/// One event of an answer. Later daemons may send others: those, and keys that
/// are unknown, are to be ignored.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
#[non_exhaustive]
pub enum StreamEvent {
    /// It waits.
    Queued {
        /// Requests ahead.
        position: u64,
        /// `model` while one is loaded, `queue` for its turn.
        waiting_for: String,
    },
    /// The model begins to read the prompt.
    Start {
        /// Version of the stream's format.
        version: u32,
        /// The model's name.
        model: String,
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// Those of them that need not be computed.
        cached_tokens: u64,
        /// Requests that were ahead when it was accepted.
        queue_position: u64,
        /// Positions of the context window.
        context_window: u64,
    },
    /// More text of a message.
    Delta {
        /// `analysis`, `commentary` or `final`.
        channel: String,
        /// The text.
        text: String,
        /// Of the tokens the text was made from, where asked.
        #[serde(default)]
        logprobs: Vec<LogprobEntry>,
    },
    /// Arguments that stand before those of the tool call to come.
    ToolCallDelta {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// The arguments' next part.
        arguments: String,
    },
    /// A complete tool call.
    ToolCall {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// The arguments' last part.
        arguments: String,
    },
    /// The model's output was malformed and was understood nevertheless.
    Recovered {
        /// What was wrong.
        kind: String,
        /// What the model wrote.
        #[serde(default)]
        raw: String,
    },
    /// The prompt does not fit.
    Overflow {
        /// Tokens of the prompt.
        used: u64,
        /// Positions of the window.
        window: u64,
        /// The oldest messages, where they were left out.
        #[serde(default)]
        dropped_messages: u64,
    },
    /// What it took.
    Usage(UsageNumbers),
    /// The last event of an answer that is complete.
    End {
        /// `stop`, `length`, `tool-calls` or `cancelled`.
        finish_reason: String,
    },
    /// The last event of an answer that is not.
    Error {
        /// A D-Bus error name.
        name: String,
        /// What happened.
        message: String,
    },
    /// Something a later daemon says.
    #[serde(other)]
    Unknown,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct UsageNumbers {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Those of them that were not computed again.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Those of them in the analysis channel.
    pub reasoning_tokens: u64,
    /// Milliseconds in the queue.
    pub queue_ms: u64,
    /// Milliseconds to the first token.
    pub prefill_ms: u64,
    /// Milliseconds from the first token to the last.
    pub decode_ms: u64,
}

/// The log-probability of one token.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LogprobEntry {
    /// Token id.
    pub id: u32,
    /// Its text, where short.
    #[serde(default)]
    pub text: Option<String>,
    /// Natural logarithm.
    pub logprob: f32,
    /// The most probable tokens in its place.
    #[serde(default)]
    pub top: Vec<LogprobEntry>,
}

impl StreamEvent {
    /// Reads one line.
    ///
    /// # Errors
    /// It is no event.
    pub fn parse(line: &str) -> Result<Self, ClientError> {
        serde_json::from_str(line).map_err(|e| ClientError::Malformed(e.to_string()))
    }

    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, StreamEvent::End { .. } | StreamEvent::Error { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_daemon_says_is_no_error() {
        let event = StreamEvent::parse(r#"{"type":"mood","value":"good"}"#).unwrap();
        assert_eq!(event, StreamEvent::Unknown);
        let delta = r#"{"type":"delta","channel":"final","text":"a","shiny":true}"#;
        assert!(matches!(
            StreamEvent::parse(delta).unwrap(),
            StreamEvent::Delta { text, .. } if text == "a"
        ));
        assert!(StreamEvent::parse("{}").is_err());
        assert!(StreamEvent::parse("").is_err());
    }

    /// Everything the daemon writes is read back as the same event.
    #[cfg(feature = "daemon")]
    #[test]
    fn the_daemons_lines_are_understood() {
        use crate::session::event as daemon;
        let events = [
            daemon::StreamEvent::Queued {
                position: 1,
                waiting_for: daemon::WaitingFor::Model,
            },
            daemon::StreamEvent::Start {
                version: 1,
                model: "m".into(),
                prompt_tokens: 3,
                cached_tokens: 2,
                queue_position: 1,
                context_window: 9,
            },
            daemon::StreamEvent::Delta {
                channel: "final",
                text: "é".into(),
                logprobs: vec![daemon::LogprobEntry {
                    id: 1,
                    text: None,
                    logprob: -1.0,
                    top: Vec::new(),
                }],
            },
            daemon::StreamEvent::ToolCall {
                id: "call_1".into(),
                name: "f".into(),
                arguments: "{}".into(),
            },
            daemon::StreamEvent::Recovered {
                kind: crate::harmony::Recovery::MissingEnd,
                raw: String::new(),
            },
            daemon::StreamEvent::Overflow {
                used: 9,
                window: 8,
                dropped_messages: 2,
            },
            daemon::StreamEvent::Usage(daemon::UsageNumbers::default()),
            daemon::StreamEvent::End {
                finish_reason: daemon::Finish::ToolCalls,
            },
            daemon::StreamEvent::Error {
                name: "n".into(),
                message: "m".into(),
            },
        ];
        for event in events {
            let mut bytes = Vec::new();
            event.write_lines(&mut bytes);
            let line = String::from_utf8(bytes).unwrap();
            let read = StreamEvent::parse(line.trim_end()).unwrap();
            assert_ne!(read, StreamEvent::Unknown, "{line}");
            assert_eq!(read.is_last(), event.is_last());
        }
    }
}
