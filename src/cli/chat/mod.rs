//! `gptoss-ctl chat`: a conversation at the terminal.
//!
//! Answers go to standard output, everything else to the terminal or to
//! standard error. What is said lives in memory, here and in the daemon; a file
//! is written only by `/save` and with `--history`.

mod command;
mod conversation;
mod editor;
mod save;
mod view;

use std::io::{self, IsTerminal};
use std::path::Path;

use serde_json::Value;
use tokio::signal::ctrl_c;

use self::command::{COMMANDS, Command, Input};
use self::conversation::{Begun, Conversation};
use self::editor::{Line, LineEditor, history_file};
use self::view::{End, Outcome, Reasoning, View, notice, show_thought};
use super::attachment::{Attachment, with_files};
use super::daemon::{Place, block_on, explain};
use super::error::reason;
use super::generation::GenerationArgs;
use super::interrupt::Interruptible;
use super::messages::{decimal, message};
use super::run::unwritable;
use super::terminal::{Quiet, restore_at_end};
use super::{CliError, ExitStatus, Global};
use crate::client::{ClientError, Message, StreamEvent};

/// Arguments of `gptoss-ctl chat`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, as `gptoss-ctl list` shows it; the daemon's default where not
    /// given.
    model: Option<String>,
    #[command(flatten)]
    generation: GenerationArgs,
    /// How the model's reasoning is shown.
    #[arg(long, value_enum, default_value = "fold")]
    reasoning: Reasoning,
    /// What happens when the conversation no longer fits the context window:
    /// an error, or its oldest turns are forgotten.
    #[arg(long, value_name = "WHAT", value_parser = ["error", "drop-oldest"])]
    on_overflow: Option<String>,
    /// Show answers as they are, without markdown's styles.
    #[arg(long)]
    plain: bool,
    /// Keep what you enter for later conversations, in
    /// $XDG_STATE_HOME/gptoss/chat_history, which only you can read. Without, no
    /// file is written.
    #[arg(long)]
    history: bool,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let refused = |message| Err(CliError::new(ExitStatus::Usage, message));
    if global.json {
        return refused(message!("chat-not-for-programs"));
    }
    if !io::stdin().is_terminal() {
        return refused(message!("chat-needs-terminal"));
    }
    block_on(async {
        restore_at_end();
        Chat::begin(args).await?.converse().await
    })
}

/// A conversation and the terminal it is at.
struct Chat {
    conversation: Conversation,
    place: Place,
    model: String,
    reasoning: Reasoning,
    plain: bool,
    editor: LineEditor,
    /// For the next message.
    files: Vec<Attachment>,
    /// Of the last answer.
    last: Option<Outcome>,
    /// The last message, where it became no part of the conversation.
    unsaid: Option<String>,
}

/// What follows a command.
enum Next {
    Prompt,
    /// This is said once more. What it takes the place of comes back where it fails.
    Say(String, Vec<Message>),
    Leave,
}

impl Chat {
    async fn begin(args: Args) -> Result<Self, CliError> {
        let history = args.history.then(history_file).transpose()?;
        let editor = LineEditor::new(history)?;
        let place = args.generation.place.clone();
        let show = args.reasoning != Reasoning::Hide;
        let mut conversation =
            Conversation::new(args.generation, args.model, show, args.on_overflow);
        let begun = conversation.begin().await;
        let (model, window) = begun.map_err(|e| explain(e, &place))?;
        conversation.prewarm().await;
        let begun = message!("chat-begun", model = &model, window = window);
        notice(&(begun + "\n"));
        Ok(Self {
            conversation,
            place,
            model,
            reasoning: args.reasoning,
            plain: args.plain,
            editor,
            files: Vec::new(),
            last: None,
            unsaid: None,
        })
    }

    async fn converse(mut self) -> Result<(), CliError> {
        loop {
            let line = match self.editor.read().await? {
                Line::Text(line) => line,
                Line::Interrupted => {
                    notice(&message!("chat-how-to-leave"));
                    continue;
                }
                Line::End => return Ok(()),
            };
            match command::parse(&line) {
                Ok(Input::Nothing) => {}
                Ok(Input::Message(text)) => {
                    if self.say(&with_files(&text, &self.files)).await? {
                        self.files.clear();
                    }
                }
                Ok(Input::Command(command)) => {
                    let next = tokio::select! {
                        next = self.command(command) => next,
                        // The daemon does not answer.
                        _ = ctrl_c() => Next::Prompt,
                    };
                    match next {
                        Next::Prompt => {}
                        Next::Say(text, instead_of) => {
                            if !self.say(&text).await? && !instead_of.is_empty() {
                                self.conversation.redo(instead_of);
                                self.unsaid = None;
                                notice(&message!("chat-earlier-stays"));
                            }
                        }
                        Next::Leave => return Ok(()),
                    }
                }
                Err(mistake) => notice(&mistake),
            }
        }
    }

