//! Names of models, revisions and files: always plain path components.

use super::StoreError;

/// Longest name of a file: `NAME_MAX` less room for what the names of its parts have
/// besides it, a dot before it and `.` with up to twenty digits and `.part` behind.
const FILE_NAME_MAX: usize = 228;

/// Files and folders the store itself keeps beside a checkpoint's files.
const RESERVED: [&str; 1] = ["manifest.json"];

fn refuse(what: &'static str, name: &str, why: &'static str) -> StoreError {
    StoreError::BadName {
        what,
        name: name.escape_default().take(120).collect(),
        why,
    }
}

fn check(what: &'static str, name: &str, longest: usize, extra: &str) -> Result<(), StoreError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    if name.is_empty() {
        Err(refuse(what, name, "it is empty"))
    } else if name.len() > longest {
        Err(refuse(what, name, "it is too long"))
    } else if !name.chars().all(allowed) {
        Err(refuse(
            what,
            name,
            "only ASCII letters, digits and . _ - + are allowed",
        ))
    } else if name.starts_with(['.', '-']) {
        Err(refuse(what, name, "it must not begin with a dot or a dash"))
    } else {
        Ok(())
    }
}

/// Accepts a model's name: ASCII letters, digits, `.`, `_`, `-`; at most 100.
///
/// # Errors
/// [`StoreError::BadName`] otherwise.
pub fn check_model_name(name: &str) -> Result<(), StoreError> {
    check("model name", name, 100, "._-")
}

/// Accepts a revision: ASCII letters, digits, `.`, `_`, `-`; at most 100.
///
/// # Errors
/// [`StoreError::BadName`] otherwise.
pub fn check_revision(revision: &str) -> Result<(), StoreError> {
    check("revision", revision, 100, "._-")
}

/// Accepts the name of a checkpoint's root file.
///
/// # Errors
/// [`StoreError::BadName`] for anything that is not one plain path component,
/// or that the store keeps for itself.
pub fn check_file_name(name: &str) -> Result<(), StoreError> {
    check("file name", name, FILE_NAME_MAX, "._-+")?;
    if name.ends_with(".part") || RESERVED.contains(&name) {
        return Err(refuse("file name", name, "the store keeps it for itself"));
    }
    Ok(())
}

/// The halves of `NAME@REVISION`; the second is empty where there is none. Neither is
/// checked.
pub fn split_revision(reference: &str) -> (&str, &str) {
    reference.split_once('@').unwrap_or((reference, ""))
}

/// The nearest valid model name to `text`, if there is one.
pub fn sanitize_model_name(text: &str) -> Option<String> {
    let name: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .skip_while(|c| ".-".contains(*c))
        .take(100)
        .collect();
    check_model_name(&name).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_has_two_halves() {
        assert_eq!(split_revision("20b"), ("20b", ""));
        assert_eq!(split_revision("20b@"), ("20b", ""));
        assert_eq!(split_revision("a/b@main"), ("a/b", "main"));
        assert_eq!(split_revision("a@b@c"), ("a", "b@c"));
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "a\\b",
            "a\0b",
            "a\nb",
            ".hidden",
            "-rf",
            "é",
            "a b",
            "a@b",
            "~",
            "a:b",
        ] {
            assert!(check_model_name(name).is_err(), "{name:?}");
            assert!(check_revision(name).is_err(), "{name:?}");
            assert!(check_file_name(name).is_err(), "{name:?}");
        }
        assert!(check_model_name(&"x".repeat(101)).is_err());
        assert!(check_file_name("manifest.json").is_err());
        assert!(check_file_name("config.json.part").is_err());
    }

    #[test]
    fn ordinary_names_pass() {
        for name in ["20b", "120b", "nano", "openai--gpt-oss-20b", "my_tune.v2"] {
            check_model_name(name).unwrap();
        }
        check_revision("6cee5e81ee83917806bbde320786a8fb61efebee").unwrap();
        check_file_name("model-00000-of-00002.safetensors").unwrap();
    }

    #[test]
    fn a_name_made_from_a_folder() {
        assert_eq!(sanitize_model_name("my tune").as_deref(), Some("my-tune"));
        assert_eq!(sanitize_model_name("..a").as_deref(), Some("a"));
        assert_eq!(sanitize_model_name("..").as_deref(), None);
    }

    proptest! {
        #[test]
        fn whatever_passes_stays_inside_its_folder(name in ".{0,40}") {
            if check_file_name(&name).is_ok() {
                let mut parts = std::path::Path::new(&name).components();
                prop_assert!(matches!(parts.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(parts.next().is_none());
            }
        }
    }
}
