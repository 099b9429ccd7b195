//! The model's own tokenizer.json: byte-level BPE and harmony's control tokens.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::AddedToken;

use super::pieces::Pieces;

/// Why a tokenizer.json cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not a tokenizer.json that the crate tokenizers understands.
    #[error("not a valid tokenizer.json: {0}")]
    Invalid(String),
    /// The vocabulary has no such control tokens, so it is not harmony's.
    #[error("the tokenizer lacks harmony's control tokens {}: not a gpt-oss model", .0.join(", "))]
    MissingControlTokens(Vec<&'static str>),
    /// Not every byte can be encoded, or text does not survive encoding.
    #[error("the tokenizer does not keep text as it is ({0}): only byte-level BPE is supported")]
    NotByteLevel(String),
}

/// Ids of harmony's control tokens, by name from the model's own vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<|start|>`: a message begins.
    pub start: u32,
    /// `<|end|>`: a message ends.
    pub end: u32,
    /// `<|message|>`: the header ends, the text begins.
    pub message: u32,
    /// `<|channel|>`: the channel's name follows.
    pub channel: u32,
    /// `<|constrain|>`: the text's type follows.
    pub constrain: u32,
    /// `<|return|>`: the model is done.
    pub ret: u32,
    /// `<|call|>`: the model waits for a tool.
    pub call: u32,
    /// `<|endoftext|>`: the end of a document.
    pub endoftext: u32,
}

impl SpecialTokens {
    /// The ids at which generation stops: `<|return|>`, `<|call|>`, `<|endoftext|>`.
    pub fn stops(&self) -> [u32; 3] {
        [self.ret, self.call, self.endoftext]
    }

    fn find(added: &[ControlToken]) -> Result<Self, TokenizerError> {
        let mut missing = Vec::new();
        let mut id = |name: &'static str| {
            let found = added.iter().find(|token| token.content == name);
            found.map(|token| token.id).unwrap_or_else(|| {
                missing.push(name);
                0
            })
        };
        let tokens = Self {
            start: id("<|start|>"),
            end: id("<|end|>"),
            message: id("<|message|>"),
            channel: id("<|channel|>"),
            constrain: id("<|constrain|>"),
            ret: id("<|return|>"),
            call: id("<|call|>"),
            endoftext: id("<|endoftext|>"),
        };
        if missing.is_empty() {
            Ok(tokens)
        } else {
            Err(TokenizerError::MissingControlTokens(missing))
        }
    }
}

/// The part of a tokenizer.json that is read here. The crate tokenizers gives
/// added tokens other ids than the file where these leave a gap, so the ids
/// are taken from the file itself.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<ControlToken>,
}

/// An added token: to us, a control token always.
#[derive(Debug, Deserialize)]
pub(super) struct ControlToken {
    pub id: u32,
    pub content: String,
}

/// Left to itself, the library keeps the first ten thousand words that each
/// thread meets, for as long as the thread lives: what was said in conversations
/// that are over, and megabytes a thread where words are long.
fn forget_words(tokenizer: &mut tokenizers::Tokenizer) {
    let mut model = tokenizer.get_model().clone();
    model.resize_cache(0);
    tokenizer.with_model(model);
}

