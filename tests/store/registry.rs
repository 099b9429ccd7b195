//! `pull oci://…`: Debian's registry, and one with tokens.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bundle::{
    assert_imported, assert_nothing_imported, create, key_pair, other_store, policy,
};
use crate::carriers::{Registry, have, text};
use crate::harness::{FAILED, NOT_FOUND, Outcome, SHARDS, TINY, USAGE, VERIFICATION, World, tree};
use crate::mirror::{COMMIT, HOST};
use crate::proxy::Tunnel;
use crate::token_registry::{Habits, IDENTITY, LOGIN, TokenRegistry};

/// `user:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2b$04$a8kUKG5CQEMtiVWKA6q2I.H.MQGGrmuP0dxTeR/5N/AyXkSaymf9e\n";

/// A world with the small checkpoint installed and, in the folder `layout`, a signed
/// bundle of it; the public key.
fn signed() -> (World, PathBuf, PathBuf) {
    let world = World::new();
    world.pull(&[]).ok();
    let (secret, public) = key_pair(&world, "site");
    let layout = world.path("layout");
    create(&world, &layout, &["--sign", text(&secret)]).ok();
    (world, layout, public)
}

/// `pull` into the other store, as a user with these variables.
fn pull(world: &World, name: &str, more: &[&str], variables: &[(&str, &Path)]) -> Outcome {
    let other = other_store(world);
    let mut args = vec!["pull", name, "--store", text(&other)];
    args.extend(more);
    let mut command = world.command(&args);
    command.envs(variables.iter().copied());
    command.output().unwrap().into()
}

/// A pull of the small checkpoint by somebody who has an account there.
fn pull_logged_in(world: &World, registry: &TokenRegistry, more: &[&str], auth: &Path) -> Outcome {
    let name = registry.name(TINY);
    pull(world, &name, more, &[("REGISTRY_AUTH_FILE", auth)])
}

