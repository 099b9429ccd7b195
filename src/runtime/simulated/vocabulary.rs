//! The simulator's vocabulary: one token a byte, and harmony's control tokens.

/// Control tokens of the simulator's vocabulary; the first has id 256.
pub(super) const SPECIALS: [&str; 21] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|reserved_200000|>",
    "<|reserved_200001|>",
    "<|return|>",
    "<|constrain|>",
    "<|reserved_200004|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|reserved_200009|>",
    "<|reserved_200010|>",
    "<|reserved_200011|>",
    "<|call|>",
    "<|reserved_200013|>",
    "<|reserved_200014|>",
    "<|reserved_200015|>",
    "<|reserved_200016|>",
    "<|reserved_200017|>",
    "<|endofprompt|>",
];

/// Entries of the simulator's vocabulary.
pub const VOCAB_SIZE: usize = 256 + SPECIALS.len();

/// The simulator's vocabulary as a `tokenizer.json`: the 256 bytes are tokens
/// 0 to 255, harmony's control tokens follow under other ids than the
/// published ones.
pub fn tokenizer_json() -> Vec<u8> {
    let vocab: serde_json::Map<_, _> = (0..=255u8)
        .map(|byte| (byte_symbol(byte).to_string(), byte.into()))
        .collect();
    let added: Vec<_> = SPECIALS
        .iter()
        .zip(256u32..)
        .map(|(content, id)| {
            serde_json::json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = |add_prefix_space: bool| {
        serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": add_prefix_space,
            "trim_offsets": true, "use_regex": false,
        })
    };
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level(false), "post_processor": byte_level(false),
        "decoder": byte_level(false),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": [],
        },
    });
    tokenizer.to_string().into_bytes()
}

/// The printable character byte-level BPE writes for a byte: itself where it
/// is printable Latin-1, else the next free character from U+0100 on.
fn byte_symbol(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    // At most 68 bytes are not printable, so this is below U+0144.
    char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Tokens of `text` in the simulator's vocabulary, control tokens by name.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(byte) = rest.bytes().next() {
        let named = SPECIALS.iter().zip(256u32..);
        let special = named.clone().find(|(name, _)| rest.starts_with(**name));
        match special {
            Some((name, id)) => {
                tokens.push(id);
                rest = rest.get(name.len()..).unwrap_or_default();
            }
            None => {
                // A whole character at a time, so that `rest` stays text.
                let width = rest.chars().next().map_or(1, char::len_utf8);
                let (head, tail) = rest.split_at(width);
                debug_assert!(head.as_bytes().first() == Some(&byte));
                tokens.extend(head.bytes().map(u32::from));
                rest = tail;
            }
        }
    }
    tokens
}

pub(super) fn special(name: &str) -> u32 {
    let index = SPECIALS.iter().position(|s| *s == name);
    // Called with names of the table only.
    256 + index.unwrap_or(0) as u32
}
