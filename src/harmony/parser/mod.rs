//! What a model says, token by token, as events.
//!
//! The parser never fails. What is not harmony is recovered, reported as
//! [`Event::Recovered`], and what was said is kept.
//!
//! On well-formed output it agrees with the official library's parser, but for
//! one thing: a type without recipient (`<|channel|>final <|constrain|>json`) is
//! a type here and a recipient there.

mod arguments;
mod event;
mod header;
#[cfg(test)]
mod position_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use event::{Event, Position, Recovery, StopKind, history};

use self::arguments::Arguments;
use self::header::{Author, Draft, Header, Origin, Part};
use super::decoder::TextDecoder;
use super::message::{Channel, Message, Role};
use super::tokenizer::Tokenizer;

/// Reads the tokens of one turn, those behind the prompt's `<|start|>assistant`.
#[derive(Debug)]
pub struct Parser {
    tokenizer: Arc<Tokenizer>,
    state: State,
    next_call: usize,
    /// Whether a stray control token was reported in this message.
    stray_reported: bool,
    /// Whether the last message that ended was a tool call.
    ended_with_call: bool,
}

#[derive(Debug)]
enum State {
    Between,
    Header(Draft),
    Body(Body),
}

/// A message whose header is known.
#[derive(Debug)]
struct Body {
    kind: Kind,
    channel: Channel,
    recipient: Option<String>,
    content_type: Option<String>,
    content: String,
    decoder: TextDecoder,
}

#[derive(Debug, Clone)]
enum Kind {
    Text,
    Call { id: String, name: String },
    Foreign { role: String },
}

/// Why a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// `<|end|>`.
    End,
    /// `<|return|>` or `<|endoftext|>`.
    Return,
    /// `<|call|>`.
    Call,
    /// The next message begins.
    Next,
    /// There are no more tokens.
    Finish,
}

