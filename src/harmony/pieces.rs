//! The text tokens of a byte-level vocabulary, as bytes.

use super::tokenizer::{ControlToken, TokenizerError};

/// Bytes of every text token, by id.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where token `i` starts and ends in `bytes`; `None` for no text token.
    spans: Vec<Option<(u32, u32)>>,
    /// Bytes of the longest token.
    longest: usize,
}

impl Pieces {
    pub fn new(
        tokenizer: &tokenizers::Tokenizer,
        control: &[ControlToken],
    ) -> Result<Self, TokenizerError> {
        // Largest id there is room for; a table of more would be a file's mistake.
        const ID_LIMIT: u32 = 1 << 24;
        let vocabulary = tokenizer.get_vocab(false);
        let ids = vocabulary.values().copied();
        let last = ids
            .chain(control.iter().map(|token| token.id))
            .max()
            .unwrap_or(0);
        if last >= ID_LIMIT {
            return Err(TokenizerError::Invalid(format!(
                "token id {last} is too large"
            )));
        }
        let mut pieces = Self {
            bytes: Vec::with_capacity(vocabulary.len() * 8),
            spans: vec![None; last as usize + 1],
            longest: 1,
        };
        let letters = ByteLetters::new();
        let mut text = Vec::new();
        for (token, id) in &vocabulary {
            text.clear();
            if token.chars().all(|letter| letters.push(letter, &mut text)) {
                pieces.longest = pieces.longest.max(text.len());
                let start = pieces.bytes.len() as u32;
                pieces.bytes.extend_from_slice(&text);
                pieces.spans[*id as usize] = Some((start, pieces.bytes.len() as u32));
            }
        }
        for token in control {
            pieces.spans[token.id as usize] = None;
        }
        Ok(pieces)
    }

    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = (*self.spans.get(id as usize)?)?;
        self.bytes.get(start as usize..end as usize)
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn byte_ids(&self) -> Result<[u32; 256], TokenizerError> {
        let mut ids = [None; 256];
        for id in 0..self.spans.len() as u32 {
            if let Some([byte]) = self.get(id) {
                ids[usize::from(*byte)] = Some(id);
            }
        }
        let mut complete = [0; 256];
        for (byte, id) in ids.into_iter().enumerate() {
            complete[byte] = id.ok_or_else(|| {
                TokenizerError::NotByteLevel(format!("no token for byte 0x{byte:02x}"))
            })?;
        }
        Ok(complete)
    }
}

/// The letters that stand for bytes in a byte-level vocabulary: printable
/// Latin-1 for itself, the other bytes in order from U+0100 on.
pub(super) struct ByteLetters(Vec<Option<u8>>);

impl ByteLetters {
    pub fn new() -> Self {
        let mut letters = vec![None; 0x200];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let letter = if printable {
                usize::from(byte)
            } else {
                next += 1;
                next - 1
            };
            letters[letter] = Some(byte);
        }
        Self(letters)
    }

    /// Appends the byte of `letter`; false where it stands for none.
    pub fn push(&self, letter: char, into: &mut Vec<u8>) -> bool {
        match self.0.get(letter as usize).copied().flatten() {
            Some(byte) => {
                into.push(byte);
                true
            }
            None => false,
        }
    }
}
