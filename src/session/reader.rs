//! From an answer's tokens to the events that its reader gets.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::conversation::Said;
use super::event::{LogprobEntry, StreamEvent};
use super::stop::{Scan, StopStrings};
use crate::engine::TokenLogprobs;
use crate::harmony::{Channel, Event, Message, Parser, Tokenizer, history};

/// What has been delivered, and how.
pub(super) struct Output {
    pub events: UnboundedSender<StreamEvent>,
    pub show_reasoning: bool,
    pub said: Said,
    /// Of the present final message, what was delivered.
    pub shown: String,
    /// Whether a stop string came.
    pub stopped: bool,
    /// Whether it was cancelled, or failed: what is cut off is no fault, and no call
    /// for anybody to execute.
    pub cut_off: bool,
}

impl Output {
    pub fn send(&self, event: StreamEvent) {
        // Nobody reads: `closed` ends the task at its next await.
        let _ = self.events.send(event);
    }
}

/// Makes events of tokens.
pub(super) struct Reader {
    pub parser: Parser,
    tokenizer: Arc<Tokenizer>,
    /// Scratch.
    parsed: Vec<Event>,
    stop: StopStrings,
    /// Of tokens whose text has not been delivered yet.
    logprobs: Vec<LogprobEntry>,
}

impl Reader {
    /// Before the answer's first token; `first_call` is the number of its first call.
    pub fn new(tokenizer: &Arc<Tokenizer>, first_call: usize, stop: StopStrings) -> Self {
        Self {
            parser: Parser::new(Arc::clone(tokenizer)).first_call(first_call),
            tokenizer: Arc::clone(tokenizer),
            parsed: Vec::new(),
            stop,
            logprobs: Vec::new(),
        }
    }

    pub fn token(&mut self, output: &mut Output, id: u32, logprobs: Option<&TokenLogprobs>) {
        match logprobs {
            // A control token is no part of any text.
            Some(_) if self.tokenizer.is_special(id) => self.logprobs.clear(),
            Some(logprobs) => {
                let entry = self.entry(id, logprobs);
                self.logprobs.push(entry);
            }
            None => {}
        }
        let mut parsed = std::mem::take(&mut self.parsed);
        self.parser.push_into(id, &mut parsed);
        self.deliver(output, &mut parsed);
        self.parsed = parsed;
    }

    /// Delivers what is left. Without effect a second time.
    pub fn finish(&mut self, output: &mut Output) {
        let mut parsed = self.parser.finish();
        self.deliver(output, &mut parsed);
        self.flush(output);
    }

    fn deliver(&mut self, output: &mut Output, parsed: &mut Vec<Event>) {
        for event in parsed.drain(..) {
            if output.stopped {
                continue;
            }
            match event {
                Event::Delta { channel, text } => self.delta(output, channel, &text),
                // The complete call follows, repaired where necessary.
                Event::ToolCallDelta { .. } => self.logprobs.clear(),
                Event::ToolCall { .. } if output.cut_off => {}
                Event::MessageEnd(message) if output.cut_off && message.recipient.is_some() => {}
                Event::ToolCall {
                    id,
                    name,
                    arguments,
                } => {
                    output.said.calls.push(id.clone());
                    output.send(StreamEvent::ToolCall {
                        id,
                        name,
                        arguments,
                    });
                }
                Event::MessageEnd(message) => {
                    self.flush(output);
                    output.shown.clear();
                    output
                        .said
                        .messages
                        .extend(history([Event::MessageEnd(message)]));
                }
                Event::Recovered { .. } if output.cut_off => {}
                Event::Recovered { kind, raw } => {
                    output.send(StreamEvent::Recovered { kind, raw });
                }
                Event::Stop(_) => {}
            }
        }
    }

    fn delta(&mut self, output: &mut Output, channel: Channel, text: &str) {
        let text = match channel {
            Channel::Analysis if !output.show_reasoning => {
                self.logprobs.clear();
                return;
            }
            Channel::Final => match self.stop.push(text) {
                Scan::Text(text) => {
                    output.shown.push_str(&text);
                    text
                }
                Scan::Stopped(text) => {
                    output.stopped = true;
                    // What stood before the stop string is all that was said.
                    let said = std::mem::take(&mut output.shown) + &text;
                    let said = Message::assistant(Channel::Final, said);
                    output.said.messages.push(said);
                    text
                }
            },
            _ => text.to_owned(),
        };
        if !text.is_empty() {
            output.send(StreamEvent::Delta {
                channel: channel.as_str(),
                text,
                logprobs: std::mem::take(&mut self.logprobs),
            });
        }
    }

    /// Delivers what might have become a stop string.
    fn flush(&mut self, output: &Output) {
        let text = self.stop.finish();
        if !text.is_empty() && !output.stopped {
            output.send(StreamEvent::Delta {
                channel: Channel::Final.as_str(),
                text,
                logprobs: std::mem::take(&mut self.logprobs),
            });
        }
    }

    fn entry(&self, id: u32, logprobs: &TokenLogprobs) -> LogprobEntry {
        let entry = |id: u32, logprob: f32| LogprobEntry {
            id,
            text: Some(self.tokenizer.decode(&[id])),
            // JSON has no infinity.
            logprob: logprob.max(-1e9),
            top: Vec::new(),
        };
        LogprobEntry {
            top: logprobs.top.iter().map(|(id, l)| entry(*id, *l)).collect(),
            ..entry(id, logprobs.chosen)
        }
    }
}
