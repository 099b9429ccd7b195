//! `gptoss-ctl man`: the manual, from the definitions that parse the command lines
//! and from the example of the settings.

mod settings;

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Arguments, CliError, ExitStatus, terminal};
use crate::daemon::arguments::Arguments as DaemonArguments;

/// The daemon's page, which this program writes as well.
const DAEMON: &str = "gptossd";

/// Arguments of `gptoss-ctl man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write every page into this folder, as packages do.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The page of this command, such as `bundle create`; of gptossd; or of
    /// gptossd.toml [default: gptoss-ctl's].
    command: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), CliError> {
    let written = match args.output {
        Some(folder) => write_all(&folder),
        None => terminal::write_out(&page(&args.command)?),
    };
    written.map_err(unwritten)
}

fn unwritten(error: std::io::Error) -> CliError {
    CliError::new(ExitStatus::Failed, format!("cannot write: {error}"))
}

/// The page a person asked for.
fn page(path: &[String]) -> Result<Vec<u8>, CliError> {
    let man = match path {
        [name] if name == DAEMON => daemon(),
        [name] if name == settings::NAME => return Ok(settings::page().into_bytes()),
        path => {
            let mut root = command();
            root.build();
            // `bundle create` is the page gptoss-ctl-bundle-create.
            Man::new(find(&root, path)?.clone())
        }
    };
    let mut page = Vec::new();
    man.render(&mut page).map_err(unwritten)?;
    Ok(page)
}

/// The command line, with the commands that have a page.
fn command() -> clap::Command {
    Arguments::command().disable_help_subcommand(true)
}

fn daemon() -> Man {
    Man::new(DaemonArguments::command()).section("8")
}

fn find<'a>(root: &'a clap::Command, path: &[String]) -> Result<&'a clap::Command, CliError> {
    let mut command = root;
    for name in path {
        command = command.find_subcommand(name).ok_or_else(|| {
            CliError::new(
                ExitStatus::Usage,
                format!("{} has no command {name}", command.get_name()),
            )
        })?;
    }
    Ok(command)
}

/// Writes `gptoss-ctl.1`, a page for each of its commands, `gptossd.8` and
/// `gptossd.toml.5`.
fn write_all(folder: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(command(), folder)?;
    daemon().generate_to(folder)?;
    let file = format!("{}.{}", settings::NAME, settings::SECTION);
    std::fs::write(folder.join(file), settings::page())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_says_what_it_is_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut root = Arguments::command();
        root.build();
        root.clone().debug_assert();
        write_all(dir.path()).unwrap();
        for name in [
            "gptoss-ctl.1",
            "gptoss-ctl-pull.1",
            "gptoss-ctl-bundle-create.1",
            "gptossd.8",
        ] {
            let page = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(
                page.contains(".SH NAME") && page.contains(".SH OPTIONS"),
                "{name}"
            );
        }
        assert!(dir.path().join("gptossd.toml.5").exists());
        assert!(!dir.path().join("gptoss-ctl-help.1").exists());
        let nameless: Vec<_> = root
            .get_subcommands()
            .filter(|c| c.get_about().is_none())
            .map(clap::Command::get_name)
            .collect();
        assert!(nameless.is_empty(), "{nameless:?}");
    }

    #[test]
    fn what_is_shown_is_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path()).unwrap();
        for (asked, file) in [
            (vec![], "gptoss-ctl.1"),
            (vec!["bundle", "create"], "gptoss-ctl-bundle-create.1"),
            (vec!["gptossd"], "gptossd.8"),
            (vec!["gptossd.toml"], "gptossd.toml.5"),
        ] {
            let asked: Vec<String> = asked.into_iter().map(str::to_owned).collect();
            let written = std::fs::read(dir.path().join(file)).unwrap();
            assert!(page(&asked).unwrap() == written, "{file}");
        }
    }

    #[test]
    fn a_command_that_is_none() {
        let error = page(&["nonsense".into()]).unwrap_err();
        assert_eq!(error.status, ExitStatus::Usage);
    }
}
