//! A message's header, read word by word while it is still being written.

use crate::harmony::decoder::TextDecoder;
use crate::harmony::message::Channel;

use super::event::Recovery;

/// Longest header and longest word in one, in bytes. A longer one is text.
const HEADER_LIMIT: usize = 512;
const WORD_LIMIT: usize = 128;

/// Content types that may follow without `<|constrain|>` wherever a word may.
pub(super) const CONTENT_TYPES: [&str; 3] = ["json", "code", "text"];
/// Roles other than the assistant's.
const OTHER_ROLES: [&str; 4] = ["user", "system", "developer", "tool"];
/// How a recipient begins that stands without `to=`.
const NAMESPACES: [&str; 2] = ["functions.", "browser."];

/// How a header came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The prompt ended with `<|start|>assistant`.
    Prompt,
    /// The model wrote `<|start|>`.
    Start,
    /// Something follows a message's end without `<|start|>`.
    Bare,
}

/// Which control token a header's text follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `<|start|>`, or none.
    Role,
    /// `<|channel|>`.
    Channel,
    /// `<|constrain|>`.
    Constrain,
}

/// A header as far as it is written.
#[derive(Debug)]
pub(super) struct Draft {
    origin: Origin,
    parts: Vec<(Part, String)>,
    decoder: TextDecoder,
}

/// Who speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Author {
    #[default]
    Assistant,
    Other(String),
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub author: Author,
    pub channel: Channel,
    /// With its namespace.
    pub recipient: Option<String>,
    pub content_type: Option<String>,
    /// What turned out to be the message's text.
    pub text: String,
    pub faults: Vec<(Recovery, String)>,
}

