//! The tokens `eval` is given, checked before a model is loaded for them.

use std::path::Path;

use serde::Deserialize;

use super::unreadable;
use crate::cli::messages::message;
use crate::cli::{CliError, ExitStatus};

/// One entry as it stands in the file; other keys are the author's own.
#[derive(Debug, Deserialize)]
struct Entry {
    ids: Vec<u32>,
    positions: Option<Vec<usize>>,
    prefill: Option<usize>,
}

/// How an entry looks, for somebody who wrote another.
const ENTRY: &str = r#"{"ids": [..], "positions": [..], "prefill": K}"#;

/// Tokens whose logits are wanted at some positions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prompt {
    /// At least one token.
    pub ids: Vec<u32>,
    /// Indexes into `ids`, in the order of the rows wanted.
    pub positions: Vec<usize>,
    /// How many tokens go in as a prompt; the rest is fed one by one.
    pub prefill: usize,
}

/// Reads and checks the file.
pub(super) fn read(path: &Path) -> Result<Vec<Prompt>, CliError> {
    let text = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    parse(&text).map_err(|why| {
        let message = message!("eval-bad-file", path = %path.display(), why = why);
        CliError::new(ExitStatus::Usage, message)
    })
}

fn parse(text: &[u8]) -> Result<Vec<Prompt>, String> {
    let entries: Vec<Entry> = serde_json::from_slice(text)
        .map_err(|error| message!("eval-no-prompts", entry = ENTRY, error = %error))?;
    if entries.is_empty() {
        return Err(message!("eval-empty-list"));
    }
    let check = |(i, entry): (usize, Entry)| {
        check(entry).map_err(|why| message!("eval-bad-entry", number = i, why = why))
    };
    entries.into_iter().enumerate().map(check).collect()
}

fn check(entry: Entry) -> Result<Prompt, String> {
    let length = entry.ids.len();
    if length == 0 {
        return Err(message!("eval-empty-ids"));
    }
    let positions = entry.positions.unwrap_or_else(|| vec![length - 1]);
    if let Some(position) = positions.iter().find(|&&p| p >= length) {
        return Err(message!(
            "eval-position-beyond",
            position = position,
            ids = length
        ));
    }
    let prefill = entry.prefill.unwrap_or(length);
    if prefill > length {
        return Err(message!(
            "eval-prefill-beyond",
            prefill = prefill,
            ids = length
        ));
    }
    Ok(Prompt {
        ids: entry.ids,
        positions,
        prefill,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_last_position_and_one_prefill() {
        let prompts = parse(br#"[{"ids": [5, 6], "name": "x"}]"#).unwrap();
        let expected = Prompt {
            ids: vec![5, 6],
            positions: vec![1],
            prefill: 2,
        };
        assert_eq!(prompts, [expected]);
    }

    #[test]
    fn every_mistake_is_told() {
        for (text, told) in [
            ("{}", "expected a list"),
            ("[]", "empty"),
            ("[{\"ids\": [1", "EOF"),
            (r#"[{"ids": []}]"#, "entry 0: ids is empty"),
            (r#"[{"ids": [-1]}]"#, "-1"),
            (r#"[{"ids": [1]}, {"ids": [4294967296]}]"#, "4294967296"),
            (r#"[{"ids": [1, 2], "positions": [2]}]"#, "position 2"),
            (r#"[{"ids": [1, 2], "prefill": 3}]"#, "prefill is 3"),
            (r#"[{"ids": [1, 2], "positions": [-1]}]"#, "-1"),
        ] {
            let reason = parse(text.as_bytes()).unwrap_err();
            assert!(reason.contains(told), "{text}: {reason}");
        }
    }
}
