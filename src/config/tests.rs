use super::*;

fn load(files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = files
        .iter()
        .map(|(name, text)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    Config::load(&paths)
}

#[test]
fn nothing_means_the_defaults() {
    let config = load(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.model.context, 8192);
    assert_eq!(config.model.load, Load::FirstUse);
    assert_eq!(config.runtime.provider, "auto");
}

#[test]
fn later_files_win_key_by_key() {
    let config = load(&[
        ("a.toml", "[model]\ndefault = \"20b\"\ncontext = 4096"),
        (
            "b.toml",
            "[model]\ncontext = 1024\nload = \"start\"\n[limits]\nqueue = 3",
        ),
    ])
    .unwrap();
    assert_eq!(config.model.default.as_deref(), Some("20b"));
    assert_eq!(config.model.context, 1024);
    assert_eq!(config.model.load, Load::Start);
    assert_eq!(config.limits.queue, 3);
}

#[test]
fn an_unknown_key_is_an_error_with_line_and_suggestion() {
    let error = load(&[("a.toml", "[model]\ndefault = \"x\"\ncontxt = 1\n")]).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("a.toml"), "{message}");
    assert!(message.contains("line 3"), "{message}");
    assert!(message.contains("did you mean `context`?"), "{message}");
    let far = load(&[("a.toml", "[zzzzzzzzzzz]\n")]).unwrap_err();
    assert!(!far.to_string().contains("did you mean"), "{far}");
}

#[test]
fn wrong_kinds_and_ranges_are_errors() {
    for (text, needle) in [
        ("model = 3", "invalid type"),
        ("[model]\nload = \"never\"", "never"),
        ("[model]\ncontext = 5", "model.context is 5"),
        ("[limits]\nqueue = 0", "limits.queue"),
        ("[limits]\nspool-bytes = 1", "limits.spool-bytes"),
        ("[socket]\npath = \"a/b\"", "an absolute path"),
        ("[socket]\nconnections = 0", "from 1 to 4096"),
        ("[runtime]\nprovider = \"tpu\"", "auto, cuda, coreml or cpu"),
        ("[runtime]\nkv-cache = \"q4\"", "f16 or int8"),
        ("[runtime]\nthreads = -1", "invalid value"),
        ("[runtime]\nparallel = 0", "from 1 to 64"),
        ("[runtime\n", "line 1"),
        ("\n[power]\non-battery = \"fly\"", "line 3"),
        ("[memory]\non-pressure = \"drop\"", "unknown variant"),
        (
            "[memory]\n\npressure-seconds = 0",
            "line 3: memory.pressure-seconds is 0",
        ),
        ("[metrics]\ninterval-seconds = 0", "at least 1"),
        ("[trust]\ncatalog = \"a.toml\"", "trust.catalog"),
        ("[metrics]\ntextfile = \"a.prom\"", "an absolute path"),
        ("[metrics]\ntextfile = \"/a.txt\"", "ends in .prom"),
    ] {
        let message = load(&[("a.toml", text)]).unwrap_err().to_string();
        assert!(message.contains(needle), "{text}: {message}");
    }
}

#[test]
fn drop_ins_follow_their_file_in_order_of_name() {
    let root = tempfile::tempdir().unwrap();
    let (vendor, site) = (root.path().join("lib"), root.path().join("etc"));
    for folder in [&vendor, &site] {
        std::fs::create_dir_all(folder.join("gptossd.toml.d")).unwrap();
        for name in [
            "gptossd.toml",
            "gptossd.toml.d/b.toml",
            "gptossd.toml.d/a.toml",
        ] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        std::fs::write(folder.join("gptossd.toml.d/README"), "").unwrap();
    }
    let files = files_in(&[vendor.clone(), site.clone(), root.path().join("none")]).unwrap();
    let expected: Vec<_> = [&vendor, &site]
        .iter()
        .flat_map(|folder| {
            [
                "gptossd.toml",
                "gptossd.toml.d/a.toml",
                "gptossd.toml.d/b.toml",
            ]
            .map(|name| folder.join(name))
        })
        .collect();
    assert_eq!(files, expected);
}

#[test]
fn a_named_file_is_the_only_one_and_must_exist() {
    let files = files(Scope::System, Some(Path::new("/nowhere/x.toml"))).unwrap();
    assert_eq!(files, [PathBuf::from("/nowhere/x.toml")]);
    assert!(matches!(
        Config::load(&files),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn a_value_out_of_its_range_is_an_error_with_file_and_line() {
    let error = load(&[
        ("a.toml", "[model]\ncontext = 1024"),
        ("b.toml", "# ours\n[limits]\nspool-bytes = 1\n"),
    ]);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("b.toml"), "{message}");
    assert!(
        message.contains("line 3: limits.spool-bytes is 1"),
        "{message}"
    );
}

/// The names that the parser expects instead of one it does not know.
fn expected_names(table: &str) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("{table}\n\"?\" = 1")).unwrap_err();
    let message = error.message();
    let names = message.split('`').skip(3).step_by(2);
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(!names.is_empty(), "{message}");
    names
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let example = include_str!("../../packaging/gptossd.toml");
    let setting = |line: &&str| {
        let text = line.strip_prefix('#').unwrap_or(line);
        text.starts_with(|c: char| c.is_ascii_lowercase() || c == '[')
    };
    let settings = example.lines().filter(setting);
    let settings = settings.map(|line| line.strip_prefix('#').unwrap_or(line));
    let text = settings.collect::<Vec<_>>().join("\n");
    let mut config: Config = toml::from_str(&text).unwrap();
    config.validate().unwrap();
    // Examples of what is unset by default.
    assert!(config.model.default.take().is_some());
    assert!(config.runtime.library.take().is_some());
    assert!(config.metrics.textfile.take().is_some());
    assert!(config.socket.path.take().is_some());
    assert_eq!(config, Config::default());

    let written: toml::Table = toml::from_str(&text).unwrap();
    for table in expected_names("") {
        let known = expected_names(&format!("[{table}]"));
        let written = written[&table].as_table().unwrap();
        for key in known {
            assert!(written.contains_key(&key), "{table}.{key} is not there");
        }
    }
    let commented: Config = toml::from_str(example).unwrap();
    assert_eq!(
        commented,
        Config::default(),
        "as it stands it changes nothing"
    );
}
