//! What an application asks, checked before anything is queued.

use super::failure::Failure;
use crate::engine::{Priority, Sampling};
use crate::harmony::{Conversation, Effort, Message, Settings, parse_function_tools};

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
        if messages.is_empty() {
            return Err(invalid("there are no messages; give at least one"));
        }
        let tools = options.tools.as_ref().map_or(0, String::len);
        let bytes = messages.iter().map(MessageParts::bytes).sum::<usize>() + tools;
        if bytes > prompt_bytes {
            return Err(Failure::LimitsExceeded(format!(
                "limits.prompt-bytes: the request has {bytes} bytes of text, {prompt_bytes} are \
                 allowed"
            )));
        }
        let settings = settings(options)?;
        let messages = messages.into_iter().enumerate();
        let messages = messages
            .map(|(index, parts)| {
                let message = parts.into_message();
                message.map_err(|error| invalid(format!("message {index}: {error}")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Prompt {
            conversation: Conversation { settings, messages },
            sampling: sampling(options)?,
            max_output_tokens: max_output_tokens(options)?,
            stop: stop(options)?,
            priority: priority(options)?,
            show_reasoning: options.show_reasoning.unwrap_or(false),
        })
    }
}

impl MessageParts {
    fn bytes(&self) -> usize {
        let optional = [&self.channel, &self.name, &self.recipient, &self.call_id];
        let optional: usize = optional.into_iter().flatten().map(String::len).sum();
        self.role.len() + self.content.len() + optional
    }

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

fn settings(options: &Options) -> Result<Settings, Failure> {
    if options.response_schema.is_some() {
        return Err(Failure::SchemaNotSupported(
            "this version cannot enforce a response-schema; ask for the form in the instructions"
                .into(),
        ));
    }
    if options.max_reasoning_tokens.is_some() {
        return Err(Failure::NotSupported(
            "this version has no max-reasoning-tokens; use a lower reasoning-effort".into(),
        ));
    }
    let effort = options.reasoning_effort.as_deref();
    let effort = effort.map(str::parse::<Effort>).transpose();
    let effort = effort.map_err(|e| invalid(format!("reasoning-effort: {e}")))?;
    let functions = options.tools.as_deref().map(parse_function_tools);
    let functions = functions.transpose().map_err(|e| invalid(e.to_string()))?;
    let functions = match options.tool_choice.as_deref() {
        None | Some("auto") => functions.unwrap_or_default(),
        Some("none") => Vec::new(),
        Some(other) => {
            return Err(Failure::NotSupported(format!(
                "this version cannot enforce tool-choice {other:?}; use auto or none"
            )));
        }
    };
    let settings = Settings {
        effort: effort.unwrap_or_default(),
        functions,
        current_date: Some(today()),
        ..Settings::default()
    };
    settings.validate().map_err(|e| invalid(e.to_string()))?;
    Ok(settings)
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
        let schema = check(Options {
            response_schema: Some("{}".into()),
            ..Options::default()
        });
        assert!(matches!(schema, Err(Failure::SchemaNotSupported(_))));
        let choice = check(Options {
            tool_choice: Some("required".into()),
            ..Options::default()
        });
        assert!(matches!(choice, Err(Failure::NotSupported(_))));
        let budget = check(Options {
            max_reasoning_tokens: Some(5),
            ..Options::default()
        });
        assert!(matches!(budget, Err(Failure::NotSupported(_))));
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
