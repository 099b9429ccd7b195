//! What people read in their language, and programs in none: help, errors of the
//! layers below, the manual, what is wrong with the machine.

use std::fs;
use std::process::Command;

use super::harness::{FAILED, NOT_FOUND, Outcome, USAGE, World};

/// The exit code where the daemon does not answer.
const UNREACHABLE: i32 = 6;

/// The command for somebody who reads French.
fn french(world: &World, args: &[&str]) -> Command {
    let mut command = world.command(args);
    command
        .env("LANG", "fr_FR.UTF-8")
        .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
        .env("ORT_DYLIB_PATH", "/nonexistent");
    command
}

fn told(mut command: Command) -> Outcome {
    command.output().unwrap().into()
}

#[test]
fn help_is_in_the_language_of_the_environment() {
    let world = World::new();
    let help = told(french(&world, &["pull", "--help"])).ok().stdout;
    for text in [
        "Récupérer un modèle, vérifier ses octets et l’exporter",
        "Utilisation\u{a0}: gptoss-ctl pull [OPTIONS] <MODEL>",
        "[par défaut\u{a0}: 4]",
    ] {
        assert!(help.contains(text), "{text}: {help}");
    }
    assert!(!help.contains("Usage:"), "{help}");
    let english = world.ctl(&["pull", "--help"]).ok().stdout;
    assert!(english.contains("Usage: gptoss-ctl pull"), "{english}");
    // As for other programs: the locale says that there is none.
    let mut command = french(&world, &["pull", "--help"]);
    command.env("LC_ALL", "C");
    assert_eq!(told(command).ok().stdout, english);
}

#[test]
fn a_command_line_is_parsed_the_same() {
    let world = World::new();
    // Without a command there is help, and it is a mistake.
    let mut command = french(&world, &[]);
    command.env_remove("GPTOSS_STORE");
    let mistake = told(command);
    assert_eq!(mistake.code, Some(USAGE), "{mistake:?}");
    assert!(mistake.stderr.contains("Commandes\u{a0}:"), "{mistake:?}");
    // clap's own sentences stay English.
    let args = ["pull", "nano", "--jobs", "0"];
    let mistake = told(french(&world, &args));
    assert_eq!(mistake.code, Some(USAGE), "{mistake:?}");
    assert_eq!(mistake.stderr, world.ctl(&args).stderr);
}

#[test]
fn errors_of_the_layers_below_are_translated() {
    let world = World::new();
    let nowhere = world.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    for (args, code, words) in [
        (
            &["show", "20b"][..],
            NOT_FOUND,
            "le modèle 20b n’est pas installé dans",
        ),
        (
            &["rm", "a b"],
            USAGE,
            "le nom de modèle «\u{a0}a b\u{a0}» est refusé",
        ),
        (
            &["bundle", "verify", nowhere],
            NOT_FOUND,
            "il n’y a pas de lot",
        ),
        (
            &["pull", "20b", "--endpoint", "ftp://a"],
            USAGE,
            "n’est pas une adresse utilisable",
        ),
        (
            &["list", "--store", "/dev/null/store"],
            FAILED,
            "n’est pas un dossier (erreur système 20)",
        ),
        (
            &["runtime"],
            NOT_FOUND,
            "aucune bibliothèque ONNX Runtime trouvée",
        ),
        (&["status"], UNREACHABLE, "gptossd ne répond pas"),
        (&["chat"], USAGE, "chat a besoin d’un terminal"),
    ] {
        told(french(&world, args)).fails(code, &[words]);
    }
}

#[test]
fn programs_read_the_same_in_every_language() {
    let world = World::new();
    // Findings are sentences, and JSON.
    let people = told(french(&world, &["doctor"])).fails(FAILED, &["choses ne vont pas"]);
    assert!(people.stdout.contains("processeur"), "{people:?}");
    assert!(people.stdout.contains("aucun modèle"), "{people:?}");
    let program = |language: &str| {
        let mut command = french(&world, &["doctor", "--json"]);
        command.env("LANG", language);
        let outcome = told(command).fails(FAILED, &["things are wrong"]);
        let mut report = outcome.json();
        // How much memory and disk are free changes all the time.
        let findings = report["findings"].as_array_mut().unwrap();
        findings.retain(|f| f["check"] != "memory" && f["check"] != "store");
        assert!(findings.len() > 4, "{findings:?}");
        report
    };
    assert_eq!(program("fr_FR.UTF-8"), program("C"));
}

#[test]
fn the_manual_has_pages_in_both_languages() {
    let world = World::new();
    let folder = world.path("man");
    fs::create_dir(&folder).unwrap();
    // A package's pages are the same wherever it is built.
    told(french(
        &world,
        &["man", "--output", folder.to_str().unwrap()],
    ))
    .ok();
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert!(read("gptoss-ctl-pull.1").contains(".SH NAME"));
    assert!(read("fr/gptoss-ctl-pull.1").contains(".SH NOM"));
    let shown = told(french(&world, &["man", "pull"])).ok().stdout;
    assert_eq!(shown, read("fr/gptoss-ctl-pull.1"));
    assert_eq!(
        world.ctl(&["man", "pull"]).ok().stdout,
        read("gptoss-ctl-pull.1")
    );
    // So are the names of pages, but for the one of a file that is English.
    let names = |folder: &std::path::Path| {
        let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        let mut names: Vec<_> = entries
            .filter(|e| e.path().is_file())
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name != "gptossd.toml.5");
        names.sort();
        names
    };
    assert_eq!(names(&folder), names(&folder.join("fr")));
}

#[test]
fn shells_complete_with_descriptions_in_the_language() {
    let world = World::new();
    let french = told(french(&world, &["completions", "fish"])).ok().stdout;
    assert!(french.contains("Lister les modèles installés"), "{french}");
    let english = world.ctl(&["completions", "fish"]).ok().stdout;
    assert!(english.contains("List the installed models"), "{english}");
    // The same commands and options, in the same order.
    let structure = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("complete "));
        let before = |line: &str| line.split(" -d ").next().unwrap_or_default().to_owned();
        lines.map(before).collect()
    };
    assert_eq!(structure(&french), structure(&english));
}