impl Draft {
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            parts: vec![(Part::Role, String::new())],
            decoder: TextDecoder::new(),
        }
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.parts.len() == 1 && self.raw().is_empty() && !self.decoder.is_pending()
    }

    pub fn is_prompts(&self) -> bool {
        self.origin == Origin::Prompt
    }

    /// Whether it follows a message's end without `<|start|>`.
    pub fn is_bare(&self) -> bool {
        self.origin == Origin::Bare
    }

    /// Whether no control token but `<|start|>` was in it.
    pub fn has_only_role(&self) -> bool {
        self.parts.iter().all(|(part, _)| *part == Part::Role)
    }

    /// All its text.
    pub fn raw(&self) -> String {
        self.parts.iter().map(|(_, text)| text.as_str()).collect()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let text = self.decoder.push(bytes);
        self.append(&text);
    }

    /// Begins another part.
    pub fn open(&mut self, part: Part) {
        self.flush();
        self.parts.push((part, String::new()));
    }

    /// Whether this can still become a header. What cannot is text.
    pub fn is_plausible(&self) -> bool {
        let len: usize = self.parts.iter().map(|(_, text)| text.len()).sum();
        if len > HEADER_LIMIT {
            return false;
        }
        let reading = self.read();
        let Some((index, offset)) = reading.rest else {
            return true;
        };
        let (part, text) = &self.parts[index];
        let rest = &text[offset..];
        let word = rest.split_whitespace().next().unwrap_or_default();
        if word.len() > WORD_LIMIT {
            return false;
        }
        let is_growing = index + 1 == self.parts.len() && word.len() == rest.len();
        match part {
            // One word may be a content type that only `<|message|>` confirms.
            Part::Channel | Part::Constrain => rest.split_whitespace().nth(1).is_none(),
            Part::Role if !is_growing => false,
            Part::Role if reading.words == 0 => {
                let first_words: &[&str] = match self.origin {
                    Origin::Prompt | Origin::Bare => &["assistant", "to="],
                    Origin::Start => &["assistant", "to=", "python"],
                };
                let others = OTHER_ROLES.iter().chain(&NAMESPACES);
                let channels = CHANNELS.iter().map(|channel| channel.as_str());
                first_words.iter().any(|known| known.starts_with(word))
                    || self.origin == Origin::Start
                        && others
                            .copied()
                            .chain(channels)
                            .any(|known| known.starts_with(word))
            }
            Part::Role => later_words().any(|known| known.starts_with(word)),
        }
    }

    /// Whether no word is left over that a header does not have.
    pub fn is_all_header(&self) -> bool {
        self.read().rest.is_none()
    }

    /// What the header says. `complete`: `<|message|>` came; without it the
    /// header's meaningless rest is the message's text.
    pub fn resolve(mut self, complete: bool) -> Header {
        self.flush();
        let reading = self.read();
        if !complete && self.is_bare_text(&reading) {
            return self.as_text();
        }
        let mut faults = Vec::new();
        if self.origin == Origin::Bare {
            faults.push((Recovery::MissingStart, String::new()));
        }
        let mut header = Header {
            author: reading.author.clone(),
            channel: Channel::Final,
            recipient: None,
            content_type: reading.content_type.clone(),
            text: String::new(),
            faults: Vec::new(),
        };
        self.place_rest(&reading, complete, &mut header, &mut faults);
        let recipient = reading.recipient.as_deref();
        if header.author == Author::Assistant {
            header.recipient = recipient.and_then(|word| clean_recipient(word, &mut faults));
            header.channel = channel_of(&reading, complete, &header, &mut faults);
        } else if let Some(word) = recipient.filter(|word| *word != "assistant") {
            faults.push((Recovery::UnusableRecipient, word.to_owned()));
        }
        header.faults = faults;
        header
    }

    /// Nothing of a header at all: text from its first letter on.
    fn is_bare_text(&self, reading: &Reading) -> bool {
        self.origin != Origin::Start
            && self.has_only_role()
            && (reading.rest.is_some() || reading.words == 0)
    }

    fn as_text(&self) -> Header {
        Header {
            author: Author::Assistant,
            channel: Channel::Final,
            recipient: None,
            content_type: None,
            text: self.raw(),
            faults: vec![(Recovery::MissingHeader, String::new())],
        }
    }

    /// Decides what the words are that nothing is known about.
    fn place_rest(
        &self,
        reading: &Reading,
        complete: bool,
        header: &mut Header,
        faults: &mut Vec<(Recovery, String)>,
    ) {
        let rest = reading
            .rest
            .map(|at| self.text_from(at))
            .unwrap_or_default();
        let mut unknown = reading.unknown_channels.as_slice();
        if !complete {
            header.text = match unknown.first() {
                // An unknown channel without `<|message|>` is no channel.
                Some(at) if reading.channel.is_none() => {
                    unknown = &[];
                    self.text_from(*at)
                }
                _ => rest,
            };
            faults.push((Recovery::MissingMessage, String::new()));
        } else if !rest.is_empty() {
            let behind_channel = reading
                .rest
                .is_some_and(|(index, _)| self.parts[index].0 != Part::Role);
            let (name, glued) = split_name(rest.trim());
            if behind_channel && header.content_type.is_none() && glued.is_empty() {
                header.content_type = Some(name.to_owned());
            } else {
                faults.push((Recovery::MalformedHeader, rest));
            }
        }
        for glued in &reading.glued_types {
            faults.push((Recovery::MalformedHeader, glued.clone()));
        }
        for (index, offset) in unknown {
            let word = self.parts[*index].1[*offset..].split_whitespace().next();
            let word = word.unwrap_or_default().to_owned();
            faults.push((Recovery::UnknownChannel, word));
        }
    }

    /// The text from a place on to the header's end.
    fn text_from(&self, (index, offset): (usize, usize)) -> String {
        let mut text = self.parts[index].1[offset..].to_owned();
        text.extend(
            self.parts[index + 1..]
                .iter()
                .map(|(_, text)| text.as_str()),
        );
        text
    }

    /// Ends a character left unfinished.
    pub fn flush(&mut self) {
        let text = self.decoder.finish();
        self.append(&text);
    }

    fn append(&mut self, text: &str) {
        if let Some((_, last)) = self.parts.last_mut() {
            last.push_str(text);
        }
    }

    fn read(&self) -> Reading {
        let mut reading = Reading::default();
        for (index, (part, text)) in self.parts.iter().enumerate() {
            let mut is_first = true;
            let mut offset = 0;
            while let Some(at) = next_word(text, offset) {
                let end = text[at..]
                    .find(char::is_whitespace)
                    .map_or(text.len(), |len| at + len);
                let word = &text[at..end];
                match reading.word(self.origin, *part, is_first, word, (index, at)) {
                    // The rest of a word with something glued on is a word, too.
                    Taken::Some(len) => offset = at + len,
                    Taken::None => {
                        reading.rest = Some((index, at));
                        return reading;
                    }
                }
                is_first = false;
                reading.words += 1;
            }
        }
        reading
    }
}

