//! `a{sv}` into our own types. Unknown keys are ignored, wrong types are
//! errors.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use super::error::Error;
use crate::session::{MessageParts, Options};

/// A D-Bus dictionary of options.
pub type Dictionary = HashMap<String, OwnedVariant>;

/// Longest name of anything, in bytes.
const WORD_LIMIT: usize = 256;

/// Reads the entries of one dictionary.
struct Reader<'a> {
    /// For messages: `option` or `message 3`.
    what: String,
    entries: &'a Dictionary,
}

impl Reader<'_> {
    fn get<T>(
        &self,
        key: &str,
        signature: &str,
        read: impl FnOnce(&Variant<'_>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::invalid(format!(
                "{} {key:?} must have the type {signature}, it has {}",
                self.what,
                value.value_signature(),
            ))),
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, Error> {
        self.get(key, "s", |value| match value {
            Variant::Str(text) => Some(text.as_str().to_owned()),
            _ => None,
        })
    }

    /// A name, which errors say again.
    fn word(&self, key: &str) -> Result<Option<String>, Error> {
        let word = self.string(key)?;
        match &word {
            Some(word) if word.len() > WORD_LIMIT => Err(Error::invalid(format!(
                "{} {key:?} has {} bytes, at most {WORD_LIMIT} are allowed",
                self.what,
                word.len()
            ))),
            _ => Ok(word),
        }
    }

    fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.get(key, "u", |value| match value {
            Variant::U32(number) => Some(*number),
            _ => None,
        })
    }

    fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.get(key, "d", |value| match value {
            Variant::F64(number) => Some(*number),
            _ => None,
        })
    }
}

/// Reads the options of a call.
pub fn options(entries: &Dictionary) -> Result<Options, Error> {
    let reader = Reader {
        what: "option".into(),
        entries,
    };
    Ok(Options {
        model: reader.word("model")?,
        reasoning_effort: reader.word("reasoning-effort")?,
        max_output_tokens: reader.u32("max-output-tokens")?,
        max_reasoning_tokens: reader.u32("max-reasoning-tokens")?,
        temperature: reader.f64("temperature")?,
        top_p: reader.f64("top-p")?,
        min_p: reader.f64("min-p")?,
        top_k: reader.u32("top-k")?,
        seed: reader.get("seed", "t", |value| match value {
            Variant::U64(number) => Some(*number),
            _ => None,
        })?,
        stop: reader.get("stop", "as", strings)?,
        logprobs: reader.u32("logprobs")?,
        tools: reader.string("tools")?,
        tool_choice: reader.word("tool-choice")?,
        response_schema: reader.string("response-schema")?,
        priority: reader.word("priority")?,
        handle_token: reader.word("handle-token")?,
        show_reasoning: reader.get("show-reasoning", "b", |value| match value {
            Variant::Bool(yes) => Some(*yes),
            _ => None,
        })?,
        on_overflow: reader.word("on-overflow")?,
    })
}

fn strings(value: &Variant<'_>) -> Option<Vec<String>> {
    let Variant::Array(array) = value else {
        return None;
    };
    if array.element_signature() != "s" {
        return None;
    }
    let text = |value: &Variant<'_>| match value {
        Variant::Str(text) => Some(text.as_str().to_owned()),
        _ => None,
    };
    array.inner().iter().map(text).collect()
}

/// Reads the messages of a call.
pub fn messages(messages: &[Dictionary]) -> Result<Vec<MessageParts>, Error> {
    let parts = messages.iter().enumerate().map(|(index, entries)| {
        let reader = Reader {
            what: format!("message {index}: key"),
            entries,
        };
        let required = |key: &str, value: Result<Option<String>, Error>| {
            let missing = || Error::invalid(format!("message {index} has no {key:?}"));
            value?.ok_or_else(missing)
        };
        Ok(MessageParts {
            role: required("role", reader.word("role"))?,
            content: required("content", reader.string("content"))?,
            channel: reader.word("channel")?,
            name: reader.word("name")?,
            recipient: reader.word("recipient")?,
            call_id: reader.word("call-id")?,
        })
    });
    parts.collect()
}

