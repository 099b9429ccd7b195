//! `gptoss-ctl doctor`: what is in order on this machine, what is not, and what to
//! do about it. It looks, and changes nothing.

mod daemon;
mod installation;
mod machine;

use serde::Serialize;

use super::daemon::BusName;
use super::progress::Ui;
use super::{CliError, ExitStatus, Global};

/// Arguments of `gptoss-ctl doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The bus the daemon is on.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
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

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Good,
            found: found.into(),
            advice: None,
        }
    }

    fn note(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Note,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn wrong(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
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
    let mut findings = machine::look();
    findings.extend(installation::look(global, args.bus));
    findings.extend(daemon::look(args.bus)?);
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
        1 => Err(CliError::new(ExitStatus::Failed, "1 thing is wrong")),
        n => Err(CliError::new(
            ExitStatus::Failed,
            format!("{n} things are wrong"),
        )),
    }
}

fn text(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Good => "ok   ",
            Verdict::Note => "note ",
            Verdict::Wrong => "WRONG",
        };
        let mut line = format!("{mark}  {:<10}  {}", finding.check, finding.found);
        if let Some(advice) = &finding.advice {
            line += &format!("\n                   -> {advice}");
        }
        line
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_under_what_it_is_about() {
        let findings = [
            Finding::good("processor", "fast"),
            Finding::wrong("store", "gone", "make one"),
        ];
        assert_eq!(
            text(&findings),
            "ok     processor   fast\nWRONG  store       gone\n                   -> make one"
        );
    }
}