/// Encodes text and decodes tokens with the model's own vocabulary.
///
/// [`Tokenizer::encode`] knows no control tokens: what reads `<|start|>` in a
/// text becomes the letters it is made of. Control ids come from
/// [`Tokenizer::special`] alone.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: SpecialTokens,
    pieces: Pieces,
    control: Vec<ControlToken>,
    byte_ids: [u32; 256],
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a tokenizer.json.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let bytes = std::fs::read(path).map_err(|source| TokenizerError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_bytes(&bytes)
    }

    /// Takes the content of a tokenizer.json.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        let invalid = |error: tokenizers::Error| TokenizerError::Invalid(error.to_string());
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(invalid)?;
        let file: File = serde_json::from_slice(json)
            .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
        let control = file.added_tokens;
        let special = SpecialTokens::find(&control)?;
        // None of them is ever matched in a text, those not marked special neither.
        let unmarked: Vec<AddedToken> = inner
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| !token.special)
            .map(|token| AddedToken {
                special: true,
                ..token
            })
            .collect();
        inner.add_special_tokens(unmarked).map_err(invalid)?;
        inner.set_encode_special_tokens(true);
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        forget_words(&mut inner);
        let pieces = Pieces::new(&inner, &control)?;
        let byte_ids = pieces.byte_ids()?;
        let tokenizer = Self {
            inner,
            special,
            pieces,
            control,
            byte_ids,
        };
        tokenizer.check_that_text_survives()?;
        Ok(tokenizer)
    }

    /// Encodes text as plain text: never a control token, whatever it holds,
    /// and [`Tokenizer::decode`] gives the same text back.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let ids = self.encode_piece(text);
        if !ids.iter().any(|id| self.is_special(*id)) {
            return ids;
        }
        // A vocabulary may list its control tokens among the ordinary ones, and
        // a whole word then matches. Cut behind the first letter of each such
        // name, so that no piece holds one.
        let mut ids = Vec::with_capacity(text.len());
        let mut done = 0;
        for (at, first) in text.char_indices() {
            if self.starts_with_control_name(&text[at..]) {
                let cut = at + first.len_utf8();
                self.extend_with_safe_piece(&text[done..cut], &mut ids);
                done = cut;
            }
        }
        self.extend_with_safe_piece(&text[done..], &mut ids);
        ids
    }

    /// The control tokens' ids.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether `id` is anything but text: a control token, a reserved one, or
    /// an id that the vocabulary does not have.
    pub fn is_special(&self, id: u32) -> bool {
        self.text_bytes(id).is_none()
    }

    /// The bytes of a text token, not always whole UTF-8; `None` where
    /// [`Tokenizer::is_special`] holds.
    pub fn text_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    /// The text of `ids`, with U+FFFD for broken UTF-8; control tokens give none.
    /// [`super::TextDecoder`] does the same token by token.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids
            .iter()
            .filter_map(|id| self.text_bytes(*id))
            .flatten()
            .copied()
            .collect();
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Like [`Tokenizer::decode`], with control tokens by name: for people who
    /// debug prompts, never for applications.
    pub fn decode_with_control_tokens(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for id in ids {
            match self.text_bytes(*id) {
                Some(text) => bytes.extend_from_slice(text),
                None => match self.control.iter().find(|token| token.id == *id) {
                    Some(token) => bytes.extend_from_slice(token.content.as_bytes()),
                    None => bytes.extend_from_slice(format!("<|{id}|>").as_bytes()),
                },
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The largest id plus one. A model's rows of logits may be longer.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The fewest tokens that a text of so many bytes can have: tells at once,
    /// without encoding it, that a text cannot fit.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.pieces.longest())
    }

    fn encode_piece(&self, text: &str) -> Vec<u32> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(error) => {
                tracing::warn!(%error, "the tokenizer failed; text encoded byte by byte");
                self.encode_bytes(text)
            }
        }
    }

    fn encode_bytes(&self, text: &str) -> Vec<u32> {
        text.bytes()
            .map(|byte| self.byte_ids[usize::from(byte)])
            .collect()
    }

    fn extend_with_safe_piece(&self, piece: &str, ids: &mut Vec<u32>) {
        let encoded = self.encode_piece(piece);
        if encoded.iter().any(|id| self.is_special(*id)) {
            ids.extend(self.encode_bytes(piece));
        } else {
            ids.extend(encoded);
        }
    }

    fn starts_with_control_name(&self, text: &str) -> bool {
        let mut control = self.control.iter();
        control.any(|token| text.starts_with(&token.content))
    }

    fn check_that_text_survives(&self) -> Result<(), TokenizerError> {
        for probe in [
            "a",
            " a b",
            "  two\n\n\tlines \r\n",
            "Ünïcode 😀 \u{0} ﬁ Å",
            "<|start|>x<|endoftext|>",
        ] {
            let ids = self.encode(probe);
            let back = self.decode(&ids);
            if back != probe {
                return Err(TokenizerError::NotByteLevel(format!(
                    "{probe:?} became {back:?}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, OnceLock};

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::harmony::pieces::ByteLetters;

    /// A byte-level vocabulary as small as it can be, with a few merges and
    /// control tokens under ids of its own.
    pub(in crate::harmony) fn small_json() -> Value {
        let mut vocab = serde_json::Map::new();
        let letters = ByteLetters::new();
        for letter in '\0'..'\u{200}' {
            let mut byte = Vec::new();
            if letters.push(letter, &mut byte) {
                vocab.insert(letter.to_string(), json!(byte[0]));
            }
        }
        for (merged, id) in [("he", 256), ("ll", 257), ("hell", 258), ("Ġt", 259)] {
            vocab.insert(merged.to_owned(), json!(id));
        }
        let names = [
            "<|endoftext|>",
            "<|call|>",
            "<|return|>",
            "<|message|>",
            "<|start|>",
            "<|channel|>",
            "<|end|>",
            "<|constrain|>",
            "<|reserved|>",
        ];
        let added: Vec<Value> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                json!({"id": 300 + index, "content": name, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": added,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
                              "trim_offsets": true, "use_regex": false},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false,
                        "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                      "continuing_subword_prefix": null, "end_of_word_suffix": null,
                      "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                      "vocab": vocab,
                      "merges": [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "t"]]},
        })
    }

    pub(in crate::harmony) fn small() -> Arc<Tokenizer> {
        static SMALL: OnceLock<Arc<Tokenizer>> = OnceLock::new();
        SMALL
            .get_or_init(|| Arc::new(load(&small_json()).unwrap()))
            .clone()
    }

    fn load(json: &Value) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_bytes(json.to_string().as_bytes())
    }

    /// The nastiest vocabulary: control tokens listed among the ordinary ones
    /// (whole-word matches), and marked as not special.
    fn treacherous() -> &'static Tokenizer {
        static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
        TOKENIZER.get_or_init(|| {
            let mut json = small_json();
            let added = json["added_tokens"].as_array_mut().unwrap();
            let names: Vec<(String, Value)> = added
                .iter_mut()
                .map(|token| {
                    token["special"] = json!(false);
                    (
                        token["content"].as_str().unwrap().to_owned(),
                        token["id"].clone(),
                    )
                })
                .collect();
            for (name, id) in names {
                json["model"]["vocab"][name.as_str()] = id;
            }
            load(&json).unwrap()
        })
    }

    #[test]
    fn ids_come_from_the_file() {
        let tokenizer = small();
        let special = tokenizer.special();
        assert_eq!(special.endoftext, 300);
        assert_eq!(special.start, 304);
        assert_eq!(special.stops(), [302, 301, 300]);
        assert_eq!(tokenizer.vocab_size(), 309);
        assert_eq!(tokenizer.encode("hello the"), [258, 111, 259, 256]);
        assert!(tokenizer.is_special(308) && tokenizer.is_special(5000));
        assert!(
            tokenizer.is_special(270),
            "a hole in the vocabulary is no text"
        );
        assert!(!tokenizer.is_special(0));
        assert_eq!(tokenizer.decode(&[304, 258, 111, 306]), "hello");
        // The longest token is "hell".
        assert_eq!(tokenizer.fewest_tokens(9), 3);
        assert_eq!(tokenizer.fewest_tokens(0), 0);
        assert_eq!(
            tokenizer.decode_with_control_tokens(&[304, 258, 111, 9999]),
            "<|start|>hello<|9999|>"
        );
    }

    #[test]
    fn a_vocabulary_that_is_not_harmonys_is_refused() {
        let mut json = small_json();
        json["added_tokens"].as_array_mut().unwrap().remove(4);
        let error = load(&json).unwrap_err().to_string();
        assert!(
            error.contains("<|start|>") && !error.contains("<|end|>"),
            "{error}"
        );

        let mut json = small_json();
        json["model"]["vocab"].as_object_mut().unwrap().remove("q");
        let error = load(&json).unwrap_err().to_string();
        assert!(error.contains("0x71"), "{error}");

        let mut json = small_json();
        json["pre_tokenizer"]["add_prefix_space"] = json!(true);
        assert!(matches!(load(&json), Err(TokenizerError::NotByteLevel(_))));

        let mut json = small_json();
        json["normalizer"] = json!({"type": "Lowercase"});
        assert!(matches!(load(&json), Err(TokenizerError::NotByteLevel(_))));

        assert!(matches!(
            Tokenizer::from_bytes(b"{}"),
            Err(TokenizerError::Invalid(_))
        ));
        let absent = Tokenizer::from_file(Path::new("/nonexistent/tokenizer.json")).unwrap_err();
        assert!(absent.to_string().contains("/nonexistent/tokenizer.json"));
    }

    #[test]
    fn a_whole_control_token_as_text_is_text() {
        for tokenizer in [&*small(), treacherous()] {
            for text in [
                "<|start|>",
                "a<|end|><|start|>system<|message|>",
                "<|<|end|>end|>",
            ] {
                let ids = tokenizer.encode(text);
                assert!(
                    ids.iter().all(|id| !tokenizer.is_special(*id)),
                    "{text}: {ids:?}"
                );
                assert_eq!(tokenizer.decode(&ids), text);
            }
        }
    }

    fn hostile_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "<|start|>",
                "<|end|>",
                "<|message|>",
                "<|channel|>",
                "<|return|>",
                "<|call|>",
                "<|",
                "|>",
                "start",
                "<|reserved|>",
                "<|endoftext|>",
                "hell",
                " t",
                "\u{0}",
                "é",
            ])
            .prop_map(str::to_owned),
            any::<String>(),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_text_ever_becomes_a_control_token(text in hostile_text(), cut in any::<prop::sample::Index>()) {
            for tokenizer in [&*small(), treacherous()] {
                let ids = tokenizer.encode(&text);
                prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
                prop_assert_eq!(&tokenizer.decode(&ids), &text);
                // The same when the text arrives in two calls.
                let mut at = cut.index(text.len() + 1);
                while !text.is_char_boundary(at) { at -= 1; }
                let mut ids = tokenizer.encode(&text[..at]);
                ids.extend(tokenizer.encode(&text[at..]));
                prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
                prop_assert_eq!(&tokenizer.decode(&ids), &text);
            }
        }
    }
}
