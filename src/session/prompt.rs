//! What an application asks, checked before anything is queued.

use serde_json::Value;

use super::failure::Failure;
use super::grammar;
use super::guide::Guidance;
use super::overflow::Overflow;
use crate::engine::{Priority, Sampling};
use crate::harmony::{
    Conversation, Effort, Message, OfferedTools, ResponseFormat, Settings, parse_tools,
};

/// One message as it comes from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageParts {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<String>,
    /// The speaker's or tool's name.
    pub name: Option<String>,
    /// Whom it is for.
    pub recipient: Option<String>,
    /// Which call a tool's result answers.
    pub call_id: Option<String>,
}

impl From<Message> for MessageParts {
    fn from(message: Message) -> Self {
        Self {
            role: message.role.as_str().to_owned(),
            content: message.content,
            channel: message.channel.map(|channel| channel.as_str().to_owned()),
            name: message.name,
            recipient: message.recipient,
            call_id: message.call_id,
        }
    }
}

/// The options as they come from outside; `None` means not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// `model`
    pub model: Option<String>,
    /// `reasoning-effort`
    pub reasoning_effort: Option<String>,
    /// `max-output-tokens`
    pub max_output_tokens: Option<u32>,
    /// `max-reasoning-tokens`
    pub max_reasoning_tokens: Option<u32>,
    /// `temperature`
    pub temperature: Option<f64>,
    /// `top-p`
    pub top_p: Option<f64>,
    /// `min-p`
    pub min_p: Option<f64>,
    /// `top-k`
    pub top_k: Option<u32>,
    /// `seed`
    pub seed: Option<u64>,
    /// `stop`
    pub stop: Option<Vec<String>>,
    /// `logprobs`
    pub logprobs: Option<u32>,
    /// `tools`
    pub tools: Option<String>,
    /// `tool-choice`
    pub tool_choice: Option<String>,
    /// `response-schema`
    pub response_schema: Option<String>,
    /// `priority`
    pub priority: Option<String>,
    /// `handle-token`
    pub handle_token: Option<String>,
    /// `show-reasoning`
    pub show_reasoning: Option<bool>,
    /// `on-overflow`
    pub on_overflow: Option<String>,
}

impl Options {
    /// These, and where they say nothing those of `base`, but for its handle.
    pub fn or(self, base: &Options) -> Options {
        Options {
            model: self.model.or_else(|| base.model.clone()),
            reasoning_effort: self
                .reasoning_effort
                .or_else(|| base.reasoning_effort.clone()),
            max_output_tokens: self.max_output_tokens.or(base.max_output_tokens),
            max_reasoning_tokens: self.max_reasoning_tokens.or(base.max_reasoning_tokens),
            temperature: self.temperature.or(base.temperature),
            top_p: self.top_p.or(base.top_p),
            min_p: self.min_p.or(base.min_p),
            top_k: self.top_k.or(base.top_k),
            seed: self.seed.or(base.seed),
            stop: self.stop.or_else(|| base.stop.clone()),
            logprobs: self.logprobs.or(base.logprobs),
            tools: self.tools.or_else(|| base.tools.clone()),
            tool_choice: self.tool_choice.or_else(|| base.tool_choice.clone()),
            response_schema: self
                .response_schema
                .or_else(|| base.response_schema.clone()),
            priority: self.priority.or_else(|| base.priority.clone()),
            handle_token: self.handle_token,
            show_reasoning: self.show_reasoning.or(base.show_reasoning),
            on_overflow: self.on_overflow.or_else(|| base.on_overflow.clone()),
        }
    }
}