const CHANNELS: [Channel; 3] = [Channel::Analysis, Channel::Commentary, Channel::Final];

fn later_words() -> impl Iterator<Item = &'static str> {
    CHANNELS
        .into_iter()
        .map(Channel::as_str)
        .chain(["to="])
        .chain(NAMESPACES)
        .chain(CONTENT_TYPES)
}

fn next_word(text: &str, from: usize) -> Option<usize> {
    let rest = &text[from..];
    rest.find(|letter: char| !letter.is_whitespace())
        .map(|at| from + at)
}

/// How much of a word was understood.
enum Taken {
    Some(usize),
    None,
}

/// A header's words, understood as far as they can be.
#[derive(Debug, Default)]
struct Reading {
    author: Author,
    channel: Option<Channel>,
    /// Words that stand for a channel and name none: part, offset in it.
    unknown_channels: Vec<(usize, usize)>,
    /// As written, without `to=`.
    recipient: Option<String>,
    /// `to=` was the last word: the name follows.
    awaits_recipient: bool,
    content_type: Option<String>,
    /// What was glued to content types.
    glued_types: Vec<String>,
    /// Words understood.
    words: usize,
    /// Where the first word is that is not understood: part, offset in it.
    rest: Option<(usize, usize)>,
}

impl Reading {
    fn word(
        &mut self,
        origin: Origin,
        part: Part,
        is_first: bool,
        word: &str,
        at: (usize, usize),
    ) -> Taken {
        if word.len() > WORD_LIMIT {
            return Taken::None;
        }
        if self.awaits_recipient {
            self.awaits_recipient = false;
            self.recipient = Some(word.to_owned());
            return Taken::Some(word.len());
        }
        match part {
            Part::Role if is_first => self.first_word(origin, word),
            Part::Channel if is_first => self.channel_word(word, at),
            Part::Constrain if is_first && !is_recipient(word) => self.type_word(word),
            _ => self.later_word(word),
        }
    }

    fn first_word(&mut self, origin: Origin, word: &str) -> Taken {
        if word.starts_with("assistant") {
            return Taken::Some("assistant".len());
        }
        if word.starts_with("to=") {
            return self.later_word(word);
        }
        if origin != Origin::Start {
            return Taken::None;
        }
        // What is glued to a role or a tool's name is no part of it.
        let named = |letter: char| letter.is_ascii_alphanumeric() || "_.:-".contains(letter);
        let end = word.find(|letter| !named(letter)).unwrap_or(word.len());
        let role = &word[..end];
        let is_tool = role == "python" || NAMESPACES.iter().any(|name| role.starts_with(name));
        if is_tool || OTHER_ROLES.contains(&role.split(':').next().unwrap_or(role)) {
            self.author = Author::Other(role.to_owned());
            return Taken::Some(end);
        }
        match word.parse() {
            Ok(channel) => {
                self.channel = Some(channel);
                Taken::Some(word.len())
            }
            Err(_) => Taken::None,
        }
    }

    fn channel_word(&mut self, word: &str, at: (usize, usize)) -> Taken {
        if is_recipient(word) {
            return self.later_word(word);
        }
        let known = CHANNELS.into_iter().find(|channel| {
            word.strip_prefix(channel.as_str()).is_some_and(|glued| {
                let same_word = |letter: char| {
                    letter.is_lowercase() || letter.is_numeric() || "_-".contains(letter)
                };
                is_recipient(glued)
                    || CONTENT_TYPES.contains(&glued)
                    || !glued.starts_with(same_word)
            })
        });
        match known {
            Some(channel) => {
                self.channel = Some(channel);
                Taken::Some(channel.as_str().len())
            }
            None => {
                self.unknown_channels.push(at);
                Taken::Some(word.len())
            }
        }
    }

