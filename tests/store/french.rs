//! What people read in French, and what programs read whoever asks.

use std::fs;

use crate::harness::{FAILED, NOT_FOUND, Outcome, SHARDS, TINY, USAGE, VERIFICATION, World};
use crate::mirror::COMMIT;

/// The command for somebody whose language is French.
fn french(world: &World, args: &[&str]) -> Outcome {
    let mut command = world.command(args);
    command.env("LANG", "fr_FR.UTF-8");
    command.output().unwrap().into()
}

/// A world with the small model in its store, fetched by somebody French.
fn with_model() -> (World, Outcome) {
    let world = World::new();
    let args = world.pull_args(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let pulled = french(&world, &args).ok();
    (world, pulled)
}

/// All of these parts are in the text.
#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

#[test]
fn a_pull_and_what_it_brought() {
    let (world, pulled) = with_model();
    let label = format!("{TINY}@{COMMIT}");
    has(
        &pulled.stderr,
        &[
            &format!(
                "récupération de {label}\u{a0}: {} fichiers, ",
                world.files.len()
            ),
            "\u{a0}ko, vérifié (",
            "\u{a0}o, vérifié (",
            ", vérifié (1 fichier sur ",
            ", vérifié (2 fichiers sur ",
            "son exécution demande ",
            " de mémoire avec un contexte de 4096\u{a0}; mémoire disponible\u{a0}: ",
            "export pour cpu",
        ],
    );
    has(
        &pulled.stdout,
        &[&format!("{label} installé\u{a0}: "), "\u{a0}Mo, dans /"],
    );
    let shown = french(&world, &["show", TINY]).ok().stdout;
    has(
        &shown,
        &[
            "\nrévision    ",
            "\nempreintes  aucun modèle publié que cette version connaisse\n",
            "\nsignature   aucune\n",
            "\ncibles      cpu\n",
            "\nexperts     pour cpu\u{a0}: les octets mêmes du point de contrôle, MXFP4\n",
        ],
    );
    let provenance = french(&world, &["show", "--provenance", TINY]).ok().stdout;
    has(
        &provenance,
        &[
            "\n  catalogue  ",
            ", non signé\n",
            "\nles fichiers du point de contrôle, fixés par le catalogue /",
            " tenseurs\u{a0}: ",
            "\n  pour obtenir ces mêmes octets\u{a0}: gptoss-ctl export ",
        ],
    );
    let verified = french(&world, &["verify", TINY]).ok().stdout;
    has(&verified, &["sont ceux qui ont été installés\u{a0}; "]);
}

#[test]
fn what_is_broken_and_mended() {
    let (world, _) = with_model();
    let shard = world.model_dir().join(SHARDS[0]);
    fs::write(&shard, b"short").unwrap();
    let broken = french(&world, &["verify", TINY]);
    has(
        &broken.stdout,
        &[&format!("{}\u{a0}: 5 octets, au lieu de ", SHARDS[0])],
    );
    broken.fails(
        VERIFICATION,
        &[
            &format!("{TINY}@{COMMIT} est endommagé\u{a0}: 1 fichier sur "),
            " est incorrect\u{a0}; «\u{a0}gptoss-ctl verify --repair ",
        ],
    );
    let offline = french(&world, &["--offline", "verify", "--repair", TINY]);
    offline.fails(
        FAILED,
        &["--offline\u{a0}: il faudrait récupérer ", SHARDS[0]],
    );
    let mended = french(&world, &["verify", "--repair", TINY]).ok();
    has(&mended.stderr, &["réparation de 1 fichier sur "]);
    has(
        &mended.stdout,
        &["\u{a0}: réparé, ", " proviennent de http://"],
    );
}

#[test]
fn a_plan_whose_columns_are_as_wide_as_their_headings() {
    let world = World::new();
    let plan = french(&world, &["plan", "20b", "--context", "8192,131072"]);
    let plan = plan.ok().stdout;
    has(
        &plan,
        &[
            ", non installé\n",
            "\ndisque, dans /",
            "\n  export pour cpu ",
            " au plus\n",
            "\nmémoire pour la cible cpu, cache clé-valeur en f16, 4 requêtes à la fois\u{a0}; ",
            "\u{a0}Go",
        ],
    );
    let table = plan.lines().skip_while(|line| !line.contains("contexte  "));
    // What does not fit here is followed by another way, with its cost.
    let table = table.take_while(|line| !line.is_empty());
    let ends: Vec<_> = table
        .map(|line| line.trim_end_matches("  trop").chars().count())
        .collect();
    assert_eq!(ends.len(), 3, "{plan}");
    assert!(ends.iter().all(|end| *end == ends[0]), "{plan}");
}

#[test]
fn a_bundle_there_and_back() {
    let (world, _) = with_model();
    let tar = world.path("m.tar");
    let tar = tar.to_str().unwrap();
    let written = french(&world, &["bundle", "create", TINY, "-o", tar]).ok();
    has(&written.stdout, &["écrit dans /", ", manifeste sha256:"]);
    let proven = french(&world, &["bundle", "verify", tar]).ok().stdout;
    has(
        &proven,
        &[
            " sont ceux que liste le manifeste du lot\u{a0}; ",
            "\u{a0}; non signé",
        ],
    );
    let import = ["bundle", "import", tar];
    let imported = french(&world, &import).ok();
    has(&imported.stderr, &["copie de tiny@"]);
    has(&imported.stdout, &[" installé\u{a0}: 2,0\u{a0}Mo, aucun "]);
    let again = french(&world, &import).ok().stdout;
    has(&again, &[" est déjà installé, avec les mêmes octets"]);
}

#[test]
fn refusals_have_the_same_code() {
    let world = World::new();
    french(&world, &["pull", "30b"]).fails(NOT_FOUND, &["aucun modèle 30b\u{a0}: il y a ", "120b"]);
    french(&world, &["pull", "20b", "--name", "mine"])
        .fails(USAGE, &["un modèle du catalogue garde son nom"]);
    french(&world, &["bench", "20b", "-p", "0", "-n", "0"])
        .fails(USAGE, &["rien à mesurer\u{a0}: "]);
    french(&world, &["import", "/nonexistent"]).fails(
        NOT_FOUND,
        &["impossible de lire /nonexistent\u{a0}: aucun fichier ou dossier de ce nom"],
    );
    let rate = french(&world, &["pull", "20b", "--limit-rate", "7"]);
    assert_eq!(rate.code, Some(USAGE));
    has(&rate.stderr, &["au moins 1000 octets par seconde"]);
}

#[test]
fn programs_read_the_same_bytes_in_every_language() {
    let (world, _) = with_model();
    world.ctl(&["pull", "nano"]).ok();
    for model in [TINY, "nano"] {
        for command in [
            &["--json", "show", model][..],
            &["--json", "show", "--provenance", model],
            &["--json", "verify", "--files", model],
        ] {
            let english = world.ctl(command).ok().stdout;
            assert_eq!(french(&world, command).ok().stdout, english, "{command:?}");
            assert!(english.is_ascii(), "{english}");
        }
    }
    // What a repair took a file from is told to both.
    let nano = world.ctl(&["--json", "show", "nano"]).ok().json();
    let config = std::path::Path::new(nano["dir"].as_str().unwrap()).join("config.json");
    let repair = ["--json", "verify", "--repair", "nano"];
    let mut told = Vec::new();
    for language in ["C", "fr_FR.UTF-8"] {
        fs::write(&config, b"{}").unwrap();
        let mut command = world.command(&repair);
        let outcome: Outcome = command.env("LC_ALL", language).output().unwrap().into();
        told.push(outcome.ok().stdout);
    }
    assert_eq!(told[0], told[1]);
    has(&told[0], &["\"from\": \"this program\""]);
}
