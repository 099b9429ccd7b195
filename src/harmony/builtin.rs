//! The tools gpt-oss was trained with, as its system message declares them.
//!
//! The wording is part of the format: the models know these texts, so they are
//! kept to the letter (source: the harmony format's documentation).

use serde_json::json;

use super::settings::{BuiltinTool, FunctionTool};

/// A namespace of tools, as it stands under `# Tools`.
pub(super) struct Namespace {
    pub name: &'static str,
    pub description: &'static str,
    pub tools: Vec<FunctionTool>,
}

const PYTHON: &str = "\
Use this tool to execute Python code in your chain of thought. The code will not be shown to \
the user. This tool should be used for internal reasoning, but not for code that is intended to \
be visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful \
Jupyter notebook environment. python will respond with the output of the execution or time out \
after 120.0 seconds. The drive at '/mnt/data' can be used to save and persist user files. \
Internet access for this session is UNKNOWN. Depends on the cluster.";

const BROWSER: &str = "\
Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)";

const SEARCH: &str = "Searches for information related to `query` and displays `topn` results.";

const OPEN: &str = "\
Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, showing \
`num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or \
centered on the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page.";

const FIND: &str =
    "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.";

/// The namespaces of `tools`, each once, in the format's order: browser, python.
pub(super) fn namespaces(tools: &[BuiltinTool]) -> Vec<Namespace> {
    let mut namespaces = Vec::new();
    if tools.contains(&BuiltinTool::Browser) {
        namespaces.push(browser());
    }
    if tools.contains(&BuiltinTool::Python) {
        namespaces.push(Namespace {
            name: "python",
            description: PYTHON,
            tools: Vec::new(),
        });
    }
    namespaces
}

impl BuiltinTool {
    /// What it can be called by, as in [`super::Event::ToolCall`], with the schema
    /// of the arguments. `python` takes code.
    pub fn calls(self) -> Vec<(String, Option<serde_json::Value>)> {
        match self {
            BuiltinTool::Python => vec![(self.as_str().to_owned(), None)],
            BuiltinTool::Browser => {
                let namespace = browser();
                let name = |tool: &FunctionTool| format!("{}.{}", namespace.name, tool.name);
                let tools = namespace.tools.iter();
                tools.map(|t| (name(t), t.parameters.clone())).collect()
            }
        }
    }
}

fn browser() -> Namespace {
    let tool = |name: &str, description: &str, parameters| FunctionTool {
        name: name.to_owned(),
        description: description.to_owned(),
        parameters: Some(parameters),
    };
    let search = json!({
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "topn": {"type": "number", "default": 10},
            "source": {"type": "string"},
        },
        "required": ["query"],
    });
    let open = json!({
        "type": "object",
        "properties": {
            "id": {"type": ["number", "string"], "default": -1},
            "cursor": {"type": "number", "default": -1},
            "loc": {"type": "number", "default": -1},
            "num_lines": {"type": "number", "default": -1},
            "view_source": {"type": "boolean", "default": false},
            "source": {"type": "string"},
        },
    });
    let find = json!({
        "type": "object",
        "properties": {
            "pattern": {"type": "string"},
            "cursor": {"type": "number", "default": -1},
        },
        "required": ["pattern"],
    });
    Namespace {
        name: "browser",
        description: BROWSER,
        tools: vec![
            tool("search", SEARCH, search),
            tool("open", OPEN, open),
            tool("find", FIND, find),
        ],
    }
}
