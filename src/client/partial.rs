//! What there is of a JSON value while it is still being written.

use serde_json::Value;

/// Reads the beginning of a JSON text, such as an answer with a
/// `response-schema` that has not ended: objects and arrays have the members
/// that are complete, a text is as long as it is so far. Numbers, words and names
/// that may go on are left out. `None` where there is nothing yet, or no JSON.
///
/// ```
/// use gptoss::client::partial_json;
/// use serde_json::json;
///
/// let so_far = r#"{"name": "Ada Love"#;
/// assert_eq!(partial_json(so_far), Some(json!({"name": "Ada Love"})));
/// let so_far = r#"{"name": "Ada", "born": 18"#;
/// assert_eq!(partial_json(so_far), Some(json!({"name": "Ada"})));
/// ```
pub fn partial_json(text: &str) -> Option<Value> {
    if let Ok(whole) = serde_json::from_str(text) {
        return Some(whole);
    }
    let mut scan = Scan::default();
    for (at, byte) in text.bytes().enumerate() {
        scan.push(at, byte)?;
    }
    let mut closed = match scan.string {
        Some(Quoted { is_key: false, .. }) => {
            let end = scan.string_end(text.len());
            format!("{}\"", text.get(..end)?)
        }
        _ => text.get(..scan.safe)?.to_owned(),
    };
    closed.extend(scan.open.iter().rev().map(|&byte| char::from(byte)));
    serde_json::from_str(&closed).ok()
}

/// A text that has begun.
#[derive(Debug, Clone, Copy)]
struct Quoted {
    is_key: bool,
    /// Where the last escape sequence begins, and whether more of it is to come.
    escape: Option<usize>,
}

/// How far a text has been read.
#[derive(Debug, Default)]
struct Scan {
    /// What closes the objects and arrays that are open.
    open: Vec<u8>,
    string: Option<Quoted>,
    /// Whether a key's value comes next, rather than a key.
    after_colon: bool,
    /// Up to here the text makes sense once everything is closed.
    safe: usize,
    /// A high surrogate that waits for its other half begins there.
    surrogate: Option<usize>,
    /// The digits of the last `\u` so far.
    digits: u32,
    code: u32,
}

impl Scan {
    fn in_object(&self) -> bool {
        self.open.last() == Some(&b'}')
    }

    /// `None` for a bracket that closes nothing.
    fn push(&mut self, at: usize, byte: u8) -> Option<()> {
        if self.string.is_some() {
            self.push_string(at, byte);
            return Some(());
        }
        match byte {
            b'"' => {
                let is_key = self.in_object() && !self.after_colon;
                let escape = None;
                self.string = Some(Quoted { is_key, escape });
            }
            b'{' | b'[' => {
                self.open.push(if byte == b'{' { b'}' } else { b']' });
                self.value_begins(at + 1);
            }
            b'}' | b']' => {
                self.open.pop().filter(|wanted| *wanted == byte)?;
                self.value_begins(at + 1);
            }
            b':' => self.after_colon = true,
            // What stands before a comma is complete.
            b',' => self.value_begins(at),
            _ => {}
        }
        Some(())
    }

    /// Everything before `at` is whole; a key or another value comes next.
    fn value_begins(&mut self, at: usize) {
        self.safe = at;
        self.after_colon = false;
    }

    fn push_string(&mut self, at: usize, byte: u8) {
        let Some(string) = &mut self.string else {
            return;
        };
        match string.escape {
            Some(start) if at == start + 1 && byte == b'u' => (self.digits, self.code) = (4, 0),
            Some(start) if at == start + 1 => {
                string.escape = None;
                self.surrogate = None;
            }
            Some(start) => {
                self.digits -= 1;
                self.code = self.code * 16 + char::from(byte).to_digit(16).unwrap_or_default();
                if self.digits == 0 {
                    string.escape = None;
                    let is_high = (0xd800..0xdc00).contains(&self.code);
                    self.surrogate = is_high.then_some(start);
                }
            }
            None if byte == b'\\' => string.escape = Some(at),
            None if byte == b'"' => {
                let is_key = string.is_key;
                self.string = None;
                self.surrogate = None;
                if !is_key {
                    self.value_begins(at + 1);
                }
            }
            None => self.surrogate = None,
        }
    }

