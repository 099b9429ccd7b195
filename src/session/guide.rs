//! What a request may say, beyond what the model would: a form of the answer,
//! tool calls, an end to the reasoning. Harmony's own tokens stay the model's,
//! except where a header would lead elsewhere.
//!
//! ```text
//! <|channel|>analysis<|message|> … <|end|>        free, up to the budget
//! <|channel|>commentary to=functions.f …          arguments by f's parameters
//! <|channel|>analysis to=browser.open code …      arguments by the format's
//! <|channel|>analysis to=python code …            free: it is code
//! <|channel|>final<|message|> … <|return|>        by the response-schema
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde_json::json;

use super::failure::Failure;
use super::grammar::{Grammar, Grammars};
use crate::engine::{Choice, Guide};
use crate::harmony::{
    Channel, Event, FunctionTool, Opening, Parser, Position, Settings, Tokenizer, force_final,
    opening,
};

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guidance {
    /// Most tokens of analysis.
    pub reasoning: Option<usize>,
    /// Tools of which one must be called; none if empty.
    pub must_call: Vec<String>,
}

/// The forms that texts must have, before their beginning.
#[derive(Debug, Default)]
pub struct Forms {
    answer: Option<Grammar>,
    /// By what a tool is called by.
    tools: HashMap<String, CallForm>,
}

/// How a tool is called.
#[derive(Debug, Clone)]
enum CallForm {
    /// An application's function, its arguments held to its parameters.
    Function(Grammar),
    /// One the model was trained with; `None` where the argument is code.
    Builtin(Option<Grammar>),
}

impl CallForm {
    fn grammar(&self) -> Option<Grammar> {
        match self {
            CallForm::Function(grammar) => Some(grammar.clone()),
            CallForm::Builtin(grammar) => grammar.clone(),
        }
    }
}

impl Forms {
    /// Those of the answer and of the tools. Takes a while.
    ///
    /// # Errors
    /// The answer's cannot be enforced. A tool's that cannot be is taken for any
    /// object.
    pub fn new(settings: &Settings, grammars: &Grammars) -> Result<Self, Failure> {
        let answer = settings.response_format.as_ref();
        let answer = answer.map(|format| grammars.json(&format.schema));
        let any = json!({"type": "object"});
        let arguments = |tool: &FunctionTool| {
            let schema = tool.parameters.as_ref().unwrap_or(&any);
            let grammar = grammars.json(schema).or_else(|_| grammars.json(&any));
            Ok((tool.name.clone(), CallForm::Function(grammar?)))
        };
        let builtin = |(name, schema): (String, Option<serde_json::Value>)| {
            let grammar = schema.map(|schema| grammars.json(&schema)).transpose();
            Ok((name, CallForm::Builtin(grammar?)))
        };
        let functions = settings.functions.iter().map(arguments);
        let builtin = settings
            .builtin
            .iter()
            .flat_map(|tool| tool.calls())
            .map(builtin);
        Ok(Self {
            answer: answer.transpose()?,
            tools: functions.chain(builtin).collect::<Result<_, Failure>>()?,
        })
    }
}

/// Steers one answer.
#[derive(Debug)]
pub struct HarmonyGuide {
    tokenizer: Arc<Tokenizer>,
    parser: Parser,
    /// Scratch.
    events: Vec<Event>,
    guidance: Guidance,
    /// Tokens of analysis so far.
    reasoned: usize,
    forms: Forms,
    /// Of the present text, and the token that ends it.
    text: Option<(Grammar, u32)>,
    /// What must be said next.
    forced: VecDeque<u32>,
    /// The channel of the last message, once there is one.
    last: Option<Channel>,
    /// The present message's header so far.
    header: Vec<u32>,
    /// Any text and the end of a message, but no end of the turn.
    running: Vec<u32>,
    /// Any text and the end of a call.
    code: Vec<u32>,
    /// What may follow in a header.
    mask: Vec<u32>,
}

impl HarmonyGuide {
    /// A guide for one answer.
    pub fn new(guidance: Guidance, forms: Forms, tokenizer: &Arc<Tokenizer>) -> Self {
        let words = tokenizer.vocab_size().div_ceil(32);
        let mut guide = Self {
            parser: Parser::new(Arc::clone(tokenizer)),
            tokenizer: Arc::clone(tokenizer),
            events: Vec::new(),
            guidance,
            reasoned: 0,
            forms,
            text: None,
            forced: VecDeque::new(),
            last: None,
            header: Vec::new(),
            running: Vec::new(),
            code: Vec::new(),
            mask: vec![0; words],
        };
        if guide.is_strict() {
            let mut texts = vec![0; words];
            let ids = 0..tokenizer.vocab_size() as u32;
            let ids = ids.filter(|id| tokenizer.text_bytes(*id).is_some());
            ids.for_each(|id| allow(&mut texts, id));
            guide.running.clone_from(&texts);
            allow(&mut guide.running, tokenizer.special().end);
            guide.code = texts;
            allow(&mut guide.code, tokenizer.special().call);
        }
        guide
    }

    /// Whether the turn must not end before something in particular was said.
    fn is_strict(&self) -> bool {
        self.forms.answer.is_some() || !self.guidance.must_call.is_empty()
    }