/// Most stop strings of a request, and the longest in bytes.
const STOP_STRINGS: (usize, usize) = (16, 256);

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// What is rendered.
    pub conversation: Conversation,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` for what the window leaves.
    pub max_output_tokens: Option<usize>,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Which queue it stands in.
    pub priority: Priority,
    /// Whether analysis is part of the stream.
    pub show_reasoning: bool,
    /// What the model is held to.
    pub guidance: Guidance,
    /// What becomes of a conversation that is too long.
    pub overflow: Overflow,
}

impl Prompt {
    /// Checks messages and options. `prompt_bytes` is the most text allowed.
    ///
    /// # Errors
    /// What makes no sense, what is not supported, what is too much.
    pub fn new(
        messages: Vec<MessageParts>,
        options: &Options,
        prompt_bytes: usize,
    ) -> Result<Prompt, Failure> {
        Self::of_messages(parse_messages(messages)?, options, prompt_bytes)
    }

    /// The same of messages that were read before; there may be none.
    pub(super) fn of_messages(
        messages: Vec<Message>,
        options: &Options,
        prompt_bytes: usize,
    ) -> Result<Prompt, Failure> {
        let schemas = [&options.tools, &options.response_schema];
        let schemas: usize = schemas.into_iter().flatten().map(String::len).sum();
        let bytes = messages.iter().map(bytes).sum::<usize>() + schemas;
        if bytes > prompt_bytes {
            return Err(Failure::LimitsExceeded(format!(
                "limits.prompt-bytes: the request has {bytes} bytes of text, {prompt_bytes} are \
                 allowed"
            )));
        }
        let settings = settings(options)?;
        let guidance = guidance(options, &settings)?;
        let overflow = options.on_overflow.as_deref().map(str::parse);
        Ok(Prompt {
            conversation: Conversation { settings, messages },
            sampling: sampling(options)?,
            max_output_tokens: max_output_tokens(options)?,
            stop: stop(options)?,
            priority: priority(options)?,
            show_reasoning: options.show_reasoning.unwrap_or(false),
            guidance,
            overflow: overflow.transpose()?.unwrap_or_default(),
        })
    }
}

/// Reads the messages' roles and channels.
///
/// # Errors
/// There are none, or one makes no sense: counted from 0.
pub(super) fn parse_messages(messages: Vec<MessageParts>) -> Result<Vec<Message>, Failure> {
    if messages.is_empty() {
        return Err(invalid("there are no messages; give at least one"));
    }
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(index, parts)| {
            let message = parts.into_message();
            message.map_err(|error| invalid(format!("message {index}: {error}")))
        })
        .collect()
}

/// Bytes of a message's text and names.
fn bytes(message: &Message) -> usize {
    let optional = [&message.name, &message.recipient, &message.call_id];
    let optional: usize = optional.into_iter().flatten().map(String::len).sum();
    message.content.len() + optional
}

impl MessageParts {
    fn into_message(self) -> Result<Message, crate::harmony::ParseNameError> {
        Ok(Message {
            role: self.role.parse()?,
            content: self.content,
            channel: self.channel.as_deref().map(str::parse).transpose()?,
            name: self.name,
            recipient: self.recipient,
            call_id: self.call_id,
            content_type: None,
        })
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::InvalidArgs(message.into())
}

/// What the prompt says beside the messages.
///
/// # Errors
/// Options that make no sense. Whether a form can be enforced is not asked.
pub(super) fn settings(options: &Options) -> Result<Settings, Failure> {
    let effort = options.reasoning_effort.as_deref();
    let effort = effort.map(str::parse::<Effort>).transpose();
    let effort = effort.map_err(|e| invalid(format!("reasoning-effort: {e}")))?;
    let tools = options.tools.as_deref().map(parse_tools);
    let tools = tools.transpose().map_err(|e| invalid(e.to_string()))?;
    let tools = match options.tool_choice.as_deref() {
        Some("none") => OfferedTools::default(),
        _ => tools.unwrap_or_default(),
    };
    let format = options.response_schema.as_deref().map(response_format);
    let settings = Settings {
        effort: effort.unwrap_or_default(),
        functions: tools.functions,
        builtin: tools.builtin,
        current_date: Some(today()),
        response_format: format.transpose()?,
        ..Settings::default()
    };
    settings.validate().map_err(|e| invalid(e.to_string()))?;
    Ok(settings)
}

fn response_format(schema: &str) -> Result<ResponseFormat, Failure> {
    let schema: Value = serde_json::from_str(schema)
        .map_err(|e| invalid(format!("response-schema is no JSON: {e}")))?;
    if !schema.is_object() {
        return Err(invalid("response-schema must be a JSON object"));
    }
    Ok(ResponseFormat::new(schema))
}

fn guidance(options: &Options, settings: &Settings) -> Result<Guidance, Failure> {
    // What a tool is offered by, and what it can be called by.
    let functions = settings.functions.iter();
    let functions = functions.map(|tool| (tool.name.as_str(), tool.name.clone()));
    let builtin = settings.builtin.iter();
    let builtin =
        builtin.flat_map(|tool| tool.calls().into_iter().map(|call| (tool.as_str(), call.0)));
    let tools = functions.chain(builtin);
    let must_call: Vec<String> = match options.tool_choice.as_deref() {
        None | Some("auto" | "none") => Vec::new(),
        Some(choice) => {
            let chosen = |tool: &str| choice == "required" || choice == tool;
            let calls: Vec<_> = tools
                .filter(|(tool, _)| chosen(tool))
                .map(|(_, call)| call)
                .collect();
            if calls.is_empty() {
                return Err(invalid(match choice {
                    "required" => "tool-choice is required, and there are no tools".to_owned(),
                    name => format!(
                        "tool-choice {name:?} is none of the tools, nor auto, none or required"
                    ),
                }));
            }
            calls
        }
    };
    if let Some(format) = &settings.response_format {
        aside(|| grammar::check(&format.schema))?;
    }
    Ok(Guidance {
        reasoning: options.max_reasoning_tokens.map(|n| n as usize),
        must_call,
    })
}

/// Does what may take a while; on a runtime with several threads others take over
/// what this one would have done meanwhile.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let runtime = Handle::try_current().map(|handle| handle.runtime_flavor());
    match runtime {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn sampling(options: &Options) -> Result<Sampling, Failure> {
    let default = Sampling::default();
    let narrow = |value: Option<f64>, default: f32| value.map_or(default, |v| v as f32);
    let sampling = Sampling {
        temperature: narrow(options.temperature, default.temperature),
        top_p: narrow(options.top_p, default.top_p),
        min_p: narrow(options.min_p, default.min_p),
        top_k: options.top_k.unwrap_or(default.top_k),
        seed: options.seed,
        logprobs: options.logprobs.map(|n| n as usize),
    };
    sampling.validate().map_err(|e| invalid(e.to_string()))?;
    Ok(sampling)
}

fn max_output_tokens(options: &Options) -> Result<Option<usize>, Failure> {
    match options.max_output_tokens {
        Some(0) => Err(invalid("max-output-tokens is 0, it must be at least 1")),
        given => Ok(given.map(|n| n as usize)),
    }
}

fn stop(options: &Options) -> Result<Vec<String>, Failure> {
    let strings = options.stop.clone().unwrap_or_default();
    let (most, longest) = STOP_STRINGS;
    if strings.len() > most || strings.iter().any(|s| s.len() > longest) {
        return Err(invalid(format!(
            "stop: at most {most} strings of at most {longest} bytes"
        )));
    }
    if strings.iter().any(String::is_empty) {
        return Err(invalid("stop: an empty string would end every answer"));
    }
    Ok(strings)
}

fn priority(options: &Options) -> Result<Priority, Failure> {
    match options.priority.as_deref() {
        None | Some("interactive") => Ok(Priority::Interactive),
        Some("background") => Ok(Priority::Background),
        Some(other) => Err(invalid(format!(
            "unknown priority {other:?}: use interactive or background"
        ))),
    }
}

/// The date in UTC, as `2025-06-28`.
fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    date(now.map_or(0, |d| d.as_secs() / 86_400))
}

/// The date of a day since 1970-01-01, by counting years from March on, so
/// that the leap day is a year's last.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = match month {
        0..=9 => (month + 3, 0),
        _ => (month - 9, 1),
    };
    let year = era * 400 + year + next;
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::harmony::{Channel, Role};

    fn user(content: &str) -> MessageParts {
        MessageParts {
            role: "user".into(),
            content: content.into(),
            ..MessageParts::default()
        }
    }

    fn check(options: Options) -> Result<Prompt, Failure> {
        Prompt::new(vec![user("hi")], &options, 1000)
    }

    #[test]
    fn the_defaults() {
        let prompt = check(Options::default()).unwrap();
        assert_eq!(prompt.sampling, Sampling::default());
        assert_eq!(prompt.conversation.messages, [Message::user("hi")]);
        assert_eq!(prompt.conversation.settings.effort, Effort::Medium);
        assert!(!prompt.show_reasoning);
        assert_eq!(prompt.max_output_tokens, None);
    }

    #[test]
    fn messages_keep_all_their_parts() {
        let call = MessageParts {
            role: "assistant".into(),
            content: "{}".into(),
            channel: Some("commentary".into()),
            name: None,
            recipient: Some("functions.f".into()),
            call_id: Some("call_1".into()),
        };
        let prompt = Prompt::new(vec![user("hi"), call], &Options::default(), 1000).unwrap();
        let message = prompt.conversation.messages.last().unwrap();
        assert_eq!(message.role, Role::Assistant);
        assert_eq!(message.channel, Some(Channel::Commentary));
        assert_eq!(message.recipient.as_deref(), Some("functions.f"));
        assert_eq!(message.call_id.as_deref(), Some("call_1"));
    }

    #[test]
    fn nonsense_is_named() {
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            check(options).unwrap_err().to_string()
        };
        assert!(with(|o| o.temperature = Some(-1.0)).contains("temperature"));
        assert!(with(|o| o.top_p = Some(f64::NAN)).contains("top-p"));
        assert!(with(|o| o.min_p = Some(2.0)).contains("min-p"));
        assert!(with(|o| o.logprobs = Some(21)).contains("logprobs"));
        assert!(with(|o| o.max_output_tokens = Some(0)).contains("max-output-tokens"));
        assert!(with(|o| o.reasoning_effort = Some("huge".into())).contains("huge"));
        assert!(with(|o| o.priority = Some("now".into())).contains("priority"));
        assert!(with(|o| o.stop = Some(vec![String::new()])).contains("stop"));
        assert!(with(|o| o.stop = Some(vec!["x".into(); 17])).contains("stop"));
        assert!(with(|o| o.tools = Some("{".into())).contains("JSON"));
        let none = Prompt::new(vec![], &Options::default(), 9).unwrap_err();
        assert!(matches!(none, Failure::InvalidArgs(_)));
        let mut wrong = user("x");
        wrong.role = "boss".into();
        let wrong = Prompt::new(vec![user("x"), wrong], &Options::default(), 99).unwrap_err();
        assert!(
            wrong.to_string().starts_with("message 1: unknown role"),
            "{wrong}"
        );
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        let schema = |schema: &str| {
            check(Options {
                response_schema: Some(schema.into()),
                ..Options::default()
            })
        };
        let prompt = schema(r#"{"type": "object"}"#).unwrap();
        let format = prompt.conversation.settings.response_format;
        assert_eq!(format.unwrap().schema["type"], "object");
        let unknown = schema(r#"{"type": "array", "uniqueItems": true}"#);
        let Err(Failure::SchemaNotSupported(message)) = unknown else {
            panic!("{unknown:?}");
        };
        assert!(message.contains("uniqueItems"), "{message}");
        // Nobody can talk the library out of it.
        let lenient = r#"{"uniqueItems": true, "x-guidance": {"lenient": true}}"#;
        assert!(matches!(
            schema(lenient),
            Err(Failure::SchemaNotSupported(_))
        ));
        for nonsense in ["{", "3", "[]"] {
            assert!(matches!(schema(nonsense), Err(Failure::InvalidArgs(_))));
        }
    }

    #[test]
    fn a_tool_choice_names_tools_that_are_there() {
        let choose = |choice: &str, tools: Option<&str>| {
            check(Options {
                tool_choice: Some(choice.into()),
                tools: tools.map(str::to_owned),
                ..Options::default()
            })
        };
        let tools =
            Some(r#"[{"type": "function", "name": "f"}, {"type": "function", "name": "g"}]"#);
        let must = |choice| choose(choice, tools).unwrap().guidance.must_call;
        assert!(must("auto").is_empty());
        assert_eq!(must("required"), ["f", "g"]);
        assert_eq!(must("g"), ["g"]);
        let none = choose("none", tools).unwrap();
        assert!(none.conversation.settings.functions.is_empty());
        assert!(matches!(choose("h", tools), Err(Failure::InvalidArgs(_))));
        assert!(matches!(
            choose("required", None),
            Err(Failure::InvalidArgs(_))
        ));
    }

    /// A chain of references is as deep for the library as it is long; it took the
    /// stack of the thread, and the daemon with it.
    #[test]
    fn a_long_chain_of_references_is_read_or_refused() {
        let chain = |links: usize| {
            let link = |n: usize| {
                (
                    format!("d{n}"),
                    json!({"$ref": format!("#/$defs/d{}", n + 1)}),
                )
            };
            let mut definitions: serde_json::Map<_, _> = (0..links).map(link).collect();
            definitions.insert(format!("d{links}"), json!({"type": "string"}));
            let schema = json!({"$ref": "#/$defs/d0", "$defs": definitions});
            let options = Options {
                tools: Some(
                    json!([{"type": "function", "name": "f", "parameters": schema}]).to_string(),
                ),
                response_schema: Some(schema.to_string()),
                ..Options::default()
            };
            Prompt::new(vec![user("hi")], &options, 4 << 20)
        };
        chain(4000).unwrap();
        let Err(Failure::SchemaNotSupported(message)) = chain(5000) else {
            panic!("read");
        };
        assert!(message.contains("5003 objects"), "{message}");
        let patterns: serde_json::Map<_, _> =
            (0..33).map(|n| (format!("^a{n}$"), json!({}))).collect();
        let schema = json!({"type": "object", "patternProperties": patterns});
        let refused = check(Options {
            response_schema: Some(schema.to_string()),
            ..Options::default()
        });
        assert!(matches!(refused, Err(Failure::SchemaNotSupported(_))));
    }

    #[test]
    fn text_is_limited() {
        let long = Prompt::new(vec![user(&"x".repeat(100))], &Options::default(), 99);
        let Err(Failure::LimitsExceeded(message)) = long else {
            panic!("{long:?}");
        };
        assert!(message.contains("limits.prompt-bytes"));
    }

    #[test]
    fn dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (19_782, "2024-02-29"),
            (20_267, "2025-06-28"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }
}