/// A file of credentials, as docker and podman keep them.
fn auth_file(world: &World, path: &str, host: &str, entry: &str) -> PathBuf {
    let path = world.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!(r#"{{"auths":{{"{host}":{{{entry}}}}}}}"#)).unwrap();
    path
}

fn password() -> String {
    format!("\"auth\":\"{LOGIN}\"")
}

/// A registry with tokens, and a file of a password for it.
fn with_tokens(habits: Habits) -> (World, TokenRegistry, PathBuf) {
    let (world, layout, _) = signed();
    let registry = TokenRegistry::serve(&layout, habits);
    let auth = auth_file(&world, "auth.json", &registry.host(), &password());
    (world, registry, auth)
}

#[test]
fn what_skopeo_pushed_is_pulled() {
    if !have(&["skopeo", "docker-registry"]) {
        return;
    }
    let (world, layout, public) = signed();
    let registry = Registry::start(&world.path(""));
    registry.push(&layout, &[]);
    let name = format!("oci://{}/site/models:{TINY}", registry.host());
    let told = pull(&world, &name, &["--key", text(&public), "--json"], &[])
        .ok()
        .json();
    assert_eq!(told["status"], "installed");
    assert_eq!(told["revision"], COMMIT, "the signer's word");
    let digest = told["signature"]["over"].as_str().unwrap();
    let source = told["source"].as_str().unwrap();
    assert!(
        source.starts_with(&format!("{name}@{digest}, from ")),
        "{source}"
    );
    assert_imported(&world, TINY);
    let again = pull(&world, &name, &["--key", text(&public), "--json"], &[]);
    assert_eq!(again.ok().json()["status"], "already-installed");

    let pinned = format!("oci://{}/site/models@{digest}", registry.host());
    pull(&world, &pinned, &["--name", "pinned"], &[]).ok();
    let absent = format!("oci://{}/site/models:absent", registry.host());
    pull(&world, &absent, &[], &[]).fails(NOT_FOUND, &["models:absent", "the tag"]);
    let absent = format!("oci://{}/site/other:{TINY}", registry.host());
    pull(&world, &absent, &[], &[]).fails(NOT_FOUND, &["site/other"]);
}

/// A certificate of 127.0.0.1 by an authority of the test's own: authority,
/// certificate, key.
fn certificates(world: &World) -> [PathBuf; 3] {
    let paths = ["ca.pem", "cert.pem", "key.pem"].map(|name| world.path(name));
    let ca_key = world.path("ca.key");
    let openssl = |more: &[&str]| {
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        let output = Command::new("openssl")
            .args(new.split(' '))
            .args(more)
            .output();
        Outcome::from(output.unwrap()).ok();
    };
    let [ca, certificate, key] = [0, 1, 2].map(|i| text(&paths[i]));
    openssl(&["-subj", "/CN=site", "-keyout", text(&ca_key), "-out", ca]);
    let signed = ["-CA", ca, "-CAkey", text(&ca_key), "-subj", "/CN=registry"];
    let names = ["-addext", "subjectAltName=IP:127.0.0.1"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let out = ["-keyout", key, "-out", certificate];
    openssl(&[&signed[..], &names[..], &leaf[..], &out[..]].concat());
    paths
}

#[test]
fn a_registry_with_passwords_and_the_sites_certificates() {
    if !have(&["skopeo", "docker-registry", "openssl"]) {
        return;
    }
    let (world, layout, _) = signed();
    let [ca, certificate, key] = certificates(&world);
    let htpasswd = world.path("htpasswd");
    fs::write(&htpasswd, HTPASSWD).unwrap();
    let auth = format!(
        "auth:\n  htpasswd:\n    realm: site\n    path: {}\n",
        htpasswd.display()
    );
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    let registry = Registry::with(&world.path(""), &auth, &tls);
    registry.push(&layout, &["--dest-creds", "user:secret"]);
    let name = format!("oci://{}/site/models:{TINY}", registry.host());
    let pull = |more: &[&str], variables: &[(&str, &Path)]| {
        let all = [&["--plain-http=false", "--retries", "0"][..], more].concat();
        pull(&world, &name, &all, variables)
    };
    pull(&[], &[]).fails(FAILED, &["certificate"]);
    let trusted = ("SSL_CERT_FILE", ca.as_path());
    pull(&[], &[trusted]).fails(FAILED, &["HTTP 401", "podman login 127.0.0.1"]);
    assert_nothing_imported(&world);

    let host = registry.host();
    auth_file(&world, "run/containers/auth.json", &host, &password());
    auth_file(&world, "docker/config.json", &host, &password());
    let file = auth_file(&world, "mine.json", &format!("{host}/site"), &password());
    let wrong = auth_file(&world, "wrong.json", &host, "\"auth\":\"dXNlcjp3cm9uZw==\"");
    pull(&[], &[trusted, ("REGISTRY_AUTH_FILE", &wrong)]).fails(FAILED, &["HTTP 401"]);
    let (run, docker) = (world.path("run"), world.path("docker"));
    let known = [
        ("XDG_RUNTIME_DIR", run.as_path()),
        ("DOCKER_CONFIG", docker.as_path()),
        ("REGISTRY_AUTH_FILE", file.as_path()),
    ];
    for (i, variable) in known.into_iter().enumerate() {
        pull(&["--name", &format!("m{i}")], &[trusted, variable]).ok();
    }
    let tunnel = Tunnel::start();
    let url = tunnel.url();
    let proxy = ("HTTPS_PROXY", Path::new(&url));
    pull(&["--name", "m3"], &[trusted, known[0], proxy]).ok();
    assert!(tunnel.targets().iter().all(|target| *target == host));
    assert!(!tunnel.targets().is_empty());
}

#[test]
fn tokens_stay_with_the_registry() {
    let (world, registry, auth) = with_tokens(Habits {
        redirect: true,
        ..Habits::default()
    });
    let outcome = pull_logged_in(&world, &registry, &[], &auth).ok();
    world
        .ctl(&["verify", TINY, "--store", text(&other_store(&world))])
        .ok();
    let asked = registry.take_asked();
    let (mut stored, mut given) = (0, 0);
    for request in &asked {
        let sent = request.authorization.as_deref();
        if request.path.starts_with("/store/") {
            stored += 1;
            assert_eq!(sent, None, "{request:?}");
        } else if request.path.starts_with("/token") {
            given += 1;
            assert_eq!(sent, Some(&format!("Basic {LOGIN}")[..]));
        } else {
            assert!(
                sent.is_none_or(|s| s.starts_with("Bearer token-")),
                "{request:?}"
            );
            assert!(request.host.starts_with(HOST));
        }
    }
    assert!(stored > 5 && given == 1, "{stored} {given}");
    let kept = tree(&other_store(&world));
    let written: Vec<u8> = kept.into_values().flatten().collect();
    let written = String::from_utf8_lossy(&written).into_owned();
    for secret in ["secret", LOGIN, "token-1", "hush"] {
        let told = outcome.stdout.contains(secret) || outcome.stderr.contains(secret);
        assert!(
            !told && !written.contains(secret),
            "{secret} is told: {outcome:?}"
        );
    }
}

#[test]
fn a_store_of_blobs_gets_no_password() {
    let (world, registry, auth) = with_tokens(Habits {
        redirect: true,
        greedy: true,
        ..Habits::default()
    });
    // Documents are blobs, too.
    pull_logged_in(&world, &registry, &[], &auth).fails(FAILED, &["HTTP 401"]);
    let asked = registry.take_asked();
    assert!(asked.iter().any(|a| a.path.starts_with("/store/")));
    for request in asked.iter().filter(|a| a.path.starts_with("/store")) {
        assert_eq!(request.authorization, None, "{request:?}");
    }
}

#[test]
fn a_token_that_ends_is_asked_for_again() {
    let (world, registry, auth) = with_tokens(Habits {
        good_for: Some(3),
        ..Habits::default()
    });
    pull_logged_in(&world, &registry, &["--jobs", "1"], &auth).ok();
    let given = registry.take_asked();
    let given = given.iter().filter(|a| a.path.starts_with("/token"));
    assert!(given.count() > 2);
}

#[test]
fn whoever_may_get_a_token() {
    let (world, registry, _) = with_tokens(Habits::default());
    let name = registry.name(TINY);
    pull(&world, &name, &[], &[]).fails(FAILED, &["HTTP 401", "podman login 127.0.0.1"]);
    let entry = format!("\"identitytoken\":\"{IDENTITY}\"");
    let identity = auth_file(&world, "identity.json", &registry.host(), &entry);
    registry.take_asked();
    pull(
        &world,
        &name,
        &["--name", "a"],
        &[("REGISTRY_AUTH_FILE", &identity)],
    )
    .ok();
    for request in registry.take_asked() {
        assert!(!request.path.contains(IDENTITY), "{request:?}");
    }
    registry.set(|habits| habits.anonymous = true);
    pull(&world, &name, &["--name", "b"], &[]).ok();
}

#[test]
fn a_password_is_not_sent_in_the_clear() {
    let (world, registry, auth) = with_tokens(Habits {
        realm: Some("http://192.0.2.1/token".into()),
        ..Habits::default()
    });
    pull_logged_in(&world, &registry, &[], &auth)
        .fails(FAILED, &["http://192.0.2.1", "would not be secret"]);
}

#[test]
fn programs_that_keep_passwords_are_asked() {
    use std::os::unix::fs::PermissionsExt;
    let (world, registry, _) = with_tokens(Habits::default());
    let config = world.path("docker");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let programs = world.path("programs");
    fs::create_dir_all(&programs).unwrap();
    let program = programs.join("docker-credential-test");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let pull = |script: &str| {
        let written = world.path("script");
        fs::write(&written, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: a child of another test would hold the file open for writing,
        // and what is open so cannot be run.
        let copied = Command::new("cp").arg(&written).arg(&program).status();
        assert!(copied.unwrap().success());
        let variables = [
            ("DOCKER_CONFIG", config.as_path()),
            ("PATH", Path::new(&path)),
        ];
        pull(&world, &registry.name(TINY), &[], &variables)
    };
    let failed = pull("cat >/dev/null; echo hush; echo hush >&2; exit 1");
    assert!(!failed.stderr.contains("hush"), "{failed:?}");
    failed.fails(FAILED, &["docker-credential-test failed", "config.json"]);
    pull("cat >/dev/null; echo credentials not found in native keychain; exit 1")
        .fails(FAILED, &["HTTP 401", "podman login"]);
    let host = registry.host();
    pull(&format!(
        r#"test "$(cat)" = {host} && echo '{{"Username":"user","Secret":"secret"}}'"#
    ))
    .ok();
}

#[test]
fn a_cut_costs_nothing() {
    let (world, registry, auth) = with_tokens(Habits {
        redirect: true,
        cut: Some(100_000),
        ..Habits::default()
    });
    pull_logged_in(&world, &registry, &[], &auth).ok();
    let asked = registry.take_asked();
    let resumed = asked.iter().filter(|a| a.start == Some(100_000));
    let stored = resumed.filter(|a| a.path.starts_with("/store/")).count();
    assert_eq!(stored, 3, "each shard once");
}

#[test]
fn blobs_come_over_several_connections() {
    let (world, registry, auth) = with_tokens(Habits {
        redirect: true,
        ..Habits::default()
    });
    let args = ["--connections", "5", "--range-size", "20k"];
    pull_logged_in(&world, &registry, &args, &auth).ok();
    assert_imported(&world, TINY);
    let asked = registry.take_asked();
    let ranges = asked.iter().filter(|a| a.path.starts_with("/store/"));
    let lengths: Vec<u64> = ranges.filter_map(|a| Some(a.end? - a.start?)).collect();
    let sizes = SHARDS.map(|shard| world.files[shard].len() as u64);
    assert_eq!(lengths.iter().sum::<u64>(), sizes.iter().sum::<u64>());
    assert!(lengths.iter().all(|length| *length <= 20_000));
}

#[test]
fn the_sites_policy_holds() {
    let (world, layout, public) = signed();
    let registry = TokenRegistry::serve(&layout, Habits::default());
    let auth = auth_file(&world, "auth.json", &registry.host(), &password());
    let auth = [("REGISTRY_AUTH_FILE", auth.as_path())];
    let demanded = policy(&world, "signed");
    let name = registry.name(TINY);
    // The key is in the site's folder.
    pull(
        &world,
        &name,
        &["--config", &demanded, "--name", "a"],
        &auth,
    )
    .ok();
    fs::remove_file(&public).unwrap();
    registry.take_asked();
    pull(
        &world,
        &name,
        &["--config", &demanded, "--name", "b"],
        &auth,
    )
    .fails(
        VERIFICATION,
        &["signed by a trusted key", "Nothing was installed"],
    );
    let tags = [
        "/v2/site/models/manifests",
        "/token",
        "/v2/site/models/blobs",
    ];
    let asked = registry.take_asked();
    assert!(
        asked
            .iter()
            .all(|a| tags.iter().any(|t| a.path.starts_with(t)))
    );
    assert!(asked.len() < 10, "no file was fetched: {}", asked.len());
    // Without a demand it comes in, and its revision is made from its bytes.
    let told = pull(&world, &name, &["--name", "c", "--json"], &auth)
        .ok()
        .json();
    assert!(told["revision"].as_str().unwrap().starts_with("sha256-"));
    assert!(told["signature"].is_null());
}

#[test]
fn documents_are_proven_and_bounded() {
    let (world, registry, auth) = with_tokens(Habits::default());
    let auth = [("REGISTRY_AUTH_FILE", auth.as_path())];
    let proven = world.ctl(&["bundle", "verify", text(&world.path("layout")), "--json"]);
    let digest = proven.ok().json()["manifest"].as_str().unwrap().to_owned();
    let pinned = registry.name(TINY) + "@" + &digest;
    registry.set(|habits| habits.spoil = Some(digest));
    pull(&world, &pinned, &[], &auth).fails(VERIFICATION, &["the manifest", "SHA-256"]);
    registry.set(|habits| {
        habits.spoil = None;
        habits.endless = true;
    });
    pull(&world, &registry.name(TINY), &[], &auth).fails(FAILED, &["longer than"]);
    registry.set(|habits| habits.endless = false);
    let pull_tag = |bytes: &[u8]| {
        registry.set_tag("odd", bytes);
        pull(&world, &registry.name("odd"), &[], &auth)
    };
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    pull_tag(index).fails(VERIFICATION, &["an index of several images"]);
    pull_tag(b"<html>").fails(VERIFICATION, &["no usable bundle"]);
    assert_nothing_imported(&world);
}

#[test]
fn without_a_network_what_is_known_is_enough() {
    let (world, registry, auth) = with_tokens(Habits::default());
    let key = key_in_use(&world);
    let name = registry.name(TINY);
    let variables = [("REGISTRY_AUTH_FILE", auth.as_path())];
    let offline = |name: &str| pull(&world, name, &["--offline", "--key", &key], &[]);
    offline(&name).fails(FAILED, &["--offline", "must be asked"]);
    assert!(registry.take_asked().is_empty());
    // All is fetched, and then something is in the way of the export.
    let staging = other_store(&world).join(format!(".staging/{TINY}@{COMMIT}"));
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("cpu"), "in the way").unwrap();
    pull(&world, &name, &["--key", &key], &variables).fails(FAILED, &["cpu"]);
    assert_nothing_imported(&world);
    registry.take_asked();
    fs::remove_file(staging.join("cpu")).unwrap();
    let other = registry.name("other");
    offline(&other).fails(FAILED, &["must be asked"]);
    offline(&name).ok();
    assert_imported(&world, TINY);
    let again = offline(&name).ok();
    assert!(again.stdout.contains("installed already"), "{again:?}");
    assert!(registry.take_asked().is_empty());
}

fn key_in_use(world: &World) -> String {
    text(&world.path("keys/site.pub")).to_owned()
}

#[test]
fn a_note_that_was_altered_is_not_believed() {
    let (world, registry, auth) = with_tokens(Habits::default());
    let staging = other_store(&world).join(format!(".staging/{TINY}@{COMMIT}"));
    fs::create_dir_all(&staging).unwrap();
    fs::write(staging.join("cpu"), "in the way").unwrap();
    let name = registry.name(TINY);
    let key = key_in_use(&world);
    pull(
        &world,
        &name,
        &["--key", &key],
        &[("REGISTRY_AUTH_FILE", &auth)],
    )
    .fails(FAILED, &["cpu"]);
    fs::remove_file(staging.join("cpu")).unwrap();
    let note = staging.join(".note.json");
    let text = fs::read_to_string(&note).unwrap();
    fs::write(&note, text.replace("config.json", "config.jsom")).unwrap();
    pull(&world, &name, &["--offline", "--key", &key], &[]).fails(VERIFICATION, &["usable"]);
    fs::write(
        &note,
        text.replace("\\\"name\\\":\\\"tiny", "\\\"name\\\":\\\"evil"),
    )
    .unwrap();
    pull(&world, &name, &["--offline", "--key", &key], &[]).fails(VERIFICATION, &["digest"]);
    assert_nothing_imported(&world);
}

#[test]
fn a_registry_without_tls_must_be_named_so() {
    let world = World::new();
    let proxy = world.mirror.url();
    let through = [
        ("HTTP_PROXY", Path::new(&proxy)),
        ("HTTPS_PROXY", Path::new(&proxy)),
    ];
    let name = "oci://registry.invalid/a:b";
    let pull = |more: &[&str]| {
        let all = [&["--retries", "0"][..], more].concat();
        pull(&world, name, &all, &through)
    };
    // The proxy that this is knows nothing of TLS, and has no such file.
    pull(&[]).fails(FAILED, &["https://registry.invalid"]);
    pull(&["--plain-http=false"]).fails(FAILED, &["https://registry.invalid"]);
    pull(&["--plain-http"]).fails(NOT_FOUND, &["is not on http://registry.invalid"]);
}

#[test]
fn names_that_are_none() {
    let world = World::new();
    for name in [
        "oci://",
        "oci://r",
        "oci://u:p@r/a",
        "oci://r/../a",
        "oci://r/A",
    ] {
        let outcome = world.ctl(&["pull", name]);
        assert!(!outcome.stderr.contains("u:p"), "{outcome:?}");
        outcome.fails(USAGE, &["refused", "oci://HOST"]);
    }
    let url = world.mirror.url();
    world
        .ctl(&["pull", "oci://r/a", "--endpoint", &url])
        .fails(USAGE, &["--endpoint", "oci://"]);
    world
        .ctl(&["pull", "oci://r/a", "--name", "20b", "--offline"])
        .fails(FAILED, &["must be asked"]);
    assert!(!world.store().exists());
}

#[test]
fn a_model_is_repaired_from_its_registry() {
    let (world, registry, auth) = with_tokens(Habits {
        redirect: true,
        ..Habits::default()
    });
    pull_logged_in(&world, &registry, &[], &auth).ok();
    let store = other_store(&world);
    let shown = world.ctl(&["show", TINY, "--json", "--store", text(&store)]);
    let dir = PathBuf::from(shown.ok().json()["dir"].as_str().unwrap());
    let sound = tree(&dir);
    let [short, wrong, _] = SHARDS.map(|shard| dir.join(shard));
    let spoil = || {
        let bytes = &sound[&short];
        fs::write(&short, &bytes[..200_000]).unwrap();
        let mut bytes = sound[&wrong].clone();
        bytes[100] ^= 1;
        fs::write(&wrong, bytes).unwrap();
    };
    let repair = |more: &[&str]| {
        let args = [
            "verify",
            "--repair",
            TINY,
            "--json",
            "--store",
            text(&store),
        ];
        let mut command = world.command(&[&args[..], more].concat());
        let output = command.env("REGISTRY_AUTH_FILE", &auth).output().unwrap();
        Outcome::from(output)
    };
    spoil();
    registry.take_asked();
    repair(&["--offline"]).fails(FAILED, &["--offline", &registry.name(TINY), "--from"]);
    assert!(registry.take_asked().is_empty());
    let verdict = repair(&[]).ok().json();
    let from = verdict["repair"]["from"].as_str().unwrap();
    assert!(from.starts_with(&registry.name(TINY)), "{from}");
    let missing = sound[&short].len() as u64 - 200_000 + sound[&wrong].len() as u64;
    assert_eq!(verdict["repair"]["fetched"], missing);
    // No more than that was asked for: two blobs, one of them from where it ended.
    let asked = registry.take_asked();
    let stored = asked.iter().filter(|a| a.path.starts_with("/store/"));
    let mut starts: Vec<_> = stored.map(|a| a.start.unwrap_or(0)).collect();
    starts.sort_unstable();
    assert_eq!(starts, [0, 200_000]);
    assert!(!asked.iter().any(|a| a.path.contains("/manifests/")));
    let manifest = dir.join("manifest.json");
    let steady = |mut files: BTreeMap<PathBuf, Vec<u8>>| {
        // It tells when.
        files.remove(&manifest);
        files
    };
    assert!(steady(tree(&dir)) == steady(sound.clone()));

    // The registry is another one by now; and one that lacks the files says so.
    spoil();
    let moved = TokenRegistry::serve(&world.path("layout"), Habits::default());
    moved.set(|habits| habits.anonymous = true);
    let elsewhere = format!("oci://{}/site/models", moved.host());
    repair(&["--endpoint", &elsewhere]).ok();
    spoil();
    let absent = format!("oci://{}/site/other", moved.host());
    repair(&["--endpoint", &absent]).fails(FAILED, &["HTTP 401", "site/other"]);
    repair(&["--endpoint", "oci://r/A"]).fails(USAGE, &["oci://HOST"]);
}
