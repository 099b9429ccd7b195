//! A backend that answers from a script: the bus, the queue and the clients
//! work without weights and without ONNX Runtime (`gptossd --simulate SCRIPT`).
//!
//! The script is TOML, or JSON where its name ends in `.json`:
//!
//! ```toml
//! model = "simulated"           # the name it is installed under
//! context-window = 8192
//! prefill-chunk = 64
//! sequences = 1                 # requests computed together
//! load-delay-ms = 0             # how long loading takes
//! load-failure = "no-runtime"   # or not-enough-memory, self-test-failed: loading fails
//! on-device = false             # as if it computed on a device that sleep takes away
//! fails-after-sleep = false     # as if the provider computed nonsense after it
//!
//! [[answers]]                   # the first that matches the last message wins
//! when = "weather"              # a part of it; without `when` it always matches
//! text = "<|channel|>final<|message|>You asked: {prompt}<|return|>"
//! tokens = [72, 105]            # instead of `text`
//! repeat = 1                    # the text, without its end, so many times
//! token-delay-ms = 0            # before each token
//! prefill-delay-ms = 0          # before each chunk of the prompt
//! fail-after = 3                # after so many tokens the backend fails …
//! failure = "error"             # … so; or panic
//! ```
//!
//! Control tokens in `text` are written by name; `{prompt}` stands for the last
//! message. An answer ends with `<|return|>`, which is added where no end is.
//! Its vocabulary is [`tokenizer_json`]: one token a byte.

mod vocabulary;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::engine::{
    Backend, BackendError, BackendInfo, CacheUse, Cancel, Logits, SequenceId, Slice, Wanted,
};

use super::memory;
pub(crate) use vocabulary::encode;
use vocabulary::special;
pub use vocabulary::{VOCAB_SIZE, tokenizer_json};

/// Tokens of a block, for the numbers.
const BLOCK: usize = 64;

/// Why a script cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// Not readable.
    #[error("cannot read the script {path}: {source}")]
    Read {
        /// Its path.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not a script.
    #[error("the script {path} is not valid: {reason}")]
    Invalid {
        /// Its path.
        path: String,
        /// What is wrong, with its place.
        reason: String,
    },
}

/// Why a simulated load fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadFailure {
    /// As if there were no library.
    NoRuntime,
    /// As if there were too little memory.
    NotEnoughMemory,
    /// As if the provider computed nonsense.
    SelfTestFailed,
}

/// What the simulator does; the module's documentation has the format.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Script {
    /// Name of the model.
    pub model: String,
    /// Positions of its KV cache.
    pub context_window: usize,
    /// Tokens of a sequence that a call takes.
    pub prefill_chunk: usize,
    /// Sequences that a call takes.
    pub sequences: usize,
    /// Milliseconds a load takes.
    pub load_delay_ms: u64,
    /// How loading fails, if it does.
    pub load_failure: Option<LoadFailure>,
    /// Whether it stands for a device whose memory a sleeping machine loses.
    pub on_device: bool,
    /// Whether the provider fails its self-test after the machine slept.
    pub fails_after_sleep: bool,
    /// What it answers; echoes the prompt where nothing matches.
    pub answers: Vec<Answer>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            model: "simulated".into(),
            context_window: 8192,
            prefill_chunk: 64,
            sequences: 1,
            load_delay_ms: 0,
            load_failure: None,
            on_device: false,
            fails_after_sleep: false,
            answers: Vec::new(),
        }
    }
}

/// One answer of a script.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Answer {
    /// Part of the last message that selects it.
    pub when: Option<String>,
    /// What it says, control tokens by name.
    pub text: String,
    /// What it says, as ids; instead of `text`.
    pub tokens: Vec<u32>,
    /// How many times the text comes.
    pub repeat: usize,
    /// Milliseconds before each token.
    pub token_delay_ms: u64,
    /// Milliseconds before each chunk of the prompt.
    pub prefill_delay_ms: u64,
    /// Tokens after which it fails.
    pub fail_after: Option<usize>,
    /// How it fails.
    pub failure: Failure,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            when: None,
            text: "<|channel|>analysis<|message|>They said: {prompt}<|end|>\
                   <|start|>assistant<|channel|>final<|message|>You said: {prompt}"
                .into(),
            tokens: Vec::new(),
            repeat: 1,
            token_delay_ms: 0,
            prefill_delay_ms: 0,
            fail_after: None,
            failure: Failure::Error,
        }
    }
}

