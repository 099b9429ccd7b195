//! Reads an application's function tools, a JSON array in the form of OpenAI's APIs.

use serde_json::Value;

use super::settings::FunctionTool;

/// Longest name of a tool, in bytes.
const NAME_LIMIT: usize = 64;

/// Function tools that cannot be offered to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolsError {
    /// Not JSON.
    #[error("tools are not valid JSON: {0}")]
    Json(String),
    /// Not an array.
    #[error("tools must be a JSON array of function tools")]
    NotAnArray,
    /// An entry that is not a function tool.
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
    Ok(())
}

/// Parses a JSON array of function tools, each either
/// `{"type":"function","function":{"name","description","parameters"}}` or the
/// flat `{"type":"function","name","description","parameters"}`.
///
/// `strict` and other keys are ignored; a tool of another type is an error,
/// because the model would never see it.
pub fn parse_function_tools(json: &str) -> Result<Vec<FunctionTool>, ToolsError> {
    let value: Value =
        serde_json::from_str(json).map_err(|error| ToolsError::Json(error.to_string()))?;
    let Value::Array(entries) = value else {
        return Err(ToolsError::NotAnArray);
    };
    let mut tools: Vec<FunctionTool> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.into_iter().enumerate() {
        let tool = parse_entry(index, entry)?;
        if tools.iter().any(|other| other.name == tool.name) {
            return Err(ToolsError::Duplicate(tool.name));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn parse_entry(index: usize, entry: Value) -> Result<FunctionTool, ToolsError> {
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
                "type {other} is not supported, only \"function\" is"
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
    fn both_forms() {
        let tools = parse_function_tools(
            r#"[{"type":"function","function":{"name":"a","description":"does a",
                 "parameters":{"type":"object"},"strict":true}},
                {"type":"function","name":"b","parameters":null}]"#,
        )
        .unwrap();
        assert_eq!(tools.len(), 2);
        assert_eq!(tools[0].name, "a");
        assert_eq!(tools[0].description, "does a");
        assert_eq!(
            tools[0].parameters,
            Some(serde_json::json!({"type": "object"}))
        );
        assert_eq!((tools[1].name.as_str(), &tools[1].parameters), ("b", &None));
        assert_eq!(parse_function_tools("[]"), Ok(vec![]));
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
        ] {
            let error = parse_function_tools(json).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let json = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(
            parse_function_tools(&json),
            Err(ToolsError::Json(_))
        ));
    }
}
