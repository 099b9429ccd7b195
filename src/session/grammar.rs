//! JSON Schema as what may be said next, by [llguidance]. A schema that it
//! cannot enforce whole is an error, never ignored.
//!
//! [llguidance]: https://github.com/guidance-ai/llguidance

use std::fmt;
use std::sync::{Arc, LazyLock};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::failure::Failure;
use crate::engine::Choice;
use crate::harmony::Tokenizer;

/// Between the parts of a JSON text: nothing, a space, or a new line with its
/// indentation. Without a bound, an answer could end in blanks for ever.
const BLANKS: &str = r"([ ]|\n[ ]{0,32})?";

/// Most states of a grammar's lexer: about 2 kB each.
const MOST_STATES: usize = 20_000;

/// Most objects of a schema, and most of its `patternProperties`: the library follows
/// references from one definition into the next, as deep as there are any, and
/// compares each pattern with each other.
const MOST_OBJECTS: usize = 4096;
const MOST_PATTERNS: usize = 32;

/// Stack of the thread that the library follows them on: room for all objects.
const STACK: usize = 64 << 20;

/// Makes grammars for one vocabulary.
pub struct Grammars(ParserFactory);

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// Takes a while for a large vocabulary.
    ///
    /// # Errors
    /// The library's.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, Failure> {
        let special = tokenizer.special();
        let size = tokenizer.vocab_size();
        let word = |id: u32| match tokenizer.text_bytes(id) {
            Some(bytes) => bytes.to_vec(),
            // No text has this byte, so no grammar allows the token.
            None => [
                &[TokTrie::SPECIAL_TOKEN_MARKER],
                format!("<{id}>").as_bytes(),
            ]
            .concat(),
        };
        let words: Vec<Vec<u8>> = (0..size as u32).map(word).collect();
        let info = TokRxInfo {
            vocab_size: size as u32,
            tok_eos: special.ret,
            tok_bos: None,
            tok_pad: None,
            tok_unk: None,
            tok_end_of_turn: None,
        };
        let trie = TokTrie::from(&info, &words);
        Self::of(&(Arc::new(ApproximateTokEnv::new(trie)) as TokEnv))
    }

    fn of(vocabulary: &TokEnv) -> Result<Self, Failure> {
        let broken = |e| Failure::BackendFailure(format!("no grammar for this vocabulary: {e}"));
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(broken)?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: MOST_STATES,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self(factory))
    }

    /// The texts that `schema` allows.
    ///
    /// # Errors
    /// It cannot be enforced; says which part.
    pub fn json(&self, schema: &Value) -> Result<Grammar, Failure> {
        let refused = |reason: String| {
            Failure::SchemaNotSupported(format!("the schema cannot be enforced: {reason}"))
        };
        bound(schema).map_err(refused)?;
        let mut schema = schema.clone();
        tighten(&mut schema);
        if let Value::Object(entries) = &mut schema {
            // The library takes its own settings from here; an application's
            // could switch the enforcing off.
            let settings = json!({"whitespace_pattern": BLANKS, "lenient": false});
            entries.insert("x-guidance".into(), settings);
        }
        let make = || {
            let grammar = TopLevelGrammar::from_json_schema(schema);
            Matcher::new(self.0.create_parser(grammar))
        };
        let broken = || Failure::BackendFailure("no thread to read the schema on".into());
        let matcher = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("schema".into());
            let thread = thread.stack_size(STACK).spawn_scoped(scope, make);
            thread.ok()?.join().ok()
        });
        let matcher = matcher.ok_or_else(broken)?;
        match matcher.get_error() {
            None => Ok(Grammar {
                matcher,
                end: self.0.tok_env().tok_trie().eos_token(),
                mask: None,
            }),
            Some(error) => Err(refused(error)),
        }
    }
}

/// Formats of which the library allows more than there is, and what is left:
/// a leap second at any time of the day, an address longer than mail has.
const TIGHTER: [(&str, &str); 4] = [
    ("date-time", "^[^:]*:[0-9]{2}:[0-5]"),
    ("time", "^[0-9]{2}:[0-9]{2}:[0-5]"),
    ("email", "^[^@]{1,64}@.{1,189}$"),
    ("hostname", "^.{1,253}$"),
];

/// Adds what the library's formats lack to a schema and those inside it.
fn tighten(schema: &mut Value) {
    let Value::Object(entries) = schema else {
        return;
    };
    for (key, value) in entries.iter_mut() {
        match (key.as_str(), value) {
            ("items" | "additionalItems" | "additionalProperties", one @ Value::Object(_)) => {
                tighten(one);
            }
            ("items" | "prefixItems" | "anyOf" | "oneOf" | "allOf", Value::Array(several)) => {
                several.iter_mut().for_each(tighten);
            }
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(named),
            ) => named.values_mut().for_each(tighten),
            _ => {}
        }
    }
    let format = entries.get("format").and_then(Value::as_str);
    let tighter = TIGHTER.iter().find(|(name, _)| Some(*name) == format);
    if let Some((_, pattern)) = tighter {
        let all = entries.entry("allOf").or_insert_with(|| json!([]));
        if let Value::Array(all) = all {
            all.push(json!({"pattern": pattern}));
        }
    }
}

/// Whether a schema is small enough to be read.
fn bound(schema: &Value) -> Result<(), String> {
    let (mut objects, mut patterns) = (0, 0);
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(entries) => {
                objects += 1;
                let of_keys = entries.get("patternProperties");
                patterns += of_keys.and_then(Value::as_object).map_or(0, |of| of.len());
                left.extend(entries.values());
            }
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
    if objects > MOST_OBJECTS {
        return Err(format!(
            "it has {objects} objects, at most {MOST_OBJECTS} are read"
        ));
    }
    if patterns > MOST_PATTERNS {
        return Err(format!(
            "it has {patterns} patternProperties, at most {MOST_PATTERNS} are read"
        ));
    }
    Ok(())
}

/// Whether `schema` can be enforced, before there is a vocabulary. May take seconds:
/// a caller that serves others must see to it that they need not wait.
///
/// # Errors
/// As [`Grammars::json`].
pub fn check(schema: &Value) -> Result<(), Failure> {
    static BYTES: LazyLock<Result<Grammars, Failure>> =
        LazyLock::new(|| Grammars::of(&ApproximateTokEnv::single_byte_env()));
    let grammars = BYTES.as_ref().map_err(Failure::clone)?;
    grammars.json(schema).map(drop)
}

/// Where in a text of its form a sequence is.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// The token that the library takes for the end.
    end: u32,
    /// What may follow, once known.
    mask: Option<SimpleVob>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

impl Grammar {
    /// What may follow; `end` where the text may end.
    pub fn choice(&mut self, end: u32) -> Choice<'_> {
        if self.mask.is_none() {
            if self.matcher.is_error() {
                return Choice::Nothing;
            }
            if self.matcher.is_stopped() {
                return Choice::Only(end);
            }
            let Ok(mut mask) = self.matcher.compute_mask() else {
                return Choice::Nothing;
            };
            if end != self.end && mask.is_allowed(self.end) {
                mask.disallow_token(self.end);
                mask.allow_token(end);
            }
            self.mask = Some(mask);
        }
        match &self.mask {
            Some(mask) if !mask.is_zero() => Choice::Of(mask.as_slice()),
            _ => Choice::Nothing,
        }
    }

    /// This token of the text was said.
    pub fn said(&mut self, id: u32) {
        self.mask = None;
        // An error stays, and is found by the next choice.
        let _ = self.matcher.consume_token(id);
    }
}