/// How a scripted failure looks to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// The call returns an error.
    Error,
    /// The call panics.
    Panic,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// Not readable, or not a script.
    pub fn from_file(path: &Path) -> Result<Script, ScriptError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ScriptError::Read {
            path: name.clone(),
            source,
        })?;
        let json = path.extension().is_some_and(|e| e == "json");
        let script = match json {
            true => serde_json::from_str(&text).map_err(|e| e.to_string()),
            false => toml::from_str(&text).map_err(|e| e.to_string()),
        };
        let invalid = |reason| ScriptError::Invalid {
            path: name.clone(),
            reason,
        };
        let script: Script = script.map_err(invalid)?;
        script.check().map_err(|reason| ScriptError::Invalid {
            path: name.clone(),
            reason,
        })?;
        Ok(script)
    }

    fn check(&self) -> Result<(), String> {
        if self.context_window < 2 || self.prefill_chunk == 0 || self.sequences == 0 {
            return Err(
                "context-window must be at least 2, prefill-chunk and sequences at least 1".into(),
            );
        }
        let outside = |id: &&u32| **id as usize >= VOCAB_SIZE;
        for answer in &self.answers {
            if let Some(id) = answer.tokens.iter().find(outside) {
                return Err(format!("token {id} is outside the vocabulary"));
            }
        }
        Ok(())
    }
}

/// Where the answer begins in a sequence, and the last message before it.
#[derive(Debug, Default)]
struct Turn {
    prompt: String,
    /// Index of the answer's first token.
    begin: usize,
}

/// Finds the last message that is not the assistant's; what follows its end
/// and the assistant's header is the answer so far.
fn turn(tokens: &[u32]) -> Option<Turn> {
    let assistant = [&[special("<|start|>")], encode("assistant").as_slice()].concat();
    let start = |i: &usize| {
        let rest = tokens.get(*i..).unwrap_or_default();
        // The header being generated may not be complete.
        let assistants = || rest.starts_with(&assistant) || assistant.starts_with(rest);
        rest.first() == Some(&special("<|start|>")) && !assistants()
    };
    let last = (0..tokens.len()).rev().find(start)?;
    let message = tokens.get(last..)?;
    let position = |id: u32| message.iter().position(|t| *t == id);
    let (body, end) = (
        position(special("<|message|>"))?,
        position(special("<|end|>"))?,
    );
    let bytes = message.get(body + 1..end)?.iter();
    let bytes: Vec<u8> = bytes.filter_map(|t| u8::try_from(*t).ok()).collect();
    let after = message.get(end + 1..)?;
    let answer = after.strip_prefix(assistant.as_slice())?;
    Some(Turn {
        prompt: String::from_utf8_lossy(&bytes).into_owned(),
        begin: tokens.len() - answer.len(),
    })
}

#[derive(Debug, Default)]
struct Interrupt {
    cancelled: Mutex<bool>,
    wake: Condvar,
}

