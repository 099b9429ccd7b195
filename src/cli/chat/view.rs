//! What an answer looks like while it comes.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anstyle::Style;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::markdown::Renderer;
use super::super::messages::{decimal, message};
use super::super::terminal::{columns, printable, takes_styles, tell};
use crate::client::{Message, StreamEvent, UsageNumbers};

/// `--reasoning`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reasoning {
    /// As it comes, dim.
    Dim,
    /// One line; `/show` shows it.
    Fold,
    /// Not at all.
    Hide,
}

/// The channel that is reasoning.
const ANALYSIS: &str = "analysis";

/// How often the line is drawn that says what is waited for.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What the model thought before it answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Thought {
    pub text: String,
    pub time: Duration,
    /// Its deltas. Each is a token, but where a character takes several.
    pub pieces: usize,
}

/// What an answer came to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub said: Vec<Message>,
    pub thought: Thought,
    pub usage: Option<UsageNumbers>,
    /// Whether the model called a tool, though there are none.
    pub called: Option<String>,
    pub end: End,
}

/// How it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Without its last event.
    #[default]
    Cut,
    /// For this reason.
    Finished(String),
    /// With an error's name and message.
    Failed(String, String),
}

/// Text as it is shown.
enum Text {
    Markdown(Box<Renderer>),
    /// As it is; for a terminal without what commands it.
    Verbatim {
        neutralise: bool,
        open: bool,
    },
}

impl Text {
    /// For this stream.
    fn new(stream: &(impl IsTerminal + AsFd), plain: bool, base: Style) -> Self {
        match takes_styles(stream) && !plain {
            true => Self::Markdown(Box::new(Renderer::new(columns(stream), base))),
            false => Self::Verbatim {
                neutralise: stream.is_terminal(),
                open: false,
            },
        }
    }

    fn push(&mut self, text: &str) -> String {
        match self {
            Self::Markdown(renderer) => renderer.push(text),
            Self::Verbatim { neutralise, open } => {
                *open = if text.is_empty() {
                    *open
                } else {
                    !text.ends_with('\n')
                };
                printable(text, *neutralise)
            }
        }
    }

    /// The rest, up to the beginning of a line.
    fn finish(&mut self) -> String {
        match self {
            Self::Markdown(renderer) => renderer.finish(),
            Self::Verbatim { open, .. } => match std::mem::take(open) {
                true => "\n".into(),
                false => String::new(),
            },
        }
    }
}

/// Writes a line that is not the model's: dim, to standard error.
pub(super) fn notice(text: &str) {
    let style = match takes_styles(&io::stderr()) {
        true => Style::new().dimmed(),
        false => Style::new(),
    };
    let text = printable(text, io::stderr().is_terminal());
    tell(format_args!("{style}{text}{style:#}\n"));
}

/// The reasoning, as `--reasoning dim` shows it.
pub(super) fn show_thought(thought: &Thought, plain: bool) {
    let mut text = Text::new(&io::stderr(), plain, Style::new().dimmed());
    tell(text.push(&thought.text));
    tell(text.finish());
}

/// Shows one answer.
pub(super) struct View {
    reasoning: Reasoning,
    answer: Text,
    thinking: Text,
    /// The channel of the message that is being shown.
    channel: Option<String>,
    /// Of the present reasoning.
    since: Instant,
    /// Says what is waited for.
    wait: Option<ProgressBar>,
    outcome: Outcome,
}

impl View {
    pub(super) fn new(reasoning: Reasoning, plain: bool) -> Self {
        Self {
            reasoning,
            answer: Text::new(&io::stdout(), plain, Style::new()),
            thinking: Text::new(&io::stderr(), plain, Style::new().dimmed()),
            channel: None,
            since: Instant::now(),
            wait: None,
            outcome: Outcome::default(),
        }
    }

