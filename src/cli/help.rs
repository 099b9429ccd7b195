//! Help in the language of the person: of command lines, of the manual and of what
//! shells complete.
//!
//! clap's definitions hold it in English. Another language has messages named after
//! what they are about, in the first that is there:
//!
//! ```text
//! help-bundle-create             a command
//! help-bundle-create--output     its argument
//! help--store                    an argument that commands share
//! help--bus--system              a value of one
//! ```
//!
//! A message of several paragraphs is the long help, and its first the short one.
//! The sentences in which clap refuses a command line stay English.

use std::ffi::OsString;

use clap::builder::{PossibleValue, PossibleValuesParser, Resettable, StyledStr};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command, Parser};
use fluent_bundle::FluentArgs;

use super::messages::{Language, arguments};

/// Where help is read, which decides what clap leaves to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `--help`: defaults, variables and values stand behind an argument's help.
    Terminal,
    /// A page of the manual, for any machine.
    Page,
    /// What a shell shows while it completes: one line each.
    Shell,
}

/// Parses the command line. Help is shown in this language.
pub(super) fn parse<P: Parser>(language: Language) -> P {
    let english = match P::try_parse() {
        Ok(arguments) => return arguments,
        Err(error) => error,
    };
    let translated = match (language, english.kind()) {
        (Language::English, _) => None,
        (_, ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) => {
            let command = translated(P::command(), language, Place::Terminal);
            command.try_get_matches().err()
        }
        _ => None,
    };
    translated.unwrap_or(english).exit()
}

/// The command with its help in this language. It shows help; it does not parse.
pub(super) fn translated(mut root: Command, language: Language, place: Place) -> Command {
    if language == Language::English {
        return root;
    }
    // What clap adds itself has help as well.
    root.build();
    let name = root.get_name().to_owned();
    let mut words = |id: &str, arguments: &FluentArgs<'_>| language.text(id, arguments);
    Translator {
        words: &mut words,
        place,
    }
    .command(root, &name, "")
}

/// A message by its name and arguments, if there is one.
type Words<'a> = &'a mut dyn FnMut(&str, &FluentArgs<'_>) -> Option<String>;

struct Translator<'a> {
    words: Words<'a>,
    place: Place,
}

