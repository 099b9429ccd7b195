//! `gptoss-ctl run`: one question, one answer, streaming.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use super::attachment::{Attachment, with_files};
use super::daemon::{Place, block_on, explain};
use super::error::reason;
use super::generation::GenerationArgs;
use super::interrupt::{INTERRUPTED, Interruptible};
use super::messages::message;
use super::terminal::{printable, printable_json, tell};
use super::{CliError, ExitStatus, Global};
use crate::client::{Answer, Message, StreamEvent};

/// Arguments of `gptoss-ctl run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, as `gptoss-ctl list` shows it.
    model: String,
    /// The prompt; `-` or none reads it from standard input. Piped input is
    /// appended to a prompt that is given.
    prompt: Option<String>,
    /// A text file to append to the prompt; may be given several times.
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Show the model's reasoning too, on standard error.
    #[arg(long)]
    show_reasoning: bool,
    /// A file with the JSON Schema that the answer must have.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    #[command(flatten)]
    generation: GenerationArgs,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let files: Result<Vec<_>, _> = args
        .file
        .iter()
        .map(|path| Attachment::read(path))
        .collect();
    let prompt = prompt(args.prompt.as_deref(), &files?)?;
    let GenerationArgs {
        instructions,
        place,
        ..
    } = &args.generation;
    let mut messages = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(Message::new("system", instructions.as_str()));
    }
    messages.push(Message::new("user", prompt));
    let schema = args.schema.as_deref().map(Attachment::read).transpose()?;
    let options = args.generation.options();
    let options = options
        .set("model", args.model.as_str())
        .set("show-reasoning", args.show_reasoning)
        .set_some(
            "response-schema",
            schema.as_ref().map(|file| file.text.as_str()),
        );
    block_on(async {
        let failed = |e| explain(e, place);
        let client = place.connect().await.map_err(failed)?;
        let answer = client.generate(&messages, &options).await.map_err(failed)?;
        follow(answer, global.json, place).await
    })
}

/// The prompt, from the command line, standard input, files, or all of them.
fn prompt(given: Option<&str>, files: &[Attachment]) -> Result<String, CliError> {
    let mut input = std::io::stdin();
    let asked = given == Some("-") || (given.is_none() && files.is_empty());
    // A socket or a device may never end: only what a shell redirects counts
    // unasked.
    let piped = rustix::fs::fstat(&input).is_ok_and(|stat| {
        use rustix::fs::FileType;
        let kind = FileType::from_raw_mode(stat.st_mode);
        matches!(kind, FileType::Fifo | FileType::RegularFile)
    });
    let mut text = match given {
        Some("-") | None => String::new(),
        Some(text) => text.to_owned(),
    };
    if asked || piped {
        let mut read = String::new();
        let result = input.read_to_string(&mut read);
        result.map_err(|e| {
            let message = message!("run-no-input", why = reason(&e));
            CliError::new(ExitStatus::Failed, message)
        })?;
        if !text.is_empty() && !read.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&read);
    }
    let text = with_files(&text, files);
    match text.trim().is_empty() {
        true => Err(CliError::new(ExitStatus::Usage, message!("run-empty"))),
        false => Ok(text),
    }
}

/// Prints the answer until its end; Ctrl-C cancels it.
async fn follow(answer: Answer, json: bool, place: &Place) -> Result<(), CliError> {
    let mut printer = Printer::new(json);
    let mut answer = Interruptible::new(answer);
    while let Some(line) = answer.next_line().await.map_err(|e| explain(e, place))? {
        let event = StreamEvent::parse(&line).map_err(|e| explain(e, place))?;
        match printer.print(&line, &event) {
            // `gptoss-ctl run … | head`: enough was read.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            printed => printed.map_err(unwritable)?,
        }
        if let StreamEvent::Error { name, message } = event {
            printer.finish();
            return Err(super::daemon::refusal(&name, &message));
        }
    }
    printer.finish();
    if answer.was_interrupted() {
        // By way of the exit, so that a shell's loop ends as well.
        std::process::exit(INTERRUPTED);
    }
    Ok(())
}

pub(super) fn unwritable(error: std::io::Error) -> CliError {
    let message = message!("run-unwritable", why = reason(&error));
    CliError::new(ExitStatus::Failed, message)
}

/// Writes events for people, or as they are.
struct Printer {
    json: bool,
    /// Whether control characters could reach a terminal.
    neutralise: bool,
    /// Whether the last thing on standard output needs a line end.
    open_line: bool,
    /// Whether it was said before the answer proper.
    preamble: bool,
    reasoning: bool,
    truncated: bool,
}

impl Printer {
    fn new(json: bool) -> Self {
        Self {
            json,
            neutralise: std::io::stdout().is_terminal(),
            open_line: false,
            preamble: false,
            reasoning: false,
            truncated: false,
        }
    }

    fn print(&mut self, line: &str, event: &StreamEvent) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", printable_json(line, self.neutralise))?;
            return out.flush();
        }
        match event {
            StreamEvent::Delta { channel, text, .. } if channel == "analysis" => {
                let mut err = std::io::stderr().lock();
                let text = printable(text, std::io::stderr().is_terminal());
                self.reasoning = true;
                let _ = write!(err, "{text}");
                Ok(())
            }
            StreamEvent::Delta { channel, text, .. } => {
                if std::mem::take(&mut self.reasoning) {
                    tell("\n\n");
                }
                let preamble = channel == "commentary";
                if std::mem::replace(&mut self.preamble, preamble) && !preamble {
                    write!(out, "\n\n")?;
                }
                let text = printable(text, self.neutralise);
                self.open_line = !text.ends_with('\n');
                write!(out, "{text}")?;
                out.flush()
            }
            StreamEvent::ToolCall {
                name, arguments, ..
            } => {
                let call = printable(&format!("{name}({arguments})"), self.neutralise);
                writeln!(out, "{call}")?;
                out.flush()
            }
            StreamEvent::End { finish_reason } => {
                self.truncated = finish_reason == "length";
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self) {
        if !self.json && self.open_line {
            // Nobody may be reading any more.
            let _ = writeln!(std::io::stdout());
        }
        if self.truncated && !self.json {
            tell(format_args!("gptoss-ctl: {}\n", message!("run-cut")));
        }
    }
}
