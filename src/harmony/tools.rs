//! Reads the tools that an application offers, a JSON array in the form of
//! OpenAI's APIs.

use std::collections::HashSet;

use serde_json::Value;

use super::settings::{BuiltinTool, FunctionTool};

/// Longest name of a tool, in bytes.
const NAME_LIMIT: usize = 64;

/// Tools that cannot be offered to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolsError {
    /// Not JSON.
    #[error("tools are not valid JSON: {0}")]
    Json(String),
    /// Not an array.
    #[error("tools must be a JSON array")]
    NotAnArray,
    /// An entry that is not a tool.
    #[error("tool {index}: {problem}")]
    Entry {
        /// Position in the array, from 0.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A name harmony's headers cannot carry.
    #[error("tool name {0:?} is not 1 to 64 letters, digits, _ or -")]
    Name(String),
    /// A name that a recipient has a meaning of its own for: a call of it could not be
    /// told from a message to the model itself.
    #[error("tool name {0:?} is harmony's own; choose another")]
    Reserved(String),
    /// Two tools with one name.
    #[error("tool {0:?} is defined twice")]
    Duplicate(String),
    /// Parameters that are not a JSON Schema object.
    #[error("the parameters of tool {0:?} must be a JSON Schema object")]
    Parameters(String),
}

/// Checks that `name` is `[A-Za-z0-9_-]{1,64}`.
pub fn validate_tool_name(name: &str) -> Result<(), ToolsError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(allowed) {
        return Err(ToolsError::Name(name.to_owned()));
    }
    if ["assistant", "functions"].contains(&name) {
        return Err(ToolsError::Reserved(name.to_owned()));
    }
    Ok(())
}

/// What an application offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferedTools {
    /// Functions of its own.
    pub functions: Vec<FunctionTool>,
    /// Those the model was trained with, which the application executes.
    pub builtin: Vec<BuiltinTool>,
}

/// Parses a JSON array of tools, each either
/// `{"type":"function","function":{"name","description","parameters"}}`, the
/// flat `{"type":"function","name","description","parameters"}`, or one that the
/// model was trained with: `{"type":"python"}`, `{"type":"browser"}`.
///
/// `strict` and other keys are ignored; a tool of another type is an error,
/// because the model would never see it.
///
/// # Errors
/// The first entry that makes no sense, or has another's name.
pub fn parse_tools(json: &str) -> Result<OfferedTools, ToolsError> {
    let value: Value =
        serde_json::from_str(json).map_err(|error| ToolsError::Json(error.to_string()))?;
    let Value::Array(entries) = value else {
        return Err(ToolsError::NotAnArray);
    };
    let mut tools = OfferedTools::default();
    let mut names = HashSet::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let name = match builtin(&entry) {
            Some(tool) => {
                tools.builtin.push(tool);
                tool.as_str().to_owned()
            }
            None => {
                let function = parse_function(index, entry)?;
                let name = function.name.clone();
                tools.functions.push(function);
                name
            }
        };
        if !names.insert(name.clone()) {
            return Err(ToolsError::Duplicate(name));
        }
    }
    Ok(tools)
}

/// The tool of that type, if the model was trained with it.
fn builtin(entry: &Value) -> Option<BuiltinTool> {
    entry.get("type")?.as_str()?.parse().ok()
}

fn parse_function(index: usize, entry: Value) -> Result<FunctionTool, ToolsError> {
    let problem = |problem: &str| ToolsError::Entry {
        index,
        problem: problem.to_owned(),
    };
    let Value::Object(mut entry) = entry else {
        return Err(problem("is not an object"));
    };
    match entry.get("type") {
        Some(Value::String(kind)) if kind == "function" => {}
        Some(other) => {
            return Err(problem(&format!(
                "type {other} is not supported, only \"function\", \"python\" and \"browser\" are"
            )));
        }
        None => return Err(problem("has no \"type\"; it must be \"function\"")),
    }
    let mut function = match entry.remove("function") {
        Some(Value::Object(function)) => function,
        Some(_) => return Err(problem("\"function\" is not an object")),
        None => entry,
    };
    let name = match function.remove("name") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(problem("\"name\" is not a string")),
        None => return Err(problem("has no \"name\"")),
    };
    validate_tool_name(&name)?;
    let description = match function.remove("description") {
        Some(Value::String(description)) => description,
        None | Some(Value::Null) => String::new(),
        Some(_) => return Err(problem("\"description\" is not a string")),
    };
    let parameters = match function.remove("parameters") {
        Some(parameters @ Value::Object(_)) => Some(parameters),
        None | Some(Value::Null) => None,
        Some(_) => return Err(ToolsError::Parameters(name)),
    };
    Ok(FunctionTool {
        name,
        description,
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmonys_own_names_are_no_tools() {
        for name in ["assistant", "functions"] {
            assert!(matches!(
                validate_tool_name(name),
                Err(ToolsError::Reserved(_))
            ));
        }
        assert_eq!(validate_tool_name("function"), Ok(()));
    }

    #[test]
    fn both_forms() {
        let offered = parse_tools(
            r#"[{"type":"function","function":{"name":"a","description":"does a",
                 "parameters":{"type":"object"},"strict":true}},
                {"type":"browser"},
                {"type":"function","name":"b","parameters":null}]"#,
        )
        .unwrap();
        assert_eq!(offered.builtin, [BuiltinTool::Browser]);
        let tools = offered.functions;
        assert_eq!(tools.len(), 2);
        assert_eq!(tools[0].name, "a");
        assert_eq!(tools[0].description, "does a");
        assert_eq!(
            tools[0].parameters,
            Some(serde_json::json!({"type": "object"}))
        );
        assert_eq!((tools[1].name.as_str(), &tools[1].parameters), ("b", &None));
        assert_eq!(parse_tools("[]"), Ok(OfferedTools::default()));
    }

    #[test]
    fn each_mistake_has_its_message() {
        for (json, expected) in [
            ("[", "not valid JSON"),
            ("{}", "must be a JSON array"),
            ("[1]", "tool 0: is not an object"),
            (r#"[{"name":"a"}]"#, "has no \"type\""),
            (
                r#"[{"type":"web_search"}]"#,
                "type \"web_search\" is not supported",
            ),
            (r#"[{"type":"function"}]"#, "tool 0: has no \"name\""),
            (
                r#"[{"type":"function","function":3}]"#,
                "\"function\" is not an object",
            ),
            (
                r#"[{"type":"function","name":1}]"#,
                "\"name\" is not a string",
            ),
            (r#"[{"type":"function","name":"a b"}]"#, "tool name \"a b\""),
            (
                r#"[{"type":"function","name":"a","description":1}]"#,
                "\"description\" is not a string",
            ),
            (
                r#"[{"type":"function","name":"a","parameters":[]}]"#,
                "parameters of tool \"a\"",
            ),
            (
                r#"[{"type":"function","name":"a"},{"type":"function","name":"a"}]"#,
                "defined twice",
            ),
            (
                r#"[{"type":"python"},{"type":"function","name":"python"}]"#,
                "\"python\" is defined twice",
            ),
        ] {
            let error = parse_tools(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let json = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse_tools(&json), Err(ToolsError::Json(_))));
    }
}
