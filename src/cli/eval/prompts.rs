//! The tokens `eval` is given, checked before a model is loaded for them.

use std::path::Path;

use serde::Deserialize;

use crate::cli::{CliError, ExitStatus};

/// One entry as it stands in the file; other keys are the author's own.
#[derive(Debug, Deserialize)]
struct Entry {
    ids: Vec<u32>,
    positions: Option<Vec<usize>>,
    prefill: Option<usize>,
}

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
    let text = std::fs::read(path).map_err(|error| {
        let status = match error.kind() {
            std::io::ErrorKind::NotFound => ExitStatus::NotFound,
            _ => ExitStatus::Failed,
        };
        CliError::new(status, format!("cannot read {}: {error}", path.display()))
    })?;
    parse(&text)
        .map_err(|reason| CliError::new(ExitStatus::Usage, format!("{}: {reason}", path.display())))
}

fn parse(text: &[u8]) -> Result<Vec<Prompt>, String> {
    let entries: Vec<Entry> = serde_json::from_slice(text).map_err(|error| {
        format!(
            "expected a list of {{\"ids\": [..], \"positions\": [..], \"prefill\": K}}: {error}"
        )
    })?;
    if entries.is_empty() {
        return Err("the list is empty".into());
    }
    let check = |(i, entry)| check(entry).map_err(|reason| format!("entry {i}: {reason}"));
    entries.into_iter().enumerate().map(check).collect()
}

fn check(entry: Entry) -> Result<Prompt, String> {
    let length = entry.ids.len();
    if length == 0 {
        return Err("ids is empty".into());
    }
    let positions = entry.positions.unwrap_or_else(|| vec![length - 1]);
    if let Some(position) = positions.iter().find(|&&p| p >= length) {
        return Err(format!("position {position} is beyond its {length} ids"));
    }
    let prefill = entry.prefill.unwrap_or(length);
    if prefill > length {
        return Err(format!("prefill is {prefill}, but it has {length} ids"));
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
