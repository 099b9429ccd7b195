//! `gptoss-ctl doctor`: what is in order on this machine, what is not, and what to
//! do about it. It looks, and changes nothing.

mod daemon;
mod installation;
mod machine;

use serde::Serialize;

pub(super) use machine::missing_cuda_libraries;

use super::daemon::Place;
use super::messages::message;
use super::progress::Ui;
use super::{CliError, ExitStatus, Global};

/// Arguments of `gptoss-ctl doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Check {
    Processor,
    Memory,
    Gpu,
    Store,
    Runtime,
    Provider,
    Settings,
    Catalog,
    Units,
    Bus,
    Socket,
    Daemon,
    Network,
}

impl Check {
    const ALL: [Self; 13] = [
        Self::Processor,
        Self::Memory,
        Self::Gpu,
        Self::Store,
        Self::Runtime,
        Self::Provider,
        Self::Settings,
        Self::Catalog,
        Self::Units,
        Self::Bus,
        Self::Socket,
        Self::Daemon,
        Self::Network,
    ];

    /// Its name, for people.
    fn label(self) -> String {
        match self {
            Self::Processor => message!("doctor-processor"),
            Self::Memory => message!("doctor-memory"),
            Self::Gpu => message!("doctor-gpu"),
            Self::Store => message!("doctor-store"),
            Self::Runtime => message!("doctor-runtime"),
            Self::Provider => message!("doctor-provider"),
            Self::Settings => message!("doctor-settings"),
            Self::Catalog => message!("doctor-catalog"),
            Self::Units => message!("doctor-units"),
            Self::Bus => message!("doctor-bus"),
            Self::Socket => message!("doctor-socket"),
            Self::Daemon => message!("doctor-daemon"),
            Self::Network => message!("doctor-network"),
        }
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// As it should be.
    Good,
    /// It works; something could be better, or could not be looked at.
    Note,
    /// It does not work.
    Wrong,
}

impl Verdict {
    /// In a word, for people.
    fn mark(self) -> String {
        match self {
            Self::Good => message!("doctor-good"),
            Self::Note => message!("doctor-note"),
            Self::Wrong => message!("doctor-wrong"),
        }
    }
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: Check,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn good(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Good,
            found: found.into(),
            advice: None,
        }
    }

    fn note(check: Check, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Note,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn wrong(check: Check, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Wrong,
            ..Self::note(check, found, advice)
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    findings: Vec<Finding>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    // ONNX Runtime first: CUDA's libraries may come with it.
    let installation = installation::look(global, &args.place);
    let mut findings = machine::look();
    findings.extend(installation);
    findings.extend(daemon::look(&args.place)?);
    let wrong = findings
        .iter()
        .filter(|f| f.verdict == Verdict::Wrong)
        .count();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        findings,
    };
    ui.result(&text(&report.findings), &report);
    match wrong {
        0 => Ok(()),
        n => {
            let message = message!("doctor-count", wrong = n);
            Err(CliError::new(ExitStatus::Failed, message))
        }
    }
}

fn text(findings: &[Finding]) -> String {
    let verdicts = [Verdict::Good, Verdict::Note, Verdict::Wrong];
    let marks = widest(verdicts.map(Verdict::mark));
    let labels = widest(Check::ALL.map(Check::label)) + 1;
    let line = |finding: &Finding| {
        let (mark, label) = (finding.verdict.mark(), finding.check.label());
        let mut line = format!("{mark:marks$}  {label:labels$}  {}", finding.found);
        if let Some(advice) = &finding.advice {
            let before = marks + labels + 4;
            line += &format!("\n{:before$}-> {advice}", "");
        }
        line
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Characters of the longest.
fn widest<const N: usize>(texts: [String; N]) -> usize {
    let lengths = texts.iter().map(|text| text.chars().count());
    lengths.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_under_what_it_is_about() {
        let findings = [
            Finding::good(Check::Processor, "fast"),
            Finding::wrong(Check::Store, "gone", "make one"),
        ];
        assert_eq!(
            text(&findings),
            "ok     processor   fast\nWRONG  store       gone\n                   -> make one"
        );
    }
}