    /// Where the open text ends, without half an escape sequence.
    fn string_end(&self, length: usize) -> usize {
        let escape = self.string.and_then(|string| string.escape);
        self.surrogate.or(escape).unwrap_or(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_whole_counts() {
        for (text, expected) in [
            ("", None),
            ("  ", None),
            ("nul", None),
            ("]", None),
            ("{\"a\": 1]", None),
            ("{", Some(json!({}))),
            ("{\"a", Some(json!({}))),
            ("{\"a\"", Some(json!({}))),
            ("{\"a\":", Some(json!({}))),
            ("{\"a\": 12", Some(json!({}))),
            ("{\"a\": 12,", Some(json!({"a": 12}))),
            ("{\"a\": 12, \"b", Some(json!({"a": 12}))),
            ("{\"a\": [1, 2", Some(json!({"a": [1]}))),
            ("{\"a\": [1, {\"b\": tru", Some(json!({"a": [1, {}]}))),
            ("\"x", Some(json!("x"))),
            ("[\"x\\", Some(json!(["x"]))),
            ("[\"x\\u00e", Some(json!(["x"]))),
            ("[\"x\\u00e9", Some(json!(["xé"]))),
            ("[\"x\\ud83d", Some(json!(["x"]))),
            ("[\"x\\ud83d\\ude0", Some(json!(["x"]))),
            ("[\"x\\ud83d\\ude00", Some(json!(["x😀"]))),
            ("[\"a{\", \"b]", Some(json!(["a{", "b]"]))),
            ("12", Some(json!(12))),
        ] {
            assert_eq!(partial_json(text), expected, "{text}");
        }
    }

    /// Whether `part` can be the beginning of `whole`.
    fn begins(part: &Value, whole: &Value) -> bool {
        match (part, whole) {
            (Value::Object(part), Value::Object(whole)) => {
                let member = |(key, value)| whole.get(key).is_some_and(|w| begins(value, w));
                part.iter().all(member)
            }
            (Value::Array(part), Value::Array(whole)) => {
                part.len() <= whole.len() && part.iter().zip(whole).all(|(p, w)| begins(p, w))
            }
            (Value::String(part), Value::String(whole)) => whole.starts_with(part.as_str()),
            (part, whole) => part == whole,
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a\"\\\\\n{}\\[\\]:,é😀]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let members = prop::collection::vec(("[a-d\"\\\\é]{0,3}", inner.clone()), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same text with everything but ASCII escaped.
    fn escaped(text: &str) -> String {
        let mut units = [0; 2];
        let escape = |c: char| -> String {
            match c.is_ascii() {
                true => c.to_string(),
                false => {
                    let units = c.encode_utf16(&mut units).iter();
                    units.map(|unit| format!("\\u{unit:04x}")).collect()
                }
            }
        };
        text.chars().map(escape).collect()
    }

    proptest! {
        #[test]
        fn every_beginning_is_one_of_the_whole(value in value(), ascii in any::<bool>()) {
            prop_assume!(value.is_object() || value.is_array());
            let text = match ascii {
                true => escaped(&value.to_string()),
                false => value.to_string(),
            };
            for (at, _) in text.char_indices().skip(1) {
                let part = partial_json(&text[..at]);
                prop_assert!(part.as_ref().is_some_and(|p| begins(p, &value)), "{} -> {part:?}", &text[..at]);
            }
            prop_assert_eq!(partial_json(&text), Some(value));
        }

        #[test]
        fn any_text_is_survived(text in "[ -~é\\\\\"{}\\[\\],:u0-9]{0,60}") {
            let _ = partial_json(&text);
        }
    }
}
