//! A conversation in a file.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::messages::message;
use crate::client::Message;

/// Writes the messages to a new file that only its owner can read.
///
/// # Errors
/// It cannot be written, or is there already.
pub(super) fn save(path: &Path, messages: &[Message], model: &str) -> io::Result<()> {
    let text = match path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        true => json(messages),
        false => markdown(messages, model),
    };
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// The messages as the API takes them.
fn json(messages: &[Message]) -> String {
    let object = |message: &Message| {
        let channel = message.channel.as_deref();
        let entries = [
            ("role", Some(message.role.as_str())),
            ("channel", channel),
            ("content", Some(message.content.as_str())),
        ];
        let entries = entries
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value?))));
        Value::Object(Map::from_iter(entries))
    };
    let messages: Value = messages.iter().map(object).collect();
    format!("{messages:#}\n")
}

fn markdown(messages: &[Message], model: &str) -> String {
    let mut text = String::new();
    for message in messages {
        let speaker = match message.role.as_str() {
            "system" => message!("chat-save-instructions"),
            "user" => message!("chat-save-you"),
            _ => model.to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {speaker}\n\n{}\n", message.content.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nothing_is_overwritten_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let answer = Message {
            channel: Some("final".into()),
            ..Message::new("assistant", "b")
        };
        let messages = [Message::new("user", "a \"quoted\""), answer];
        save(&path, &messages, "nano").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read[0]["content"], "a \"quoted\"");
        assert_eq!(read[1]["channel"], "final");
        assert_eq!(read[0].get("channel"), None);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = save(&path, &messages, "nano").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let path = folder.path().join("talk");
        save(&path, &messages, "nano").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "## You\n\na \"quoted\"\n\n## nano\n\nb\n\n");
    }
}