impl Interrupt {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `delay`, or less when cancelled.
    fn sleep(&self, delay: Duration) -> Result<(), BackendError> {
        let until = Instant::now() + delay;
        let mut cancelled = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if *cancelled {
                return Err(BackendError::Cancelled);
            }
            if left.is_zero() {
                return Ok(());
            }
            let woken = self.wake.wait_timeout(cancelled, left);
            cancelled = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Cancel for Interrupt {
    fn cancel(&self) {
        *self.lock() = true;
        self.wake.notify_all();
    }

    fn reset(&self) {
        *self.lock() = false;
    }
}

/// The scripted backend.
#[derive(Debug)]
pub struct SimulatedBackend {
    info: BackendInfo,
    script: Script,
    /// What is said where no answer matches.
    echo: Answer,
    /// By number.
    sequences: BTreeMap<u32, Dialogue>,
    next: u32,
    logits: Vec<f32>,
    interrupt: Arc<Interrupt>,
}

/// One sequence.
#[derive(Debug, Default)]
struct Dialogue {
    tokens: Vec<u32>,
    /// The turn the sequence is in.
    turn: Option<Turn>,
    /// The present answer.
    said: Option<Said>,
}

impl SimulatedBackend {
    /// A backend that follows `script`.
    pub fn new(script: Script) -> Self {
        Self {
            info: BackendInfo {
                model: script.model.clone(),
                vocab_size: VOCAB_SIZE,
                context_window: script.context_window,
                prefill_chunk: script.prefill_chunk,
                sequences: script.sequences,
                provider: "simulated".into(),
            },
            script,
            echo: Answer::default(),
            sequences: BTreeMap::new(),
            next: 0,
            logits: Vec::new(),
            interrupt: Arc::default(),
        }
    }

    /// The same, from a file.
    ///
    /// # Errors
    /// The file's.
    pub fn from_script(path: &Path) -> Result<Self, ScriptError> {
        Script::from_file(path).map(Self::new)
    }
}

/// The answer to `prompt`: the first that matches.
fn select<'a>(answers: &'a [Answer], echo: &'a Answer, prompt: &str) -> &'a Answer {
    let matches = |a: &&Answer| a.when.as_ref().is_none_or(|w| prompt.contains(w.as_str()));
    answers.iter().find(matches).unwrap_or(echo)
}

/// An answer's tokens, made for one prompt.
#[derive(Debug)]
struct Said {
    prompt: String,
    tokens: Vec<u32>,
    repeat: usize,
    end: u32,
}

impl Said {
    fn new(answer: &Answer, prompt: &str) -> Self {
        let (mut tokens, repeat) = match answer.tokens.is_empty() {
            true => (
                encode(&answer.text.replace("{prompt}", prompt)),
                answer.repeat,
            ),
            false => (answer.tokens.clone(), 1),
        };
        let ends = ["<|return|>", "<|call|>", "<|endoftext|>"].map(special);
        let end = tokens.last().copied().filter(|last| ends.contains(last));
        if end.is_some() {
            tokens.pop();
        }
        Self {
            prompt: prompt.to_owned(),
            tokens,
            repeat,
            end: end.unwrap_or(special("<|return|>")),
        }
    }

    /// The token at `index`; the end for ever after.
    fn token(&self, index: usize) -> u32 {
        let round = index.checked_div(self.tokens.len()).unwrap_or(usize::MAX);
        match round < self.repeat {
            // `round` is a number of whole texts, so the text is not empty.
            true => self.tokens.get(index % self.tokens.len()).copied(),
            false => None,
        }
        .unwrap_or(self.end)
    }
}

impl Backend for SimulatedBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn open(&mut self) -> Option<SequenceId> {
        Some(self.insert(Dialogue::default()))
    }

    fn fork(&mut self, sequence: SequenceId, position: usize) -> Option<SequenceId> {
        let mut tokens = self.sequences.get(&sequence.0)?.tokens.clone();
        tokens.truncate(position);
        Some(self.insert(Dialogue {
            tokens,
            ..Dialogue::default()
        }))
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence.0);
    }

    fn length(&self, sequence: SequenceId) -> usize {
        let dialogue = self.sequences.get(&sequence.0);
        dialogue.map_or(0, |dialogue| dialogue.tokens.len())
    }

    fn rewind(&mut self, sequence: SequenceId, position: usize) {
        if let Some(dialogue) = self.sequences.get_mut(&sequence.0) {
            dialogue.tokens.truncate(position);
            dialogue.turn = None;
        }
    }

    fn mark(&mut self, _sequence: SequenceId, _position: usize) {}

