//! The events of a stream and their lines.
//!
//! One JSON object a line, `type` first, at most [`MAX_LINE`] bytes with the
//! line feed, always whole UTF-8. Text that does not fit one line comes in
//! several; a long tool call comes as `tool-call-delta` lines whose
//! `arguments` stand before the `tool-call`'s own.

use serde::Serialize;

use crate::harmony::Recovery;

/// Longest line in bytes, the line feed included.
pub const MAX_LINE: usize = 4096;

/// Version of the stream's format, in its `start`.
pub const STREAM_VERSION: u32 = 1;

/// Room in a line beside the text: names, ids, punctuation. Text is cut so
/// that this much stays free.
const FRAME: usize = 512;

/// One event of a generation. `End` or `Error` is the last, exactly once.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum StreamEvent {
    /// It waits; may come several times before `start`.
    Queued {
        /// Requests ahead.
        position: usize,
        /// What it waits for: `model` to be loaded, or its turn in the `queue`.
        waiting_for: WaitingFor,
    },
    /// The model begins to read the prompt.
    Start {
        /// [`STREAM_VERSION`].
        version: u32,
        /// The model's name.
        model: String,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Those of them that need not be computed.
        cached_tokens: usize,
        /// Requests that were ahead when it was accepted.
        queue_position: usize,
        /// Positions of the context window.
        context_window: usize,
    },
    /// More text of a message.
    Delta {
        /// `analysis`, `commentary` or `final`.
        channel: &'static str,
        /// The text.
        text: String,
        /// Of the tokens the text was made from, where asked.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<LogprobEntry>,
    },
    /// More of a tool call's arguments.
    ToolCallDelta {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// More of the arguments.
        arguments: String,
    },
    /// A complete tool call.
    ToolCall {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// The arguments, or what follows those of the deltas.
        arguments: String,
    },
    /// The model's output was malformed and was understood nevertheless.
    Recovered {
        /// What was wrong, under `kind`, and the call concerned.
        #[serde(flatten)]
        kind: Recovery,
        /// What the model wrote, where no other event has it; cut where long.
        raw: String,
    },
    /// The prompt does not fit. An `error` follows, unless messages were dropped.
    Overflow {
        /// Tokens of the prompt.
        used: usize,
        /// Positions of the window.
        window: usize,
        /// The oldest messages, which were left out where the application asked
        /// for it.
        #[serde(skip_serializing_if = "is_zero")]
        dropped_messages: usize,
    },
    /// What it took.
    Usage(UsageNumbers),
    /// Complete.
    End {
        /// Why it ended.
        finish_reason: Finish,
    },
    /// It could not be completed.
    Error {
        /// A D-Bus error name.
        name: String,
        /// What happened and what to do.
        message: String,
    },
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What a `queued` request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitingFor {
    /// A model that is being loaded or still in use.
    Model,
    /// Its turn.
    Queue,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model was done, or a stop string came.
    Stop,
    /// `max-output-tokens` or a full context window.
    Length,
    /// The model waits for the results of its calls.
    ToolCalls,
    /// The application cancelled it.
    Cancelled,
}

impl Finish {
    /// Its name in the stream.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool-calls",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// The numbers of a `usage` event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UsageNumbers {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were not computed again.
    pub cached_tokens: usize,
    /// Tokens generated, control tokens included.
    pub output_tokens: usize,
    /// Those of them in the analysis channel.
    pub reasoning_tokens: usize,
    /// Milliseconds in the queue, loading included.
    pub queue_ms: u64,
    /// Milliseconds to the first token.
    pub prefill_ms: u64,
    /// Milliseconds from the first token to the last.
    pub decode_ms: u64,
}

/// The log-probability of one token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogprobEntry {
    /// Token id.
    pub id: u32,
    /// Its text, with U+FFFD where it is no whole UTF-8; absent where long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Natural logarithm.
    pub logprob: f32,
    /// The most probable tokens in its place, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<LogprobEntry>,
}

impl StreamEvent {
    /// Whether nothing may follow.
    pub fn is_last(&self) -> bool {
        matches!(self, StreamEvent::End { .. } | StreamEvent::Error { .. })
    }