    fn is_exhausted(&self) -> bool {
        let budget = self.guidance.reasoning;
        budget.is_some_and(|budget| self.reasoned >= budget)
    }

    fn force(&mut self, ids: Vec<u32>) -> Choice<'_> {
        self.forced = ids.into();
        self.forced
            .front()
            .map_or(Choice::Any, |&id| Choice::Only(id))
    }

    /// The messages that may begin now.
    fn openings(&self) -> Vec<Opening<'_>> {
        let mut openings = Vec::new();
        if !self.is_exhausted() && self.last != Some(Channel::Analysis) {
            openings.push(Opening::Text(Channel::Analysis));
        }
        let must_call = &self.guidance.must_call;
        if !must_call.is_empty() {
            openings.extend(must_call.iter().filter_map(|name| self.call(name)));
            return openings;
        }
        openings.extend([Opening::Text(Channel::Final), Opening::Json(Channel::Final)]);
        if !self.forms.tools.is_empty() && self.last != Some(Channel::Commentary) {
            openings.push(Opening::Text(Channel::Commentary));
        }
        openings.extend(self.forms.tools.keys().filter_map(|name| self.call(name)));
        openings
    }

    /// How a call of that name begins.
    fn call<'a>(&self, name: &'a str) -> Option<Opening<'a>> {
        Some(match self.forms.tools.get(name)? {
            CallForm::Function(_) => Opening::Call(name),
            CallForm::Builtin(_) => Opening::Builtin(name),
        })
    }

    /// What may follow in the header.
    fn header_choice(&mut self) -> Choice<'_> {
        let mut begin = Vec::new();
        if self.last.is_some() {
            begin.push(self.tokenizer.special().start);
            begin.extend(self.tokenizer.encode("assistant"));
        }
        let mut next = Vec::new();
        for header in self.openings() {
            let ids = [begin.as_slice(), &opening(&self.tokenizer, header)].concat();
            if let Some(rest) = ids.strip_prefix(self.header.as_slice()) {
                next.extend(rest.first());
            }
        }
        next.dedup();
        match next.as_slice() {
            [] => Choice::Nothing,
            [id] => Choice::Only(*id),
            ids => {
                self.mask.fill(0);
                ids.iter().for_each(|&id| allow(&mut self.mask, id));
                Choice::Of(&self.mask)
            }
        }
    }

    /// A text begins.
    fn enter(&mut self, position: &Position) {
        let special = self.tokenizer.special();
        self.text = match position {
            Position::Text(Channel::Final) => self.forms.answer.clone().map(|g| (g, special.ret)),
            Position::Arguments { name } => {
                let form = self.forms.tools.get(name);
                let grammar = form.and_then(CallForm::grammar);
                grammar.map(|g| (g, special.call))
            }
            _ => None,
        };
    }
}

impl Guide for HarmonyGuide {
    fn choice(&mut self) -> Choice<'_> {
        if let Some(&id) = self.forced.front() {
            return Choice::Only(id);
        }
        let position = self.parser.position();
        match &position {
            Position::Text(Channel::Analysis)
                if self.is_exhausted() && !self.parser.is_pending() =>
            {
                let ids = match self.is_strict() {
                    // The next header has no choice but to go on.
                    true => vec![self.tokenizer.special().end],
                    false => force_final(&self.tokenizer, &position),
                };
                self.force(ids)
            }
            Position::Start if self.is_exhausted() && !self.is_strict() => {
                self.force(force_final(&self.tokenizer, &position))
            }
            Position::Start | Position::Header | Position::Between if self.is_strict() => {
                self.header_choice()
            }
            Position::Text(_) | Position::Arguments { .. } => match &mut self.text {
                Some((grammar, end)) => grammar.choice(*end),
                None if self.running.is_empty() => Choice::Any,
                None if matches!(position, Position::Text(_)) => Choice::Of(&self.running),
                None => Choice::Of(&self.code),
            },
            _ => Choice::Any,
        }
    }

    fn said(&mut self, id: u32) {
        if self.forced.front() == Some(&id) {
            self.forced.pop_front();
        }
        let before = self.parser.position();
        self.events.clear();
        self.parser.push_into(id, &mut self.events);
        let after = self.parser.position();
        let is_text = |p: &Position| matches!(p, Position::Text(_) | Position::Arguments { .. });
        match (is_text(&before), is_text(&after)) {
            (true, true) => {
                if let Some((grammar, _)) = &mut self.text {
                    grammar.said(id);
                }
            }
            (true, false) => {
                self.text = None;
                self.last = Some(match before {
                    Position::Text(channel) => channel,
                    _ => Channel::Commentary,
                });
                self.header.clear();
                if after == Position::Header {
                    self.header.push(id);
                }
            }
            (false, true) => {
                self.header.clear();
                self.enter(&after);
            }
            (false, false) => self.header.push(id),
        }
        if before == Position::Text(Channel::Analysis) && after == before {
            self.reasoned += 1;
        }
    }
}

fn allow(mask: &mut [u32], id: u32) {
    if let Some(word) = mask.get_mut(id as usize / 32) {
        *word |= 1 << (id % 32);
    }
}

#[cfg(test)]
#[path = "tests/guide.rs"]
mod tests;