    fn forward(&mut self, slices: &[Slice<'_>]) -> Result<Logits<'_>, BackendError> {
        let window = self.info.context_window;
        for slice in slices {
            let total = self.length(slice.sequence) + slice.tokens.len();
            if total > window {
                return Err(BackendError::ContextExceeded {
                    wanted: total,
                    window,
                });
            }
            if let Some(&id) = slice.tokens.iter().find(|id| **id as usize >= VOCAB_SIZE) {
                return Err(BackendError::InvalidToken(id));
            }
        }
        for slice in slices {
            if let Some(dialogue) = self.sequences.get_mut(&slice.sequence.0) {
                dialogue.append(slice.tokens);
            }
        }
        if let Err(error) = self.compute(slices) {
            for slice in slices {
                let before = self.length(slice.sequence) - slice.tokens.len();
                self.rewind(slice.sequence, before);
            }
            return Err(error);
        }
        Ok(Logits {
            values: &self.logits,
            vocab_size: VOCAB_SIZE,
        })
    }

    fn cache_use(&self) -> CacheUse {
        let blocks = |dialogue: &Dialogue| dialogue.tokens.len().div_ceil(BLOCK);
        CacheUse {
            used: self.sequences.values().map(blocks).sum(),
            total: self.info.sequences * self.info.context_window.div_ceil(BLOCK),
        }
    }

    fn trim(&mut self) {
        memory::trim_heap();
    }

    fn cancel_handle(&self) -> Arc<dyn Cancel> {
        Arc::clone(&self.interrupt) as Arc<dyn Cancel>
    }
}

impl Dialogue {
    fn append(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        // A single token other than `<|start|>` goes on with the turn.
        let goes_on = tokens.len() == 1 && tokens.first() != Some(&special("<|start|>"));
        if !goes_on || self.turn.is_none() {
            self.turn = turn(&self.tokens);
        }
    }

    /// The last message, and how many tokens of its answer there are.
    fn place(&self) -> (&str, usize) {
        match &self.turn {
            Some(turn) => (turn.prompt.as_str(), self.tokens.len() - turn.begin),
            None => ("", 0),
        }
    }
}

impl SimulatedBackend {
    fn insert(&mut self, dialogue: Dialogue) -> SequenceId {
        let id = self.next;
        self.next += 1;
        self.sequences.insert(id, dialogue);
        SequenceId(id)
    }

    /// Fills the logits: in each row the scripted token far above the rest. The
    /// slices take as long as the slowest of them.
    fn compute(&mut self, slices: &[Slice<'_>]) -> Result<(), BackendError> {
        let delay = slices.iter().filter_map(|slice| {
            let (prompt, answered) = self.sequences.get(&slice.sequence.0)?.place();
            let answer = select(&self.script.answers, &self.echo, prompt);
            Some(match answered {
                0 => answer.prefill_delay_ms,
                _ => answer.token_delay_ms,
            })
        });
        let delay = Duration::from_millis(delay.max().unwrap_or(0));
        self.interrupt.sleep(delay)?;
        self.logits.clear();
        for slice in slices {
            let Some(dialogue) = self.sequences.get_mut(&slice.sequence.0) else {
                continue;
            };
            let fed = slice.tokens.len();
            let last = [fed - 1];
            let wanted = match slice.wanted {
                Wanted::None => &[],
                Wanted::Last => &last[..],
                Wanted::At(positions) => positions,
            };
            for &position in wanted {
                let behind = fed - 1 - position;
                let next = next_token(&self.script.answers, &self.echo, dialogue, behind)?;
                let start = self.logits.len();
                self.logits.resize(start + VOCAB_SIZE, 0.0);
                // Far enough that no temperature up to 2 picks another one. The
                // script's ids are checked when it is read.
                self.logits[start + next as usize] = 60.0;
            }
        }
        Ok(())
    }
}

/// What follows in a sequence, its last `behind` tokens left aside, if the
/// script lets it.
fn next_token(
    answers: &[Answer],
    echo: &Answer,
    dialogue: &mut Dialogue,
    behind: usize,
) -> Result<u32, BackendError> {
    let said = dialogue.said.take();
    let (prompt, answered) = dialogue.place();
    let answered = answered.saturating_sub(behind);
    let answer = select(answers, echo, prompt);
    if answer.fail_after.is_some_and(|after| answered >= after) {
        match answer.failure {
            Failure::Error => return Err(BackendError::Provider("the script says so".into())),
            // What the script is for: a backend that breaks its promises.
            Failure::Panic => panic!("the script says so"),
        }
    }
    let said = match said {
        Some(said) if said.prompt == prompt => said,
        _ => Said::new(answer, prompt),
    };
    let next = said.token(answered);
    dialogue.said = Some(said);
    Ok(next)
}

#[cfg(test)]
#[path = "tests/simulated.rs"]
mod tests;