/// Reads the option `messages`, for who prepares a conversation.
pub fn prepared(entries: &Dictionary) -> Result<Option<Vec<MessageParts>>, Error> {
    let reader = Reader {
        what: "option".into(),
        entries,
    };
    let read = |value: &Variant<'_>| {
        let value = value.try_clone().ok()?;
        Vec::<Dictionary>::try_from(value).ok()
    };
    let found = reader.get("messages", "aa{sv}", read)?;
    found.map(|found| messages(&found)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dictionary<const N: usize>(entries: [(&str, Variant<'_>); N]) -> Dictionary {
        let entries = entries.into_iter();
        entries
            .map(|(key, value)| (key.to_owned(), value.try_into_owned().unwrap()))
            .collect()
    }

    #[test]
    fn every_option_is_read() {
        let read = options(&dictionary([
            ("model", "20b".into()),
            ("reasoning-effort", "low".into()),
            ("max-output-tokens", 5u32.into()),
            ("max-reasoning-tokens", 6u32.into()),
            ("temperature", 0.5.into()),
            ("top-p", 0.9.into()),
            ("min-p", 0.1.into()),
            ("top-k", 7u32.into()),
            ("seed", 8u64.into()),
            ("stop", vec!["a", "b"].into()),
            ("logprobs", 2u32.into()),
            ("tools", "[]".into()),
            ("tool-choice", "auto".into()),
            ("response-schema", "{}".into()),
            ("priority", "background".into()),
            ("handle-token", "t1".into()),
            ("show-reasoning", true.into()),
            ("on-overflow", "error".into()),
            ("from-the-future", vec![1u8].into()),
        ]))
        .unwrap();
        let expected = Options {
            model: Some("20b".into()),
            reasoning_effort: Some("low".into()),
            max_output_tokens: Some(5),
            max_reasoning_tokens: Some(6),
            temperature: Some(0.5),
            top_p: Some(0.9),
            min_p: Some(0.1),
            top_k: Some(7),
            seed: Some(8),
            stop: Some(vec!["a".into(), "b".into()]),
            logprobs: Some(2),
            tools: Some("[]".into()),
            tool_choice: Some("auto".into()),
            response_schema: Some("{}".into()),
            priority: Some("background".into()),
            handle_token: Some("t1".into()),
            show_reasoning: Some(true),
            on_overflow: Some("error".into()),
        };
        assert_eq!(read, expected);
        assert_eq!(options(&Dictionary::new()).unwrap(), Options::default());
    }

    #[test]
    fn a_wrong_type_is_named() {
        for (key, value, expected) in [
            (
                "model",
                Variant::from(1u32),
                "must have the type s, it has u",
            ),
            ("temperature", 1u32.into(), "must have the type d, it has u"),
            ("top-k", 1i32.into(), "must have the type u, it has i"),
            ("seed", 1u32.into(), "must have the type t, it has u"),
            ("stop", "x".into(), "must have the type as, it has s"),
            (
                "stop",
                vec![1u32].into(),
                "must have the type as, it has au",
            ),
            (
                "show-reasoning",
                "yes".into(),
                "must have the type b, it has s",
            ),
        ] {
            let error = options(&dictionary([(key, value)])).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(key) && text.contains(expected), "{text}");
        }
    }

    #[test]
    fn messages_need_a_role_and_a_content() {
        let whole = dictionary([
            ("role", "tool".into()),
            ("content", "21".into()),
            ("name", "functions.f".into()),
            ("call-id", "call_1".into()),
            ("recipient", "assistant".into()),
            ("channel", "commentary".into()),
            ("mood", "good".into()),
        ]);
        let read = messages(std::slice::from_ref(&whole)).unwrap();
        assert_eq!(read[0].role, "tool");
        assert_eq!(read[0].call_id.as_deref(), Some("call_1"));
        let half = dictionary([("role", "user".into())]);
        let error = messages(&[whole, half]).unwrap_err().to_string();
        assert_eq!(error, "message 1 has no \"content\"");
        let long = dictionary([("role", "x".repeat(257).into()), ("content", "".into())]);
        let error = messages(&[long]).unwrap_err().to_string();
        assert!(error.contains("\"role\" has 257 bytes"), "{error}");
        let wrong = dictionary([("role", "user".into()), ("content", 1u32.into())]);
        let error = messages(&[wrong]).unwrap_err().to_string();
        assert!(error.contains("message 0: key \"content\" must have the type s"));
    }
}