    /// Appends the event's lines to `out`.
    pub fn write_lines(&self, out: &mut Vec<u8>) {
        if self.try_write(out) {
            return;
        }
        match self {
            StreamEvent::Delta {
                channel,
                text,
                logprobs,
            } => write_long_delta(channel, text, logprobs, out),
            StreamEvent::ToolCallDelta {
                id,
                name,
                arguments,
            } => write_arguments(id, name, arguments, false, out),
            StreamEvent::ToolCall {
                id,
                name,
                arguments,
            } => write_arguments(id, name, arguments, true, out),
            StreamEvent::Error { name, message } => {
                let message = pieces(message, MAX_LINE - FRAME).next().unwrap_or_default();
                let short = StreamEvent::Error {
                    name: name.clone(),
                    message: message.to_owned(),
                };
                let fits = short.try_write(out);
                debug_assert!(fits, "error names are short");
            }
            StreamEvent::Recovered { kind, raw } => {
                let raw = pieces(raw, MAX_LINE - FRAME).next().unwrap_or_default();
                let short = StreamEvent::Recovered {
                    kind: kind.clone(),
                    raw: raw.to_owned(),
                };
                let fits = short.try_write(out);
                debug_assert!(fits, "words of a header are short");
            }
            // Numbers, and names that are short.
            other => debug_assert!(false, "a line too long: {other:?}"),
        }
    }

    /// Appends one line, unless it were too long.
    fn try_write(&self, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        // Strings and numbers into memory: this cannot fail, and a value that
        // did would leave no half line.
        let written = serde_json::to_writer(&mut *out, self).is_ok();
        out.push(b'\n');
        if written && out.len() - before <= MAX_LINE {
            return true;
        }
        out.truncate(before);
        false
    }
}

fn write_long_delta(
    channel: &'static str,
    text: &str,
    logprobs: &[LogprobEntry],
    out: &mut Vec<u8>,
) {
    let delta = |text: &str, logprobs: &[LogprobEntry]| StreamEvent::Delta {
        channel,
        text: text.to_owned(),
        logprobs: logprobs.to_vec(),
    };
    for piece in pieces(text, MAX_LINE - FRAME) {
        let fits = delta(piece, &[]).try_write(out);
        debug_assert!(fits, "pieces are cut to fit");
    }
    let mut rest = logprobs;
    while !rest.is_empty() {
        // As many entries as fit a line; one without texts always does.
        let fitting = (1..=rest.len()).rev().find(|n| {
            let (head, _) = rest.split_at(*n);
            delta("", head).try_write(out)
        });
        let taken = fitting.unwrap_or_else(|| {
            let bare = rest.first().map(LogprobEntry::without_texts);
            delta("", bare.as_slice()).try_write(out);
            1
        });
        rest = rest.get(taken..).unwrap_or_default();
    }
}

impl LogprobEntry {
    fn without_texts(&self) -> Self {
        Self {
            text: None,
            top: self.top.iter().map(Self::without_texts).collect(),
            ..*self
        }
    }
}

fn write_arguments(id: &str, name: &str, arguments: &str, complete: bool, out: &mut Vec<u8>) {
    let mut pieces = pieces(arguments, MAX_LINE - FRAME).peekable();
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = pieces.peek().is_none();
        let (id, name, arguments) = (id.to_owned(), name.to_owned(), piece.to_owned());
        let event = match complete && last {
            true => StreamEvent::ToolCall {
                id,
                name,
                arguments,
            },
            false => StreamEvent::ToolCallDelta {
                id,
                name,
                arguments,
            },
        };
        let fits = event.try_write(out);
        debug_assert!(fits, "ids and names are short");
        if last {
            return;
        }
    }
}

/// Cuts `text` between characters into pieces that take at most `bytes` bytes
/// in JSON. At least one piece, which may be empty.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut taken = 0;
        let cut = text.char_indices().find(|(_, c)| {
            taken += json_width(*c);
            taken > bytes
        });
        let (piece, more) = match cut {
            Some((at, _)) => text.split_at(at),
            None => (text, ""),
        };
        rest = (!more.is_empty()).then_some(more);
        Some(piece)
    })
}