impl Parser {
    /// A parser at the beginning of a turn.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            state: State::Header(Draft::new(Origin::Prompt)),
            next_call: 1,
            stray_reported: false,
            ended_with_call: false,
        }
    }

    /// Numbers tool calls from `number` on, so that ids stay unique over the
    /// turns of a conversation: pass the last parser's [`Parser::next_call`].
    pub fn first_call(mut self, number: usize) -> Self {
        self.next_call = number;
        self
    }

    /// The number that the next tool call gets.
    pub fn next_call(&self) -> usize {
        self.next_call
    }

    /// Where in its output the model is.
    pub fn position(&self) -> Position {
        match &self.state {
            State::Between => Position::Between,
            State::Header(draft) if draft.is_prompts() && draft.is_empty() => Position::Start,
            State::Header(_) => Position::Header,
            State::Body(body) => match &body.kind {
                Kind::Text => Position::Text(body.channel),
                Kind::Call { name, .. } => Position::Arguments { name: name.clone() },
                Kind::Foreign { .. } => Position::Between,
            },
        }
    }

    /// Whether it is in the middle of a character.
    pub fn is_pending(&self) -> bool {
        matches!(&self.state, State::Body(body) if body.decoder.is_pending())
    }

    /// Reads one token.
    pub fn push(&mut self, token: u32) -> Vec<Event> {
        let mut events = Vec::new();
        self.push_into(token, &mut events);
        events
    }

    /// Reads one token, appending to `events`.
    pub fn push_into(&mut self, token: u32, events: &mut Vec<Event>) {
        let tokenizer = Arc::clone(&self.tokenizer);
        if let Some(bytes) = tokenizer.text_bytes(token) {
            return self.text(bytes, events);
        }
        let special = tokenizer.special();
        match token {
            token if token == special.start => {
                self.end_message(Close::Next, events);
                self.begin(Draft::new(Origin::Start));
            }
            token if token == special.channel => self.open_part(Part::Channel, events),
            token if token == special.constrain => self.open_part(Part::Constrain, events),
            token if token == special.message => self.end_header(events),
            token if token == special.end => self.end_message(Close::End, events),
            token if token == special.ret => self.stop(Close::Return, events),
            token if token == special.call => self.stop(Close::Call, events),
            token if token == special.endoftext => {
                report(events, Recovery::EndOfText, String::new());
                self.stop(Close::Return, events);
            }
            _ => self.stray(events),
        }
    }

    /// Ends the output, wherever it is: keeps what was said, reports what was
    /// left unfinished. Without effect after a stop.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let untouched = self.position() == Position::Start;
        if !untouched && !matches!(self.state, State::Between) {
            self.end_message(Close::Finish, &mut events);
        }
        self.state = State::Between;
        events
    }

    fn text(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        if matches!(self.state, State::Between) {
            self.begin(Draft::new(Origin::Bare));
        }
        match &mut self.state {
            State::Between => {}
            State::Header(draft) => {
                draft.push(bytes);
                if !draft.is_plausible() {
                    self.resolve_header(false, events);
                }
            }
            State::Body(body) => {
                let text = body.decoder.push(bytes);
                body.append(text, events);
            }
        }
    }

    fn begin(&mut self, draft: Draft) {
        self.state = State::Header(draft);
        self.stray_reported = false;
    }

    fn open_part(&mut self, part: Part, events: &mut Vec<Event>) {
        match &mut self.state {
            State::Header(draft) => draft.open(part),
            State::Between => {
                let mut draft = Draft::new(Origin::Bare);
                draft.open(part);
                self.begin(draft);
            }
            // A channel begins a header wherever it stands; a type alone does not.
            State::Body(_) if part == Part::Channel => {
                self.end_message(Close::Next, events);
                let mut draft = Draft::new(Origin::Start);
                draft.open(part);
                self.begin(draft);
            }
            State::Body(_) => self.stray(events),
        }
    }

    /// `<|message|>`.
    fn end_header(&mut self, events: &mut Vec<Event>) {
        if matches!(self.state, State::Between) {
            self.begin(Draft::new(Origin::Bare));
        }
        match self.state {
            State::Header(_) => self.resolve_header(true, events),
            _ => self.stray(events),
        }
    }

    /// Makes the header a message, empty but for what was no header.
    fn resolve_header(&mut self, complete: bool, events: &mut Vec<Event>) {
        let State::Header(draft) = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        let header = draft.resolve(complete);
        self.open_body(header, events);
    }

    fn open_body(&mut self, header: Header, events: &mut Vec<Event>) {
        for (kind, raw) in header.faults {
            report(events, kind, raw);
        }
        let kind = match (header.author, &header.recipient) {
            (Author::Other(role), _) => Kind::Foreign { role },
            (Author::Assistant, None) => Kind::Text,
            (Author::Assistant, Some(recipient)) => {
                let id = format!("call_{}", self.next_call);
                self.next_call += 1;
                let name = recipient.strip_prefix("functions.").unwrap_or(recipient);
                Kind::Call {
                    id,
                    name: name.to_owned(),
                }
            }
        };
        let mut body = Body {
            kind,
            channel: header.channel,
            recipient: header.recipient,
            content_type: header.content_type,
            content: String::new(),
            decoder: TextDecoder::new(),
        };
        body.append(header.text, events);
        self.state = State::Body(body);
    }

    fn stop(&mut self, end: Close, events: &mut Vec<Event>) {
        self.end_message(end, events);
        events.push(Event::Stop(if self.ended_with_call {
            StopKind::Call
        } else {
            StopKind::Return
        }));
        self.ended_with_call = false;
    }

    fn end_message(&mut self, end: Close, events: &mut Vec<Event>) {
        if let State::Header(_) = self.state {
            self.end_in_header(end, events);
        }
        match std::mem::replace(&mut self.state, State::Between) {
            State::Body(body) => self.end_body(body, end, events),
            State::Between if end == Close::End => self.stray(events),
            _ => {}
        }
    }

    /// A message ends before `<|message|>`: if something was said, it becomes a body.
    fn end_in_header(&mut self, end: Close, events: &mut Vec<Event>) {
        let State::Header(mut draft) = std::mem::replace(&mut self.state, State::Between) else {
            return;
        };
        draft.flush();
        let raw = draft.raw();
        let is_blank = raw.trim().is_empty();
        if is_blank && draft.has_only_role() {
            let kind = match end {
                Close::Next => Recovery::RepeatedHeader,
                _ => Recovery::TruncatedHeader,
            };
            match draft.is_bare() {
                true => report(events, Recovery::StrayText, raw),
                false => report(events, kind, raw),
            }
            return;
        }
        if draft.is_all_header() && end == Close::Next {
            return report(events, Recovery::RepeatedHeader, raw);
        }
        if draft.is_all_header() && end == Close::Finish {
            return report(events, Recovery::TruncatedHeader, raw);
        }
        let header = draft.resolve(false);
        let is_call = header.recipient.is_some() && !matches!(end, Close::Next | Close::Finish);
        if !header.text.is_empty() || is_call {
            self.open_body(header, events);
        } else if end == Close::Next {
            report(events, Recovery::RepeatedHeader, raw);
        } else {
            report(events, Recovery::TruncatedHeader, raw);
        }
    }

    fn end_body(&mut self, mut body: Body, end: Close, events: &mut Vec<Event>) {
        let tail = body.decoder.finish();
        body.append(tail, events);
        if end == Close::Next {
            report(events, Recovery::MissingEnd, String::new());
        }
        self.ended_with_call = matches!(body.kind, Kind::Call { .. });
        match body.kind.clone() {
            Kind::Foreign { role } => {
                report(events, Recovery::ForeignRole { role }, body.content);
            }
            Kind::Text => {
                if end == Close::Call {
                    report(events, Recovery::CallWithoutRecipient, String::new());
                }
                events.push(Event::MessageEnd(body.into_message(None)));
            }
            Kind::Call { id, name } => end_call(body, id, name, end, events),
        }
    }

    fn stray(&mut self, events: &mut Vec<Event>) {
        if !self.stray_reported {
            self.stray_reported = true;
            report(events, Recovery::StrayToken, String::new());
        }
    }
}

