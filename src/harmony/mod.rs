//! Harmony, the chat format of gpt-oss: render, incremental parse, recovery; the tokenizer.
//!
//! Applications speak in [`Message`]s and [`Event`]s; control tokens exist only
//! inside this module. Text that comes from outside, a prompt, a file, a tool's
//! result, is encoded as plain text whatever it holds, and nothing the parser
//! hands out was ever made from a control token.
//!
//! ```text
//! Conversation ── render ──► token ids ──► model ──► token ids ── Parser ──► Events
//!   Settings + [Message]                                               │
//!        ▲                                                             │
//!        └───────────────────── MessageEnd(Message) ◄──────────────────┘
//! ```
//!
//! One message on the wire:
//!
//! ```text
//! <|start|> role[:name] [ to=recipient] [<|channel|> channel] [ <|constrain|> type] <|message|> text <|end|>
//! ```
//!
//! A model ends its turn with `<|return|>`, or with `<|call|>` after a tool
//! call; in history `<|return|>` becomes `<|end|>`.

mod builtin;
mod decoder;
mod message;
mod parser;
mod pieces;
mod render;
mod settings;
mod tokenizer;
mod tools;
mod typescript;

pub use decoder::TextDecoder;
pub use message::{Channel, Conversation, Message, ParseNameError, Role};
pub use parser::{Event, Parser, Position, Recovery, StopKind, history};
pub use render::{
    Opening, RenderError, count_tokens, force_final, opening, render, render_history,
};
pub use settings::{BuiltinTool, Effort, FunctionTool, ResponseFormat, Settings, SettingsError};
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
pub use tools::{OfferedTools, ToolsError, parse_tools, validate_tool_name};
