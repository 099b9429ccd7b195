//! The published vocabulary without its 27 MB file: rebuilt from the ranks that
//! crate tiktoken-rs carries, in both of the forms the two sides read.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use gptoss::harmony::Tokenizer;
use serde_json::{Value, json};

/// Ordinary tokens of o200k.
const RANKS: u32 = 199_998;

/// Names of the published control tokens, from id 199998 on. Those missing
/// from the list are called `<|reserved_ID|>`.
const CONTROL: [(u32, &str); 10] = [
    (199_998, "<|startoftext|>"),
    (199_999, "<|endoftext|>"),
    (200_002, "<|return|>"),
    (200_003, "<|constrain|>"),
    (200_005, "<|channel|>"),
    (200_006, "<|start|>"),
    (200_007, "<|end|>"),
    (200_008, "<|message|>"),
    (200_012, "<|call|>"),
    (200_018, "<|endofprompt|>"),
];

/// The bytes of every ordinary token, by rank.
fn ranks() -> &'static [Vec<u8>] {
    static RANKED: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    RANKED.get_or_init(|| {
        let bpe = tiktoken_rs::o200k_base().expect("the crate's own vocabulary");
        (0..RANKS)
            .map(|rank| bpe.decode_bytes(&[rank]).expect("every rank has bytes"))
            .collect()
    })
}

/// Writes `o200k_base.tiktoken`, whose hash the official library checks.
pub fn write_tiktoken_file(folder: &Path) {
    let mut text = String::new();
    for (rank, bytes) in ranks().iter().enumerate() {
        push_base64(&mut text, bytes);
        writeln!(text, " {rank}").expect("a string takes all");
    }
    std::fs::write(folder.join("o200k_base.tiktoken"), text).expect("a writable folder");
}

/// The published tokenizer.json, or what is the same to a tokenizer.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    TOKENIZER
        .get_or_init(|| {
            let json = tokenizer_json();
            Arc::new(Tokenizer::from_bytes(json.as_bytes()).expect("a valid tokenizer.json"))
        })
        .clone()
}

/// The text of that file, not byte for byte.
pub fn tokenizer_json() -> String {
    let tokens: Vec<String> = ranks().iter().map(|bytes| quoted(bytes)).collect();
    let by_bytes: HashMap<&[u8], usize> = ranks()
        .iter()
        .enumerate()
        .map(|(rank, bytes)| (bytes.as_slice(), rank))
        .collect();

    let mut vocab = String::new();
    let mut merges = String::new();
    for (rank, bytes) in ranks().iter().enumerate() {
        write!(vocab, ",{}:{rank}", tokens[rank]).expect("a string takes all");
        // Every way to put the token together of two others is a merge.
        let mut pairs: Vec<(usize, usize)> = (1..bytes.len())
            .filter_map(|cut| {
                let (left, right) = bytes.split_at(cut);
                Some((*by_bytes.get(left)?, *by_bytes.get(right)?))
            })
            .collect();
        pairs.sort_unstable();
        for (left, right) in pairs {
            write!(merges, ",[{},{}]", tokens[left], tokens[right]).expect("a string takes all");
        }
    }
    let model = format!(
        r#"{{"type":"BPE","ignore_merges":true,"fuse_unk":false,"byte_fallback":false,"vocab":{{{}}},"merges":[{}]}}"#,
        &vocab[1..],
        &merges[1..]
    );
    let frame = json!({
        "version": "1.0",
        "added_tokens": control_tokens(),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": tiktoken_rs::O200K_BASE_PAT_STR},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true,
                           "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true,
                    "trim_offsets": true, "use_regex": true},
    });
    let frame = frame.to_string();
    format!("{},\"model\":{model}}}", &frame[..frame.len() - 1])
}

fn control_tokens() -> Vec<Value> {
    (RANKS..=200_018)
        .map(|id| {
            let name = CONTROL.iter().find(|(other, _)| *other == id);
            let name = name.map_or_else(
                || format!("<|reserved_{id}|>"),
                |(_, name)| (*name).to_owned(),
            );
            json!({"id": id, "content": name, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect()
}

/// A token as a JSON string in the letters that byte-level vocabularies use.
fn quoted(bytes: &[u8]) -> String {
    let letters: String = bytes.iter().map(|byte| letter(*byte)).collect();
    Value::from(letters).to_string()
}

fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printable(*byte)).count() as u32;
    char::from_u32(0x100 + before).expect("a letter of Latin Extended-A")
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                out.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
}
