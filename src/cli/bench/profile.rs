//! `bench --profile`: what each kind of operator costs, from the profile that
//! ONNX Runtime writes: a JSON array of events with `cat`, `dur` in microseconds
//! and, for a node, `args.op_name`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::report::Measured;
use crate::cli::error::reason;
use crate::cli::messages::{decimal, message};
use crate::cli::{CliError, ExitStatus};
use crate::runtime::OrtBackend;

/// The folder that the profile is written to, gone with the value.
pub(super) struct Folder(Option<PathBuf>);

impl Folder {
    pub fn new(wanted: bool) -> Result<Self, CliError> {
        if !wanted {
            return Ok(Self(None));
        }
        let name = format!("gptoss-profile-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).map_err(|error| {
            let message =
                message!("bench-no-folder", folder = %folder.display(), error = reason(&error));
            CliError::new(ExitStatus::Failed, message)
        })?;
        Ok(Self(Some(folder)))
    }

    /// How the profile's name begins.
    pub fn path(&self) -> Option<PathBuf> {
        self.0.as_ref().map(|folder| folder.join("run"))
    }

    /// Prints the table, to the standard error so that `--json` stays whole.
    pub fn print(&self, backend: &mut OrtBackend, measured: &[Measured]) -> Result<(), CliError> {
        if self.0.is_none() {
            return Ok(());
        }
        let failed = |message: String| CliError::new(ExitStatus::Failed, message);
        let file = backend
            .end_profile()
            .map_err(|error| failed(error.to_string()))?;
        let profile = read(Path::new(&file)).map_err(failed)?;
        let timed: f64 = measured.iter().map(Measured::seconds).sum();
        eprint!("{}", profile.table(timed));
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            // Nothing is lost if it stays: the system clears its folder.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

#[derive(Deserialize)]
struct Event {
    cat: String,
    name: String,
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Deserialize, Default)]
struct Arguments {
    #[serde(default)]
    op_name: String,
}

/// Seconds and calls of each kind of operator, and of whole runs.
#[derive(Debug, Default, PartialEq)]
struct Profile {
    operators: BTreeMap<String, (f64, usize)>,
    runs: (f64, usize),
}

fn read(file: &Path) -> Result<Profile, String> {
    let foreign = |error: String| {
        let profile = file.display();
        message!("bench-unusable-profile", profile = %profile, error = error)
    };
    let text = std::fs::read(file).map_err(|error| foreign(reason(&error)))?;
    parse(&text).map_err(|error| foreign(error.to_string()))
}

fn parse(text: &[u8]) -> Result<Profile, serde_json::Error> {
    let events: Vec<Event> = serde_json::from_slice(text)?;
    let mut profile = Profile::default();
    for event in events {
        let entry = match event.cat.as_str() {
            "Node" if event.name.ends_with("_kernel_time") => {
                profile.operators.entry(event.args.op_name).or_default()
            }
            "Session" if event.name == "model_run" => &mut profile.runs,
            _ => continue,
        };
        entry.0 += event.dur / 1e6;
        entry.1 += 1;
    }
    Ok(profile)
}

impl Profile {
    /// The dearest operators first; last what is not ONNX Runtime's in `timed`
    /// seconds, warming up left aside.
    fn table(&self, timed: f64) -> String {
        use std::fmt::Write;
        let mut rows: Vec<_> = self.operators.iter().collect();
        rows.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let whole = self.runs.0.max(1e-9);
        let mut table = format!(
            "\n| {:<40} | {:>9} | {:>7} | {:>6} |\n",
            "operator", "ms", "calls", "share"
        );
        let _ = writeln!(
            table,
            "| {:-<40} | {:->8}: | {:->6}: | {:->5}: |",
            "", "", "", ""
        );
        let mut row = |name: &str, seconds: f64, calls: usize| {
            let share = 100.0 * seconds / whole;
            let _ = writeln!(
                table,
                "| {name:<40} | {:>9.1} | {calls:>7} | {share:>5.1}% |",
                seconds * 1e3
            );
        };
        let nodes: f64 = rows.iter().map(|(_, (seconds, _))| seconds).sum();
        for (name, &(seconds, calls)) in rows {
            row(name, seconds, calls);
        }
        row("between operators", whole - nodes, self.runs.1);
        row("whole runs", whole, self.runs.1);
        let sum = message!(
            "bench-profile-sum",
            whole = decimal(whole, 3),
            timed = decimal(timed, 3),
        );
        let _ = writeln!(table, "\n{sum}");
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"[
        {"cat":"Session","name":"model_loading_array","dur":9000000},
        {"cat":"Session","name":"model_run","dur":3000},
        {"cat":"Node","name":"a_fence_before","dur":5,"args":{"op_name":"MoE"}},
        {"cat":"Node","name":"a_kernel_time","dur":1500,"args":{"op_name":"MoE","provider":"x"}},
        {"cat":"Node","name":"b_kernel_time","dur":500,"args":{"op_name":"MoE"}},
        {"cat":"Node","name":"c_kernel_time","dur":250,"args":{"op_name":"Linear"}}
    ]"#;

    #[test]
    fn operators_are_summed_by_kind() {
        let profile = parse(TEXT.as_bytes()).unwrap();
        assert_eq!(profile.runs, (0.003, 1));
        assert_eq!(profile.operators["MoE"], (0.002, 2));
        let table = profile.table(0.003);
        let moe = table.lines().find(|line| line.contains("MoE")).unwrap();
        assert!(moe.contains("66.7%"), "{table}");
        assert!(table.find("MoE") < table.find("Linear"));
        assert!(parse(b"{").is_err());
    }
}