impl Translator<'_> {
    /// The message of the first of these names that there is one of.
    fn first(&mut self, ids: &[String]) -> Option<String> {
        let none = FluentArgs::new();
        ids.iter().find_map(|id| (self.words)(id, &none))
    }

    /// A message that puts something into words.
    fn phrase(&mut self, id: &str, arguments: &FluentArgs<'_>) -> String {
        (self.words)(id, arguments).unwrap_or_default()
    }

    /// A command, its arguments and its subcommands: what it is called, and what the
    /// names of those begin with.
    fn command(&mut self, command: Command, called: &str, inside: &str) -> Command {
        let mut command = match self.first(&[format!("help-{called}")]) {
            None => command,
            Some(text) => {
                let (short, long) = paragraphs(&text);
                command
                    .about(short)
                    .long_about(Resettable::from(long.map(StyledStr::from)))
            }
        };
        if self.place != Place::Shell {
            command = self.headings(command);
        }
        command
            .mut_args(|argument| self.argument(argument, called))
            .mut_subcommands(|sub| {
                let name = sub.get_name().to_owned();
                let path = match inside {
                    "" => name.clone(),
                    inside => format!("{inside}-{name}"),
                };
                match name.as_str() {
                    // `help pull` is about `pull`.
                    "help" => self.command(sub, "help", inside),
                    _ => self.command(sub, &path, &path),
                }
            })
    }

    /// The words around a command's help: clap's template with other headings.
    fn headings(&mut self, command: Command) -> Command {
        let none = arguments!();
        let styles = command.get_styles().clone();
        let (usage, header) = (styles.get_usage(), styles.get_header());
        let mut heading = |id: &str| self.phrase(id, &none);
        let mut sections = Vec::new();
        let mut section = |heading: String, tag: &str| {
            sections.push(format!("{header}{heading}{header:#}\n{{{tag}}}"));
        };
        if command.has_subcommands() {
            section(heading("help-heading-commands"), "subcommands");
        }
        if command.get_positionals().any(|a| !a.is_hide_set()) {
            section(heading("help-heading-arguments"), "positionals");
        }
        section(heading("help-heading-options"), "options");
        let template = format!(
            "{{before-help}}{{about-with-newline}}\n{usage}{}{usage:#} {{usage}}\n\n{}{{after-help}}",
            heading("help-heading-usage"),
            sections.join("\n\n")
        );
        command
            .help_template(template)
            .subcommand_help_heading(heading("help-heading-subcommands"))
            .subcommand_value_name(heading("help-command"))
    }

    fn argument(&mut self, argument: Arg, path: &str) -> Arg {
        let id = argument.get_id().as_str().replace('_', "-");
        let long = argument.get_long_help().is_some();
        let ids = match (argument.get_action(), long) {
            // clap's own, which names the other one where there are two.
            (ArgAction::Help, true) => return self.help_flag(argument),
            _ => [format!("help-{path}--{id}"), format!("help--{id}")],
        };
        let Some(text) = self.first(&ids) else {
            return argument;
        };
        let values = self.values(&argument, &ids);
        let argument = match values.iter().any(|value| value.get_help().is_some()) {
            true => argument.value_parser(PossibleValuesParser::new(values.clone())),
            false => argument,
        };
        match self.place {
            Place::Shell => argument.help(paragraphs(&text).0),
            Place::Terminal | Place::Page => self.with_facts(argument, &text, &values),
        }
    }

    /// `-h, --help` of a command with a short and a long help.
    fn help_flag(&mut self, argument: Arg) -> Arg {
        let mut help = |id: &str| self.phrase(id, &arguments!());
        let (short, long) = (help("help--help-short"), help("help--help-long"));
        argument.help(short).long_help(long)
    }

    /// What an argument may be, each value with its help.
    fn values(&mut self, argument: &Arg, ids: &[String]) -> Vec<PossibleValue> {
        let values = argument.get_possible_values();
        let mut translate = |value: PossibleValue| {
            if value.get_help().is_none() {
                return value;
            }
            let name = value.get_name();
            let ids: Vec<_> = ids.iter().map(|id| format!("{id}--{name}")).collect();
            match self.first(&ids) {
                Some(text) => value.help(text),
                None => value,
            }
        };
        values.into_iter().map(&mut translate).collect()
    }

    /// The argument's help, and what clap would say behind it in English.
    fn with_facts(&mut self, argument: Arg, text: &str, values: &[PossibleValue]) -> Arg {
        let described = values.iter().any(|value| value.get_help().is_some());
        let (mut short, long) = paragraphs(text);
        let long_wanted = long.is_some() || described || argument.get_long_help().is_some();
        let mut long = long.unwrap_or_else(|| short.clone());
        let names = values.iter().map(PossibleValue::get_name);
        let names = names.collect::<Vec<_>>().join(", ");
        let listed = (!values.is_empty()
            && takes_value(&argument)
            && !argument.is_hide_possible_values_set())
        .then(|| self.phrase("help-fact-values", &arguments!(values = names)));
        let facts = self.facts(&argument);
        for fact in facts.iter().chain(&listed) {
            short = format!("{short} {fact}");
        }
        if described {
            long = format!("{long}\n\n{}", self.list(values));
        }
        let (gap, between) = match self.place {
            Place::Page if described => ("\n\n", " "),
            Place::Page => (" ", " "),
            Place::Terminal | Place::Shell => ("\n\n", "\n"),
        };
        let behind: Vec<_> = facts
            .into_iter()
            .chain(listed.filter(|_| !described))
            .collect();
        if !behind.is_empty() {
            long = format!("{long}{gap}{}", behind.join(between));
        }
        let argument = argument
            .help(short)
            .hide_env(true)
            .hide_default_value(true)
            .hide_possible_values(true);
        match long_wanted || self.place == Place::Page {
            true => argument.long_help(long),
            false => argument,
        }
    }

    /// Values one below the other.
    fn list(&mut self, values: &[PossibleValue]) -> String {
        let mut lines = vec![self.phrase("help-heading-values", &arguments!())];
        for value in values {
            let help = value.get_help().map(ToString::to_string);
            lines.push(self.phrase(
                "help-value",
                &arguments!(value = value.get_name(), help = help.unwrap_or_default()),
            ));
        }
        match self.place {
            // A page fills lines, but for paragraphs.
            Place::Page => lines.join("\n\n"),
            Place::Terminal | Place::Shell => lines.join("\n"),
        }
    }

    /// The variable that stands for an argument, and its default.
    fn facts(&mut self, argument: &Arg) -> Vec<String> {
        let mut facts = Vec::new();
        if let Some(name) = argument.get_env() {
            let variable = match (self.place, std::env::var_os(name)) {
                (Place::Page, _) => name.to_owned(),
                (_, value) => {
                    let mut variable = name.to_owned();
                    variable.push("=");
                    variable.push(value.unwrap_or_default());
                    variable
                }
            };
            let said = arguments!(variable = %variable.display());
            facts.push(self.phrase("help-fact-variable", &said));
        }
        let defaults = argument.get_default_values();
        if takes_value(argument) && !defaults.is_empty() && !argument.is_hide_default_value_set() {
            let defaults: Vec<OsString> = defaults.iter().map(Into::into).collect();
            let said = arguments!(value = %defaults.join(" ".as_ref()).display());
            facts.push(self.phrase("help-fact-default", &said));
        }
        facts
    }
}