    /// Says something and shows the answer. Whether it is now part of the
    /// conversation.
    async fn say(&mut self, content: &str) -> Result<bool, CliError> {
        let said = self.try_to_say(content).await?;
        self.unsaid = (!said).then(|| content.to_owned());
        Ok(said)
    }

    async fn try_to_say(&mut self, content: &str) -> Result<bool, CliError> {
        let _quiet = Quiet::begin();
        let begun = tokio::select! {
            begun = self.conversation.prompt(content) => begun,
            _ = ctrl_c() => {
                // What the daemon made of it is given up.
                self.conversation.renew();
                notice(&message!("chat-cancelled-message"));
                return Ok(false);
            }
        };
        match begun {
            Ok(Begun { answer, retold }) => {
                if retold > 0 {
                    notice(&message!("chat-retold", messages = retold));
                }
                self.follow(content, Interruptible::new(answer)).await
            }
            Err(error) => {
                self.failed(error);
                Ok(false)
            }
        }
    }

    async fn follow(&mut self, content: &str, mut answer: Interruptible) -> Result<bool, CliError> {
        let mut view = View::new(self.reasoning, self.plain);
        let broken = loop {
            let event = match answer.next_line().await {
                Ok(Some(line)) => StreamEvent::parse(&line),
                Ok(None) => break None,
                Err(error) => Err(error),
            };
            match event {
                Ok(event) => view.event(event).map_err(unwritable)?,
                Err(error) => break Some(error),
            }
        };
        let outcome = view.finish().map_err(unwritable)?;
        match (broken, &outcome.end) {
            (Some(error), _) => {
                self.conversation.lose();
                self.failed(error);
            }
            (None, End::Finished(reason)) => self.finished(content, reason, &outcome),
            (None, End::Failed(name, message)) => self.refused(name, message),
            (None, End::Cut) => {
                self.conversation.renew();
                notice(&(message!("chat-cancelled-turn") + "\n"));
            }
        }
        let counts = matches!(outcome.end, End::Finished(_));
        self.last = Some(outcome);
        Ok(counts)
    }

    /// The turn counts, for the session and for us.
    fn finished(&mut self, content: &str, reason: &str, outcome: &Outcome) {
        self.conversation.commit(content, outcome.said.clone());
        if let Some(name) = &outcome.called {
            // The session waits for a result that nobody has.
            self.conversation.renew();
            notice(&(message!("chat-no-tools", tool = name) + "\n"));
        }
        match reason {
            "cancelled" => notice(&(message!("chat-cancelled-stays") + "\n")),
            "length" => notice(&(message!("chat-cut") + "\n")),
            _ => {}
        }
    }

    /// The turn never was: the daemon refused it, or it failed.
    fn refused(&self, name: &str, message: &str) {
        let mut lines = vec![message.to_owned()];
        if name.rsplit('.').next() == Some("ContextLengthExceeded") {
            lines.push(message!("chat-overflow"));
        }
        lines.push(message!("chat-turn-lost") + "\n");
        notice(&lines.join("\n"));
    }

    fn failed(&self, error: ClientError) {
        if let ClientError::Refused { name, message } = &error {
            return self.refused(name, message);
        }
        let lost = match self.conversation.said().is_empty() {
            true => message!("chat-turn-lost"),
            false => message!("chat-turn-lost-rest-kept"),
        };
        notice(&format!("{}\n{lost}\n", explain(error, &self.place)));
    }

    async fn command(&mut self, command: Command) -> Next {
        match command {
            Command::Quit => return Next::Leave,
            Command::Help => help(),
            Command::New => {
                self.conversation.restart();
                self.files.clear();
                self.last = None;
                self.unsaid = None;
                notice(&message!("chat-another"));
            }
            Command::Model(name) => self.model(name).await,
            Command::Effort(effort) => self.effort(effort),
            Command::System(text) => self.system(text),
            Command::File(path) => self.file(path.as_deref()),
            Command::Save(path) => self.save(&path),
            Command::Undo => match self.conversation.undo() {
                Some(taken) => {
                    let text = beginning(&asked(&taken));
                    notice(&message!("chat-taken-back", text = text));
                }
                None => notice(&message!("chat-nothing-said")),
            },
            Command::Retry => match self.unsaid.take() {
                // The last message, which failed, is no part of the conversation.
                Some(text) => return Next::Say(text, Vec::new()),
                None => match self.conversation.undo() {
                    Some(taken) => return Next::Say(asked(&taken), taken),
                    None => notice(&message!("chat-nothing-said")),
                },
            },
            Command::Fork => match self.conversation.fork().await {
                Ok(depth) => notice(&message!("chat-forked", depth = depth)),
                Err(error) => self.complain(error),
            },
            Command::Back => match self.conversation.back() {
                true => notice(&message!("chat-back")),
                false => notice(&message!("chat-no-copy")),
            },
            Command::Show => self.show(),
            Command::Usage => self.usage().await,
        }
        Next::Prompt
    }