    /// Shows what has happened.
    pub(super) fn event(&mut self, event: StreamEvent) -> io::Result<()> {
        match event {
            StreamEvent::Queued {
                position,
                waiting_for,
            } => match waiting_for.as_str() {
                "model" => self.wait_for(message!("chat-loading")),
                _ => self.wait_for(message!("chat-waiting", others = position)),
            },
            StreamEvent::Start {
                prompt_tokens,
                cached_tokens,
                ..
            } => {
                let new = prompt_tokens.saturating_sub(cached_tokens);
                self.wait_for(message!("chat-reading", tokens = new));
            }
            StreamEvent::Delta { channel, text, .. } => self.delta(&channel, &text)?,
            StreamEvent::ToolCall { name, .. } => self.outcome.called = Some(name),
            StreamEvent::Overflow {
                dropped_messages: dropped @ 1..,
                ..
            } => {
                self.stop_waiting();
                notice(&message!("chat-forgotten", messages = dropped));
            }
            StreamEvent::Usage(usage) => self.outcome.usage = Some(usage),
            StreamEvent::End { finish_reason } => self.outcome.end = End::Finished(finish_reason),
            StreamEvent::Error { name, message } => self.outcome.end = End::Failed(name, message),
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, channel: &str, text: &str) -> io::Result<()> {
        if self.channel.as_deref() != Some(channel) {
            self.end_message()?;
            self.begin_message(channel);
        }
        if channel == ANALYSIS {
            let thought = &mut self.outcome.thought;
            thought.text.push_str(text);
            thought.pieces += 1;
            if self.reasoning == Reasoning::Dim {
                tell(self.thinking.push(text));
            } else if let Some(wait) = &self.wait {
                wait.set_message(message!("chat-thinking-so-far", tokens = thought.pieces));
            }
            return Ok(());
        }
        if let Some(message) = self.outcome.said.last_mut() {
            message.content.push_str(text);
        }
        write_out(&self.answer.push(text))
    }

    fn begin_message(&mut self, channel: &str) {
        self.channel = Some(channel.to_owned());
        if channel == ANALYSIS {
            self.since = Instant::now();
            let thought = &mut self.outcome.thought.text;
            if !thought.is_empty() {
                thought.push_str("\n\n");
            }
            match self.reasoning {
                Reasoning::Dim => self.stop_waiting(),
                Reasoning::Fold | Reasoning::Hide => self.wait_for(message!("chat-thinking")),
            }
            return;
        }
        self.stop_waiting();
        self.outcome.said.push(Message {
            channel: Some(channel.to_owned()),
            ..Message::new("assistant", "")
        });
    }

    /// Ends the message that is being shown, and leaves a line free.
    fn end_message(&mut self) -> io::Result<()> {
        match self.channel.take().as_deref() {
            None => {}
            Some(ANALYSIS) => {
                self.stop_waiting();
                self.outcome.thought.time += self.since.elapsed();
                match self.reasoning {
                    Reasoning::Dim => tell(format_args!("{}\n", self.thinking.finish())),
                    Reasoning::Fold => {
                        let thought = self.outcome.thought.summary(None);
                        notice(&(message!("chat-thought-folded", thought = thought) + "\n"));
                    }
                    Reasoning::Hide => {}
                }
            }
            Some(_) => write_out(&(self.answer.finish() + "\n"))?,
        }
        Ok(())
    }

    /// Ends what is being shown.
    pub(super) fn finish(mut self) -> io::Result<Outcome> {
        self.end_message()?;
        self.stop_waiting();
        Ok(std::mem::take(&mut self.outcome))
    }

    fn wait_for(&mut self, what: String) {
        let wait = self.wait.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            let wait = ProgressBar::new_spinner().with_style(style);
            wait.enable_steady_tick(DRAW_EVERY);
            wait
        });
        wait.set_message(what);
    }

    fn stop_waiting(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.finish_and_clear();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl Thought {
    /// How long and how much; `tokens` where they are known exactly.
    pub(super) fn summary(&self, tokens: Option<u64>) -> String {
        let seconds = decimal(self.time.as_secs_f64(), 1);
        match tokens {
            Some(tokens) => message!("chat-thought", seconds = seconds, tokens = tokens),
            None => message!(
                "chat-thought-about",
                seconds = seconds,
                tokens = self.pieces
            ),
        }
    }
}

fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
