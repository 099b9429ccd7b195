//! `gptoss-ctl run`: one question, one answer, streaming.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use super::daemon::{BusName, block_on, explain};
use super::{CliError, ExitStatus, Global};
use crate::client::{Answer, Client, Message, Options, StreamEvent};

/// Exit code after Ctrl-C, as shells expect it: 128 and SIGINT.
const INTERRUPTED: i32 = 130;

/// Arguments of `gptoss-ctl run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model, as `gptoss-ctl list` shows it.
    model: String,
    /// The prompt; `-` or none reads it from standard input. Piped input is
    /// appended to a prompt that is given.
    prompt: Option<String>,
    /// How long the model may think: low, medium or high.
    #[arg(long, value_name = "EFFORT", value_parser = ["low", "medium", "high"])]
    effort: Option<String>,
    /// Instructions, before the prompt.
    #[arg(long, visible_alias = "system", value_name = "TEXT")]
    instructions: Option<String>,
    /// Show the model's reasoning too, on standard error.
    #[arg(long)]
    show_reasoning: bool,
    /// Most tokens to generate.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Most tokens of reasoning; then the answer begins.
    #[arg(long, value_name = "N")]
    max_reasoning_tokens: Option<u32>,
    /// A file with the JSON Schema that the answer must have.
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// 0 always takes the most probable token.
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Makes a sampled answer repeatable.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The bus the daemon is on.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let prompt = prompt(args.prompt.as_deref())?;
    let mut messages = Vec::new();
    if let Some(instructions) = &args.instructions {
        messages.push(Message::new("system", instructions.as_str()));
    }
    messages.push(Message::new("user", prompt));
    let schema = args.schema.as_deref().map(read).transpose()?;
    let options = Options::default()
        .set("model", args.model.as_str())
        .set("show-reasoning", args.show_reasoning)
        .set_some("reasoning-effort", args.effort.as_deref())
        .set_some("max-output-tokens", args.max_tokens)
        .set_some("max-reasoning-tokens", args.max_reasoning_tokens)
        .set_some("response-schema", schema.as_deref())
        .set_some("temperature", args.temperature)
        .set_some("seed", args.seed);
    block_on(async {
        let failed = |e| explain(e, args.bus);
        let client = Client::connect(args.bus.into()).await.map_err(failed)?;
        let answer = client.generate(&messages, &options).await.map_err(failed)?;
        follow(answer, global.json, args.bus).await
    })
}

fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|error| {
        let status = match error.kind() {
            std::io::ErrorKind::NotFound => ExitStatus::NotFound,
            _ => ExitStatus::Failed,
        };
        CliError::new(status, format!("cannot read {}: {error}", path.display()))
    })
}

/// The prompt, from the command line, standard input, or both.
fn prompt(given: Option<&str>) -> Result<String, CliError> {
    let mut input = std::io::stdin();
    let asked = matches!(given, None | Some("-"));
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
            CliError::new(
                ExitStatus::Failed,
                format!("cannot read standard input: {e}"),
            )
        })?;
        if !text.is_empty() && !read.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&read);
    }
    match text.trim().is_empty() {
        true => Err(CliError::new(
            ExitStatus::Usage,
            "the prompt is empty: give it as an argument or on standard input",
        )),
        false => Ok(text),
    }
}

/// Prints the answer until its end; Ctrl-C cancels it.
async fn follow(mut answer: Answer, json: bool, bus: BusName) -> Result<(), CliError> {
    let mut printer = Printer::new(json);
    let mut interrupted = false;
    loop {
        let line = tokio::select! {
            line = answer.next_line() => line,
            _ = tokio::signal::ctrl_c() => {
                // The second time the daemon is not waited for; and where it
                // does not answer, dropping the stream cancels as well.
                let again = std::mem::replace(&mut interrupted, true);
                if again || answer.cancel().await.is_err() {
                    break;
                }
                continue;
            }
        };
        let Some(line) = line.map_err(|e| explain(e, bus))? else {
            break;
        };
        let event = StreamEvent::parse(&line).map_err(|e| explain(e, bus))?;
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
    if interrupted {
        // By way of the exit, so that a shell's loop ends as well.
        std::process::exit(INTERRUPTED);
    }
    Ok(())
}

fn unwritable(error: std::io::Error) -> CliError {
    CliError::new(
        ExitStatus::Failed,
        format!("cannot write the answer: {error}"),
    )
}

/// Writes events for people, or as they are.
struct Printer {
    json: bool,
    /// Whether control characters could reach a terminal.
    neutralise: bool,
    /// Whether the last thing on standard output needs a line end.
    open_line: bool,
    reasoning: bool,
    truncated: bool,
}

impl Printer {
    fn new(json: bool) -> Self {
        Self {
            json,
            neutralise: std::io::stdout().is_terminal(),
            open_line: false,
            reasoning: false,
            truncated: false,
        }
    }

    fn print(&mut self, line: &str, event: &StreamEvent) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{line}")?;
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
            StreamEvent::Delta { text, .. } => {
                if std::mem::take(&mut self.reasoning) {
                    eprintln!("\n");
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
            eprintln!("gptoss-ctl: the answer was cut: the limit of tokens is reached");
        }
    }
}

/// Text that a terminal shows and does not obey: control characters other
/// than line feed and tab, and those that reorder text, become visible.
fn printable(text: &str, neutralise: bool) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => c,
        // The pictures of the control characters.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    match neutralise {
        true => text.chars().map(visible).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        let text = "a\x1b]0;title\x07b\r\n\tc\u{9b}31m\u{202e}é\u{7f}";
        assert_eq!(
            printable(text, true),
            "a␛]0;title␇b␍\n\tc\u{fffd}31m\u{fffd}é␡"
        );
        assert_eq!(printable(text, false), text);
    }
}
