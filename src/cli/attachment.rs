//! Text files that go with a message.

use std::io::{self, Read};
use std::path::Path;

use super::error::reason;
use super::messages::message;
use super::{CliError, ExitStatus};

/// More bytes than any model's context holds.
const LARGEST: u64 = 32 << 20;

/// A text file's name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its path, as given.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Attachment {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, is no text, or is larger than any prompt.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let name = path.display().to_string();
        let failed = |status, why: String| {
            let message = message!("attachment-unreadable", file = &name, why = why);
            CliError::new(status, message)
        };
        let unreadable = |error: io::Error| {
            let status = match error.kind() {
                io::ErrorKind::NotFound => ExitStatus::NotFound,
                _ => ExitStatus::Failed,
            };
            failed(status, reason(&error))
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        let mut file = file.take(LARGEST + 1);
        file.read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST {
            let why = message!("attachment-too-large");
            return Err(failed(ExitStatus::Failed, why));
        }
        let text = String::from_utf8(bytes);
        let no_text = |_| failed(ExitStatus::Failed, message!("attachment-no-text"));
        let text = text.map_err(no_text)?;
        Ok(Self { name, text })
    }
}

/// A message with its files behind it.
pub fn with_files(message: &str, files: &[Attachment]) -> String {
    let message = Some(message.to_owned()).filter(|text| !text.is_empty());
    let parts: Vec<String> = message
        .into_iter()
        .chain(files.iter().map(fenced))
        .collect();
    parts.join("\n\n")
}

/// A file between fences that its own text cannot end.
fn fenced(file: &Attachment) -> String {
    let runs = file.text.split(|c| c != '`').map(str::len);
    let fence = "`".repeat(runs.max().unwrap_or(0).max(2) + 1);
    let end = if file.text.ends_with('\n') { "" } else { "\n" };
    format!("{}:\n{fence}\n{}{end}{fence}", file.name, file.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_between_fences_of_its_own() {
        let file = |text: &str| Attachment {
            name: "a.md".into(),
            text: text.into(),
        };
        assert_eq!(with_files("see", &[]), "see");
        assert_eq!(
            with_files("see", &[file("x\n")]),
            "see\n\na.md:\n```\nx\n```"
        );
        assert_eq!(
            with_files("", &[file("```\nx")]),
            "a.md:\n````\n```\nx\n````"
        );
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("binary");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        let error = Attachment::read(&path).unwrap_err();
        assert!(error.message.contains("no text"), "{error}");
        let error = Attachment::read(&folder.path().join("none")).unwrap_err();
        assert_eq!(error.status, ExitStatus::NotFound);
        assert!(Attachment::read(folder.path()).is_err());
    }
}
