//! JSON that can be read in one way only.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Parses a document in which no object has a key twice: of two values parsers take
/// the one or the other, and who checked a document may have read another one.
///
/// # Errors
/// Why it is none.
pub fn parse_unambiguous<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice::<Unique>(text)?;
    serde_json::from_slice(text)
}

/// Any value whose objects have each key once.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Keys)
    }
}

/// Looks at the keys of every object.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if seen.contains(&key) {
                let shown: String = key.escape_default().take(100).collect();
                return Err(A::Error::custom(format!(
                    "the key \"{shown}\" is there twice"
                )));
            }
            seen.insert(key);
            entries.next_value::<Unique>()?;
        }
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":{"c":[{"d":null,"e":2,"d":3}]}}"#,
            r#"[[{"":0,"":1}]]"#,
            // Written in another way, it is the same.
            r#"{"a":1,"\u0061":2}"#,
        ] {
            let error = parse_unambiguous::<Value>(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("is there twice"), "{error}");
        }
        for text in [r#"{"a":{"a":{"a":1}},"A":[{"a":1},{"a":2}]}"#, "1", "[]"] {
            parse_unambiguous::<Value>(text.as_bytes()).unwrap();
        }
        for text in ["{", "", "{}{}", r#"{"a":1,}"#, &"[".repeat(1000)] {
            assert!(parse_unambiguous::<Value>(text.as_bytes()).is_err());
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(|b| json!(b)),
            any::<i64>().prop_map(|n| json!(n)),
            any::<u64>().prop_map(|n| json!(n)),
            any::<f32>().prop_map(|n| json!(n)),
            ".{0,5}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|items| json!(items)),
                prop::collection::btree_map(".{0,3}", inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn everything_else_is_read_as_it_is(value in value()) {
            let read: Value = parse_unambiguous(value.to_string().as_bytes()).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