/// Bytes a character takes in a JSON string, at most.
fn json_width(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        c if c.is_ascii_control() => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn lines(event: &StreamEvent) -> Vec<Value> {
        let mut out = Vec::new();
        event.write_lines(&mut out);
        assert_eq!(out.last(), Some(&b'\n'));
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.split_inclusive('\n')
                .all(|line| line.len() <= MAX_LINE)
        );
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn delta(text: &str) -> StreamEvent {
        StreamEvent::Delta {
            channel: "final",
            text: text.into(),
            logprobs: Vec::new(),
        }
    }

    #[test]
    fn the_format() {
        let start = StreamEvent::Start {
            version: 1,
            model: "20b".into(),
            prompt_tokens: 7,
            cached_tokens: 3,
            queue_position: 0,
            context_window: 8192,
        };
        assert_eq!(
            lines(&start),
            [
                json!({"type": "start", "version": 1, "model": "20b", "prompt-tokens": 7,
                "cached-tokens": 3, "queue-position": 0, "context-window": 8192})
            ]
        );
        assert_eq!(
            lines(&delta("a\n")),
            [json!({"type": "delta", "channel": "final", "text": "a\n"})]
        );
        let end = StreamEvent::End {
            finish_reason: Finish::ToolCalls,
        };
        assert_eq!(
            lines(&end),
            [json!({"type": "end", "finish-reason": "tool-calls"})]
        );
        let usage = StreamEvent::Usage(UsageNumbers::default());
        assert_eq!(lines(&usage)[0]["output-tokens"], 0);
        let recovered = StreamEvent::Recovered {
            kind: Recovery::InvalidArguments {
                id: "call_1".into(),
                name: "f".into(),
            },
            raw: "{".into(),
        };
        assert_eq!(
            lines(&recovered),
            [
                json!({"type": "recovered", "kind": "invalid-arguments", "id": "call_1",
                "name": "f", "raw": "{"})
            ]
        );
        let queued = StreamEvent::Queued {
            position: 2,
            waiting_for: WaitingFor::Queue,
        };
        assert_eq!(
            lines(&queued),
            [json!({"type": "queued", "position": 2, "waiting-for": "queue"})]
        );
        let mut raw = Vec::new();
        delta("x").write_lines(&mut raw);
        assert!(raw.starts_with(b"{\"type\":"));
    }

    #[test]
    fn long_errors_are_cut() {
        let error = StreamEvent::Error {
            name: "org.gptoss.Daemon1.Error.BackendFailure".into(),
            message: "\u{1}é".repeat(5000),
        };
        let lines = lines(&error);
        assert_eq!(lines.len(), 1);
        assert!(lines[0]["message"].as_str().unwrap().len() > 500);
    }

    #[test]
    fn a_long_call_ends_with_its_last_part() {
        let arguments = format!("{{\"text\":\"{}\"}}", "\\n é".repeat(3000));
        let lines = lines(&StreamEvent::ToolCall {
            id: "call_1".into(),
            name: "save".into(),
            arguments: arguments.clone(),
        });
        assert!(lines.len() > 2);
        let (last, before) = lines.split_last().unwrap();
        assert_eq!(last["type"], "tool-call");
        assert!(before.iter().all(|l| l["type"] == "tool-call-delta"));
        let whole: String = lines
            .iter()
            .map(|l| l["arguments"].as_str().unwrap())
            .collect();
        assert_eq!(whole, arguments);
    }

    #[test]
    fn logprobs_are_spread_over_lines() {
        let entry = |id| LogprobEntry {
            id,
            text: Some("\u{0}".repeat(100)),
            logprob: -0.5,
            top: (0..20)
                .map(|id| LogprobEntry {
                    id,
                    text: Some("token".into()),
                    logprob: -1.0,
                    top: Vec::new(),
                })
                .collect(),
        };
        let mut heavy = entry(999);
        heavy.text = Some("\u{0}".repeat(4000));
        let lines = lines(&StreamEvent::Delta {
            channel: "final",
            text: "x".repeat(5000),
            logprobs: (0..30).map(entry).chain([heavy]).collect(),
        });
        let ids: Vec<_> = lines
            .iter()
            .filter_map(|l| l["logprobs"].as_array())
            .flatten()
            .map(|e| e["id"].as_u64().unwrap())
            .collect();
        assert_eq!(ids, (0..30).chain([999]).collect::<Vec<_>>());
        let text: String = lines.iter().map(|l| l["text"].as_str().unwrap()).collect();
        assert_eq!(text.len(), 5000);
    }

    proptest! {
        #[test]
        fn text_survives_the_cutting(text in "(.|\\PC|\u{0}|\n|\"|\\\\|🙂){0,6000}") {
            let lines = lines(&delta(&text));
            let whole: String = lines.iter().map(|l| l["text"].as_str().unwrap()).collect();
            prop_assert_eq!(whole, text);
        }
    }
}