    fn type_word(&mut self, word: &str) -> Taken {
        let (name, glued) = split_name(word);
        if name.is_empty() {
            return Taken::None;
        }
        self.content_type = Some(name.to_owned());
        if !glued.is_empty() {
            self.glued_types.push(glued.to_owned());
        }
        Taken::Some(word.len())
    }

    fn later_word(&mut self, word: &str) -> Taken {
        if is_recipient(word) {
            let name = word.strip_prefix("to=").unwrap_or(word);
            match &self.recipient {
                // Said twice is said once, if nothing more is said with it.
                Some(known) if known != name || !split_name(name).1.is_empty() => {
                    return Taken::None;
                }
                _ if name.is_empty() => self.awaits_recipient = true,
                _ => self.recipient = Some(name.to_owned()),
            }
        } else if let (Ok(channel), None) = (word.parse(), self.channel) {
            self.channel = Some(channel);
        } else if CONTENT_TYPES.contains(&word) && self.content_type.is_none() {
            self.content_type = Some(word.to_owned());
        } else {
            return Taken::None;
        }
        Taken::Some(word.len())
    }
}

fn is_recipient(word: &str) -> bool {
    word.starts_with("to=") || NAMESPACES.iter().any(|name| word.starts_with(name))
}

/// The letters of a name at the beginning of `word`, and what is glued to it.
fn split_name(word: &str) -> (&str, &str) {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let end = word.find(|letter| !allowed(letter)).unwrap_or(word.len());
    word.split_at(end)
}

/// The recipient with its namespace, nothing glued on; `None` for everybody.
fn clean_recipient(word: &str, faults: &mut Vec<(Recovery, String)>) -> Option<String> {
    let (name, glued) = split_name(word);
    if glued.is_empty() && matches!(name, "all" | "user") {
        return None;
    }
    if name == "python" || name == "browser" || name.starts_with("browser.") {
        if !glued.is_empty() {
            faults.push((Recovery::RepairedRecipient, word.to_owned()));
        }
        return Some(name.to_owned());
    }
    let mut function = name;
    while let Some(inner) = function.strip_prefix("functions.") {
        function = inner;
    }
    let function = function.trim_matches('.');
    if matches!(function, "" | "functions" | "assistant") {
        faults.push((Recovery::UnusableRecipient, word.to_owned()));
        return None;
    }
    let recipient = format!("functions.{function}");
    // Longer, it could not stand in the next prompt.
    if recipient.len() > WORD_LIMIT {
        faults.push((Recovery::UnusableRecipient, word.to_owned()));
        return None;
    }
    if recipient != word {
        faults.push((Recovery::RepairedRecipient, word.to_owned()));
    }
    Some(recipient)
}

/// The channel of the assistant's message: the one given, where it can be.
fn channel_of(
    reading: &Reading,
    complete: bool,
    header: &Header,
    faults: &mut Vec<(Recovery, String)>,
) -> Channel {
    let is_function = header
        .recipient
        .as_deref()
        .map(|name| name.starts_with("functions."));
    let unknown = complete && !reading.unknown_channels.is_empty();
    if reading.channel.is_none() && !unknown && complete {
        faults.push((Recovery::MissingChannel, String::new()));
    }
    let usual = match is_function {
        Some(true) => Channel::Commentary,
        Some(false) => Channel::Analysis,
        None if unknown => Channel::Commentary,
        None => Channel::Final,
    };
    match (reading.channel, is_function) {
        (None, _) => usual,
        (Some(channel), Some(true)) if channel != Channel::Commentary => {
            faults.push((Recovery::MovedCall, String::new()));
            usual
        }
        (Some(Channel::Final), Some(false)) => {
            faults.push((Recovery::MovedCall, String::new()));
            usual
        }
        (Some(channel), _) => channel,
    }
}