fn takes_value(argument: &Arg) -> bool {
    argument.get_action().takes_values()
}

/// The first paragraph, and all of them where there are several.
fn paragraphs(text: &str) -> (String, Option<String>) {
    match text.split_once("\n\n") {
        None => (text.to_owned(), None),
        Some((first, _)) => (first.to_owned(), Some(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Arguments;
    use crate::daemon::arguments::Arguments as DaemonArguments;

    const FRENCH: &str = include_str!("messages/fr/help.ftl");

    fn written() -> BTreeSet<String> {
        let ids = FRENCH.lines().filter_map(|line| line.split_once(" = "));
        ids.map(|(id, _)| id.to_owned())
            .filter(|id| id.starts_with("help-"))
            .collect()
    }

    /// A command in French, and the names of messages it took.
    fn french(mut root: Command, place: Place, used: &mut BTreeSet<String>) -> Command {
        root.build();
        let name = root.get_name().to_owned();
        let mut words = |id: &str, arguments: &FluentArgs<'_>| {
            let text = Language::French.text(id, arguments)?;
            used.insert(id.to_owned());
            Some(text)
        };
        Translator {
            words: &mut words,
            place,
        }
        .command(root, &name, "")
    }

    /// What of two commands, their arguments and values has the same help.
    fn untranslated(english: &Command, french: &Command, found: &mut Vec<String>) {
        let name = english.get_name();
        if english.get_about().map(ToString::to_string)
            == french.get_about().map(ToString::to_string)
        {
            found.push(name.to_owned());
        }
        let long = |command: &Command| command.get_long_about().is_some();
        assert_eq!(long(english), long(french), "{name}");
        for argument in english.get_arguments() {
            let id = argument.get_id();
            let other = french.get_arguments().find(|a| a.get_id() == id).unwrap();
            let help = |argument: &Arg| argument.get_help().map(ToString::to_string);
            if help(argument) == help(other) {
                found.push(format!("{name} {id}"));
            }
            for (value, other) in argument
                .get_possible_values()
                .iter()
                .zip(other.get_possible_values())
            {
                if value.get_help().is_some() && value.get_help() == other.get_help() {
                    found.push(format!("{name} {id} {}", value.get_name()));
                }
            }
        }
        for sub in english.get_subcommands() {
            let other = french.find_subcommand(sub.get_name()).unwrap();
            untranslated(sub, other, found);
        }
    }

    #[test]
    fn everything_has_its_help_in_french_and_nothing_else_does() {
        let mut used = BTreeSet::new();
        let mut found = Vec::new();
        for root in [Arguments::command(), DaemonArguments::command()] {
            for place in [Place::Terminal, Place::Shell] {
                let french = french(root.clone(), place, &mut used);
                let mut english = root.clone();
                english.build();
                untranslated(&english, &french, &mut found);
            }
        }
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(used, written());
    }

    /// `gptoss-ctl` with these words, as a person reads it in French.
    fn help(words: &[&str]) -> String {
        let root = Arguments::command().term_width(100);
        let command = translated(root, Language::French, Place::Terminal);
        let words = ["gptoss-ctl"].iter().chain(words);
        command.try_get_matches_from(words).unwrap_err().to_string()
    }

    #[test]
    fn help_reads_as_claps_own() {
        let text = help(&["doctor", "-h"]);
        for line in [
            "Chercher ce qui ne va pas",
            "Utilisation\u{a0}: gptoss-ctl doctor [OPTIONS]",
            "Options\u{a0}:",
            "[par défaut\u{a0}: system] [valeurs possibles\u{a0}: system, session]",
            "Afficher l’aide (plus complète",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let text = help(&["doctor", "--help"]);
        assert!(text.contains("Valeurs possibles\u{a0}:"), "{text}");
        assert!(text.contains("- session\u{a0}: Celui"), "{text}");
        let text = help(&["bundle", "--help"]);
        assert!(text.contains("<COMMANDE>"), "{text}");
        assert!(text.contains("  create  Écrire"), "{text}");
        // `gptoss-ctl help pull`, and without a command.
        assert!(help(&["help", "pull"]).contains("Récupérer un modèle"));
        assert!(help(&["bundle"]).contains("Commandes\u{a0}:"));
        for words in [&["pull", "-h"][..], &["chat", "--help"], &["--help"]] {
            let text = help(words);
            for english in [
                "Usage",
                "default:",
                "env:",
                "possible values",
                "Print",
                "Commands",
            ] {
                assert!(!text.contains(english), "{english}: {text}");
            }
        }
    }
}
