//! `gptoss-ctl man`: the manual, from the definitions that parse the command lines
//! and from the example of the settings.

mod settings;

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_mangen::Man;

use super::error::reason;
use super::help::{self, Place};
use super::messages::{Language, language, message};
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
        None => terminal::write_out(&page(&args.command, language())?),
    };
    written.map_err(unwritten)
}

fn unwritten(error: std::io::Error) -> CliError {
    let message = message!("cannot-write", why = reason(&error));
    CliError::new(ExitStatus::Failed, message)
}

/// The page a person asked for.
fn page(path: &[String], language: Language) -> Result<Vec<u8>, CliError> {
    let man = match path {
        [name] if name == DAEMON => daemon(language),
        [name] if name == settings::NAME => return Ok(settings::page().into_bytes()),
        // `bundle create` is the page gptoss-ctl-bundle-create.
        path => Man::new(find(&command(language), path)?.clone()),
    };
    render(&man, language).map_err(unwritten)
}

/// The command line, with the commands that have a page.
fn command(language: Language) -> clap::Command {
    let root = Arguments::command().disable_help_subcommand(true);
    let mut root = help::translated(root, language, Place::Page);
    root.build();
    root
}

fn daemon(language: Language) -> Man {
    let command = help::translated(DaemonArguments::command(), language, Place::Page);
    Man::new(command).section("8")
}

/// The page as roff, whose headings clap's generator writes in English. All but one
/// are the same words in French.
fn render(man: &Man, language: Language) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(match language {
        Language::English => page,
        Language::French => {
            let page = String::from_utf8_lossy(&page);
            page.replace("\n.SH NAME\n", "\n.SH NOM\n").into_bytes()
        }
    })
}

fn find<'a>(root: &'a clap::Command, path: &[String]) -> Result<&'a clap::Command, CliError> {
    let mut command = root;
    for name in path {
        command = command.find_subcommand(name).ok_or_else(|| {
            let message = message!("man-no-command", of = command.get_name(), name = name);
            CliError::new(ExitStatus::Usage, message)
        })?;
    }
    Ok(command)
}

/// Writes what belongs into a folder of manuals, here for English and there for
/// French:
///
/// ```text
/// gptoss-ctl.1, gptoss-ctl-….1   the program and each of its commands
/// gptossd.8
/// gptossd.toml.5                 in English alone, as the file it is made of
/// fr/gptoss-ctl.1 …
/// ```
fn write_all(folder: &Path) -> std::io::Result<()> {
    let file = format!("{}.{}", settings::NAME, settings::SECTION);
    std::fs::write(folder.join(file), settings::page())?;
    let french = folder.join("fr");
    std::fs::create_dir_all(&french)?;
    for (folder, language) in [(folder, Language::English), (&french, Language::French)] {
        write_one(&daemon(language), folder, language)?;
        write_commands(&command(language), folder, language)?;
    }
    Ok(())
}

/// Writes the pages of a command and of what is below it.
fn write_commands(
    command: &clap::Command,
    folder: &Path,
    language: Language,
) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_commands(sub, folder, language)?;
    }
    write_one(&Man::new(command.clone()), folder, language)
}

fn write_one(man: &Man, folder: &Path, language: Language) -> std::io::Result<()> {
    std::fs::write(folder.join(man.get_filename()), render(man, language)?)
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
            assert!(
                page(&asked, Language::English).unwrap() == written,
                "{file}"
            );
            let Ok(written) = std::fs::read(dir.path().join("fr").join(file)) else {
                assert_eq!(file, "gptossd.toml.5");
                continue;
            };
            assert!(page(&asked, Language::French).unwrap() == written, "{file}");
        }
    }

    #[test]
    fn french_pages_are_french() {
        let page = |name: &[&str]| {
            let name: Vec<String> = name.iter().map(|&n| n.to_owned()).collect();
            String::from_utf8(page(&name, Language::French).unwrap()).unwrap()
        };
        let pull = page(&["pull"]);
        assert!(
            pull.contains(".SH NOM\ngptoss\\-ctl\\-pull \\- Récupérer"),
            "{pull}"
        );
        // What clap's generator would say in English.
        for text in [
            pull,
            page(&[]),
            page(&["bundle", "create"]),
            page(&["gptossd"]),
        ] {
            for english in [
                "SUBCOMMANDS",
                "Possible values",
                "[default",
                "environment variable",
            ] {
                assert!(!text.contains(english), "{english}: {text}");
            }
        }
        // The builder's own environment is on no page.
        assert!(page(&[]).contains("GPTOSS_STORE]"));
    }

    #[test]
    fn a_command_that_is_none() {
        let error = page(&["nonsense".into()], Language::English).unwrap_err();
        assert_eq!(error.status, ExitStatus::Usage);
    }
}
