//! `gptoss-ctl man`: the manual, from the definitions that parse the command line.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Arguments, CliError, ExitStatus, terminal};
use crate::model::StoreError;

/// Arguments of `gptoss-ctl man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write a page for each command into this folder, as packages do.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The page of this command, such as `bundle create` [default: gptoss-ctl's].
    command: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), CliError> {
    let mut root = Arguments::command();
    root.build();
    match args.output {
        Some(folder) => write_all(&root, &folder),
        None => {
            let page = render(find(&root, &args.command)?)?;
            terminal::write_out(&page).map_err(unwritten)
        }
    }
}

fn unwritten(error: std::io::Error) -> CliError {
    CliError::new(ExitStatus::Failed, format!("cannot write: {error}"))
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

fn render(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    // `bundle create` is the page gptoss-ctl-bundle-create.
    Man::new(command.clone())
        .title(display_name(command))
        .render(&mut page)
        .map_err(unwritten)?;
    Ok(page)
}

fn display_name(command: &clap::Command) -> String {
    command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned()
}

fn write_all(command: &clap::Command, folder: &Path) -> Result<(), CliError> {
    let path = folder.join(format!("{}.1", display_name(command)));
    std::fs::write(&path, render(command)?).map_err(StoreError::io("write", &path))?;
    for inner in command.get_subcommands() {
        if inner.get_name() != "help" && !inner.is_hide_set() {
            write_all(inner, folder)?;
        }
    }
    Ok(())
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
        write_all(&root, dir.path()).unwrap();
        for name in ["gptoss-ctl", "gptoss-ctl-pull", "gptoss-ctl-bundle-create"] {
            let page = std::fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap();
            assert!(
                page.contains(".SH NAME") && page.contains(".SH OPTIONS"),
                "{name}"
            );
        }
        let nameless: Vec<_> = root
            .get_subcommands()
            .filter(|c| c.get_about().is_none())
            .map(clap::Command::get_name)
            .collect();
        assert!(nameless.is_empty(), "{nameless:?}");
    }

    #[test]
    fn a_command_that_is_none() {
        let mut root = Arguments::command();
        root.build();
        assert!(find(&root, &["bundle".into(), "create".into()]).is_ok());
        assert_eq!(
            find(&root, &["nonsense".into()]).unwrap_err().status,
            ExitStatus::Usage
        );
    }
}
