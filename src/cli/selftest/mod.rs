//! `gptoss-ctl selftest`: the embedded model on each provider.

mod privacy;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::daemon::BusName;
use super::messages::{decimal, message};
use super::progress::Ui;
use super::{CliError, ExitStatus, Global, in_process};
use crate::runtime::{self, NotProven, Provider, Quarantine, RuntimeError, library};

/// Arguments of `gptoss-ctl selftest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Try providers in quarantine, too, and let out what works.
    #[arg(long)]
    retry: bool,
    /// Write what a report of a fault should have into this file; `-` for standard output.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Whose quarantine counts: the daemon's on this bus.
    #[arg(long, value_enum, default_value = "system", env = "GPTOSS_BUS")]
    bus: BusName,
}

#[derive(Debug, Serialize)]
struct Row {
    provider: String,
    passed: bool,
    /// Of its logits from the golden ones; none where there are none, or no numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    distance: Option<f64>,
    /// How large it may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance: Option<f64>,
    /// Why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Not tried, since it broke then.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined_since: Option<String>,
    milliseconds: u64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    library: String,
    version: String,
    providers: Vec<Row>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let ui = Ui::new(global.json);
    let quarantine = args.bus.quarantine();
    let outcome = examine(global, args.retry, &quarantine, &ui);
    let to_stdout = args.report.as_deref().is_some_and(report::is_stdout);
    if let Some(file) = &args.report {
        // Without a library as well: that may be the fault.
        let told = report::text(global, &quarantine, &outcome);
        report::write(file, &told)?;
        if !to_stdout {
            ui.note(&message!("selftest-reported", file = %file.display()));
        }
    }
    let outcome = outcome?;
    if !to_stdout {
        ui.result(&text(&outcome.providers), &outcome);
    }
    match outcome.providers.iter().any(|row| row.passed) {
        true => Ok(()),
        false => Err(CliError::new(
            ExitStatus::Verification,
            message!("selftest-none"),
        )),
    }
}

fn examine(
    global: &Global,
    retry: bool,
    quarantine: &Quarantine,
    ui: &Ui,
) -> Result<Outcome, CliError> {
    in_process::start_runtime(global)?;
    let library = library::loaded().ok_or(RuntimeError::NotInitialised)?;
    let mut providers = Vec::new();
    for &provider in Provider::of_this_system() {
        let started = Instant::now();
        let proof = match retry {
            true => runtime::prove_anew(provider, quarantine)?,
            false => runtime::prove(provider, quarantine)?,
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        // It works, and what was written down of it is still there.
        if let (Ok(_), Some(_), Some(file)) =
            (&proof, quarantine.holds(provider), quarantine.file())
        {
            ui.note(&message!(
                "selftest-kept",
                file = %file.display(),
                provider = %provider
            ));
        }
        providers.push(row(provider, proof, milliseconds));
    }
    Ok(Outcome {
        library: library.path.display().to_string(),
        version: library.version,
        providers,
    })
}

fn row(provider: Provider, proof: Result<runtime::Distance, NotProven>, milliseconds: u64) -> Row {
    let judged = match &proof {
        Ok(judged) | Err(NotProven::Wrong(judged)) => Some(*judged),
        Err(_) => None,
    };
    let (passed, reason, quarantined_since) = match proof {
        Ok(_) => (true, None, None),
        Err(NotProven::Quarantined(record)) => (false, Some(record.reason), Some(record.since)),
        Err(why) => (false, Some(why.to_string()), None),
    };
    Row {
        provider: provider.to_string(),
        passed,
        distance: judged.map(|j| j.found).filter(|found| found.is_finite()),
        tolerance: judged.map(|judged| judged.allowed),
        reason,
        quarantined_since,
        milliseconds,
    }
}

fn text(rows: &[Row]) -> String {
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    if rows.iter().any(|row| row.quarantined_since.is_some()) {
        lines.push(message!("selftest-how-to-retry"));
    }
    lines.join("\n")
}

fn line(row: &Row) -> String {
    let why = row.reason.as_deref().unwrap_or_default();
    let found = match (&row.quarantined_since, row.passed) {
        (Some(since), _) => message!("selftest-quarantined", since = since, why = why),
        (None, false) => message!("selftest-failed", why = why),
        (None, true) => message!(
            "selftest-passed",
            distance = decimal(row.distance.unwrap_or(0.0), 3),
            tolerance = decimal(row.tolerance.unwrap_or(0.0), 3),
            milliseconds = row.milliseconds
        ),
    };
    format!("{:<7} {found}", row.provider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Distance;
    use crate::runtime::quarantine::Record;

    #[test]
    fn each_provider_is_told_of_in_a_line() {
        let near = Distance {
            found: 0.018,
            allowed: 0.06,
        };
        let far = Distance {
            found: f64::INFINITY,
            allowed: 0.3,
        };
        let record = Record {
            provider: "cuda".into(),
            since: "2026-01-31T12:00:00Z".into(),
            reason: "it crashed".into(),
            driver: None,
            devices: Vec::new(),
            onnxruntime: String::new(),
            library: String::new(),
            gptoss: String::new(),
        };
        let rows = [
            row(Provider::Cpu, Ok(near), 120),
            row(Provider::CoreMl, Err(NotProven::Wrong(far)), 120),
            row(
                Provider::Cuda,
                Err(NotProven::Quarantined(Box::new(record))),
                0,
            ),
        ];
        let text = text(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("cpu     works"), "{text}");
        assert!(
            lines[0].contains("0.018") && lines[0].contains("0.06"),
            "{text}"
        );
        assert!(
            lines[1].contains("does not work") && lines[1].contains("inf"),
            "{text}"
        );
        assert!(lines[2].contains("quarantined since 2026-01-31"), "{text}");
        assert!(lines[3].contains("--retry"), "{text}");
        assert_eq!(rows[1].distance, None);
        assert_eq!(rows[1].tolerance, Some(0.3));
    }
}