    fn complain(&self, error: ClientError) {
        notice(&explain(error, &self.place).to_string());
    }

    async fn model(&mut self, name: Option<String>) {
        let Some(name) = name else {
            return match self.installed().await {
                Ok(names) => notice(&message!(
                    "chat-models",
                    model = &self.model,
                    installed = names
                )),
                Err(error) => self.complain(error),
            };
        };
        match self.conversation.change_model(&name).await {
            Ok((model, window)) => {
                notice(&message!("chat-model", model = &model, window = window));
                self.model = model;
                self.conversation.prewarm().await;
            }
            Err(error) => self.complain(error),
        }
    }

    async fn installed(&mut self) -> Result<String, ClientError> {
        let client = self.conversation.client().await?;
        let models = client.manager().models().await?;
        let models = models.iter().map(super::status::object);
        let name = |model: Value| Some(model.get("name")?.as_str()?.to_owned());
        Ok(models.filter_map(name).collect::<Vec<_>>().join(", "))
    }

    fn effort(&mut self, effort: Option<String>) {
        if effort.is_some() {
            self.conversation.generation.effort = effort;
        }
        let effort = self.conversation.generation.effort.as_deref();
        notice(&message!(
            "chat-effort",
            effort = effort.unwrap_or("medium")
        ));
    }

    fn system(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.conversation.instruct(&text);
        }
        match self.conversation.instructions() {
            Some(text) => notice(&message!("chat-instructions", text = text)),
            None => notice(&message!("chat-no-instructions")),
        }
    }

    fn file(&mut self, path: Option<&Path>) {
        if let Some(path) = path {
            match Attachment::read(path) {
                Ok(file) => self.files.push(file),
                Err(error) => return notice(&error.to_string()),
            }
        }
        let file = |file: &Attachment| {
            let (name, bytes) = (&file.name, file.text.len());
            message!("chat-file", name = name, bytes = bytes)
        };
        let files: Vec<_> = self.files.iter().map(file).collect();
        match files.is_empty() {
            true => notice(&message!("chat-no-files")),
            false => notice(&message!("chat-files", files = files.join(", "))),
        }
    }

    fn save(&self, path: &Path) {
        match save::save(path, self.conversation.messages(), &self.model) {
            Ok(()) => notice(&message!("chat-saved", file = %path.display())),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                notice(&message!("chat-save-there", file = %path.display()));
            }
            Err(e) => notice(&message!(
                "chat-save-failed",
                file = %path.display(),
                why = reason(&e)
            )),
        }
    }

    fn show(&self) {
        match &self.last {
            Some(Outcome { thought, usage, .. }) if !thought.text.is_empty() => {
                show_thought(thought, self.plain);
                let tokens = usage.map(|usage| usage.reasoning_tokens);
                notice(&format!("{}\n", thought.summary(tokens)));
            }
            _ => notice(&message!("chat-no-reasoning")),
        }
    }

    async fn usage(&mut self) {
        match self.conversation.usage().await {
            Ok((used, window)) => {
                let percent = f64::from(used) * 100.0 / f64::from(window.max(1));
                notice(&message!(
                    "chat-usage",
                    used = used,
                    window = window,
                    percent = decimal(percent, 0)
                ));
            }
            Err(error) => self.complain(error),
        }
        let usage = self.last.as_ref().and_then(|last| last.usage);
        if let Some(usage) = usage {
            let seconds = usage.decode_ms as f64 / 1000.0;
            let speed = usage.output_tokens as f64 / seconds.max(0.001);
            notice(&message!(
                "chat-usage-answer",
                tokens = usage.output_tokens,
                reasoning = usage.reasoning_tokens,
                seconds = decimal(seconds, 1),
                speed = decimal(speed, 1)
            ));
            notice(&message!(
                "chat-usage-prompt",
                tokens = usage.prompt_tokens,
                known = usage.cached_tokens,
                seconds = decimal(usage.prefill_ms as f64 / 1000.0, 1)
            ));
        }
    }
}

fn help() {
    for entry in COMMANDS {
        let command = format!("/{} {}", entry.name, entry.argument);
        notice(&format!("  {command:26} {}", (entry.help)()));
    }
    notice(&message!("chat-help-lines"));
    notice(&message!("chat-help-slash"));
}

/// What the user said in a turn.
fn asked(turn: &[Message]) -> String {
    turn.first().map(|m| m.content.clone()).unwrap_or_default()
}

/// Enough of a text to know it again.
fn beginning(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    match line.chars().count() > LONGEST || line.len() < text.len() {
        true => line.chars().take(LONGEST).chain(['…']).collect(),
        false => line.to_owned(),
    }
}
