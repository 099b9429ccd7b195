//! A function call's arguments: a JSON object, or what can safely be made one.

use serde_json::Value;

/// What a call's text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arguments {
    /// A JSON object.
    Valid,
    /// Nearly one; this is it.
    Repaired(String),
    /// None, and not to be guessed.
    Invalid,
}

/// Judges the text of a call that the model ended.
///
/// Repairs never add a value: nothing at all becomes `{}`; a code fence, text
/// around the object, a trailing comma are dropped; raw control characters in
/// strings are escaped; missing closing brackets are added; an object written
/// as a JSON string is unwrapped.
pub(super) fn check(text: &str) -> Arguments {
    let text = text.trim();
    if text.is_empty() {
        return Arguments::Repaired("{}".to_owned());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(_)) => return Arguments::Valid,
        Ok(Value::String(inner)) if is_object(&inner) => return Arguments::Repaired(inner),
        Ok(_) => return Arguments::Invalid,
        Err(_) => {}
    }
    match text.find('{').and_then(|start| rewrite(&text[start..])) {
        Some(object) if is_object(&object) => Arguments::Repaired(object),
        _ => Arguments::Invalid,
    }
}

/// Whether the text is a JSON object as it stands.
pub(super) fn is_object(text: &str) -> bool {
    matches!(serde_json::from_str(text), Ok(Value::Object(_)))
}

/// Copies one object, which `text` begins with, putting right what can be.
fn rewrite(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 8);
    let mut open = Vec::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                out.push('"');
                copy_string(&mut letters, &mut out)?;
            }
            '{' | '[' => {
                open.push(if letter == '{' { '}' } else { ']' });
                out.push(letter);
            }
            '}' | ']' => {
                if open.pop() != Some(letter) {
                    return None;
                }
                drop_trailing_comma(&mut out);
                out.push(letter);
                if open.is_empty() {
                    return Some(out);
                }
            }
            _ => out.push(letter),
        }
    }
    drop_trailing_comma(&mut out);
    out.extend(open.into_iter().rev());
    Some(out)
}

/// Copies a string's inside and its closing quote; `None` where it has none.
fn copy_string(letters: &mut std::str::Chars<'_>, out: &mut String) -> Option<()> {
    loop {
        match letters.next()? {
            '"' => {
                out.push('"');
                return Some(());
            }
            '\\' => {
                out.push('\\');
                out.push(letters.next()?);
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            letter => out.push(letter),
        }
    }
}

fn drop_trailing_comma(out: &mut String) {
    let end = out.trim_end().len();
    if out[..end].ends_with(',') {
        out.truncate(end - 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn objects_stay_as_they_are() {
        for text in ["{}", r#" {"a": [1, {"b": "}"}]} "#, r#"{"é":"\n"}"#] {
            assert_eq!(check(text), Arguments::Valid, "{text}");
        }
    }

    #[test]
    fn repairs() {
        for (text, expected) in [
            ("", "{}"),
            ("  \n", "{}"),
            ("```json\n{\"a\": 1}\n```", r#"{"a": 1}"#),
            ("Calling: {\"a\": 1} now", r#"{"a": 1}"#),
            (r#"{"a": 1}{"a": 1}"#, r#"{"a": 1}"#),
            (r#"{"a": [1, 2,], }"#, r#"{"a": [1, 2]}"#),
            ("{\"a\": \"x\ny\tz\"}", r#"{"a": "x\ny\tz"}"#),
            (r#"{"a": {"b": [1"#, r#"{"a": {"b": [1]}}"#),
            (r#""{\"a\": 1}""#, r#"{"a": 1}"#),
        ] {
            assert_eq!(
                check(text),
                Arguments::Repaired(expected.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn guesses_are_not_made() {
        for text in [
            "hello",
            "[1]",
            "3",
            "null",
            r#""text""#,
            r#"{"a": "unfinished"#,
            r#"{"a": "#,
            "{'a': 1}",
            r#"{"a": ]}"#,
            "{a: 1}",
        ] {
            assert_eq!(check(text), Arguments::Invalid, "{text}");
        }
        assert_eq!(check(&"{\"a\":".repeat(100_000)), Arguments::Invalid);
        assert_eq!(check(&"[".repeat(100_000)), Arguments::Invalid);
    }

    proptest! {
        #[test]
        fn a_repair_is_always_an_object(text in r#"[{}\[\]",: \\a1\n]{0,40}"#) {
            if let Arguments::Repaired(object) = check(&text) {
                prop_assert!(is_object(&object), "{text:?} became {object:?}");
            }
        }
    }
}