impl Body {
    fn append(&mut self, text: String, events: &mut Vec<Event>) {
        if text.is_empty() {
            return;
        }
        self.content.push_str(&text);
        match &self.kind {
            Kind::Text => events.push(Event::Delta {
                channel: self.channel,
                text,
            }),
            Kind::Call { id, name } => events.push(Event::ToolCallDelta {
                id: id.clone(),
                name: name.clone(),
                arguments: text,
            }),
            Kind::Foreign { .. } => {}
        }
    }

    fn into_message(self, call_id: Option<String>) -> Message {
        Message {
            role: Role::Assistant,
            content: self.content,
            channel: Some(self.channel),
            name: None,
            recipient: self.recipient,
            call_id,
            content_type: self.content_type,
        }
    }
}

fn end_call(mut body: Body, id: String, name: String, end: Close, events: &mut Vec<Event>) {
    let takes_json = name != "python";
    if end == Close::Finish && !(takes_json && arguments::is_object(&body.content)) {
        // No message follows that would name a type of the model's own.
        let odd = |name: &String| !header::CONTENT_TYPES.contains(&name.as_str());
        if let Some(name) = body.content_type.take().filter(odd) {
            report(events, Recovery::MalformedHeader, name);
        }
        report(events, Recovery::UnfinishedCall { id, name }, body.content);
        return;
    }
    match end {
        Close::Return => report(events, Recovery::WrongTerminator, String::new()),
        Close::Finish => report(events, Recovery::MissingEnd, String::new()),
        Close::End | Close::Call | Close::Next => {}
    }
    let verdict = if takes_json {
        arguments::check(&body.content)
    } else {
        Arguments::Valid
    };
    match verdict {
        Arguments::Valid => {}
        Arguments::Repaired(object) => {
            let raw = std::mem::replace(&mut body.content, object);
            let kind = Recovery::RepairedArguments {
                id: id.clone(),
                name: name.clone(),
            };
            report(events, kind, raw);
        }
        Arguments::Invalid => {
            let kind = Recovery::InvalidArguments {
                id: id.clone(),
                name,
            };
            report(events, kind, body.content.clone());
            events.push(Event::MessageEnd(body.into_message(Some(id))));
            return;
        }
    }
    events.push(Event::ToolCall {
        id: id.clone(),
        name,
        arguments: body.content.clone(),
    });
    events.push(Event::MessageEnd(body.into_message(Some(id))));
}

fn report(events: &mut Vec<Event>, kind: Recovery, raw: String) {
    events.push(Event::Recovered { kind, raw });
}
