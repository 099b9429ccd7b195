//! The store, ONNX Runtime, units and policy files.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::cli::daemon::BusName;
use crate::cli::install::open_stores;
use crate::cli::trust::Trust;
use crate::cli::{Global, in_process};
use crate::config::{self, Config, Scope};
use crate::model::{
    Need, Store, StoreError, available_space, closed_to_others, human_size, refusal,
};
use crate::runtime::{self, ProviderChoice, library};

/// Files of the system's installation: what is missing when one is.
const SYSTEM_FILES: [(&str, &str); 5] = [
    ("lib/systemd/system/gptossd.service", "the daemon's unit"),
    (
        "share/dbus-1/system-services/org.gptoss.Daemon1.service",
        "the bus cannot start the daemon",
    ),
    (
        "share/dbus-1/system.d/org.gptoss.Daemon1.conf",
        "the bus lets nobody have the daemon's name",
    ),
    (
        "share/polkit-1/actions/org.gptoss.policy",
        "polkit knows no gptoss action: root alone may use it",
    ),
    (
        "lib/sysusers.d/gptoss.conf",
        "the users gptoss and gptoss-store are made by nobody",
    ),
];

pub(super) fn look(global: &Global, bus: BusName) -> Vec<Finding> {
    let mut findings = stores(global, bus);
    findings.extend(runtime(global));
    findings.push(settings(bus));
    findings.push(catalog(global));
    if matches!(bus, BusName::System) {
        findings.push(files());
    }
    findings
}

fn stores(global: &Global, bus: BusName) -> Vec<Finding> {
    let stores = match open_stores(global) {
        Ok(stores) => stores,
        Err(error) => {
            let advice = "name another folder with --store or GPTOSS_STORE";
            return vec![Finding::wrong("store", error.to_string(), advice)];
        }
    };
    let mut findings = store(stores.own());
    // What we may not write to, root, or the puller, may.
    if let Some(why) = refusal(&models(stores.own()), Need::Write) {
        let advice = "until then models are only read; --store names another store";
        findings.push(Finding::note(
            "store",
            format!("not writable: {why}"),
            advice,
        ));
    }
    findings.extend(stores.system().into_iter().flat_map(store));
    let daemons = [stores.own(), stores.system().unwrap_or(stores.own())]
        .into_iter()
        .find(|store| store.root() == Store::system_root());
    if matches!(bus, BusName::System)
        && let Some(closed) = daemons.and_then(closed_to_others)
    {
        findings.push(Finding::wrong(
            "store",
            format!("{} is closed to the daemon's user", closed.display()),
            format!("`sudo chmod -R a+rX {}`", Store::system_root().display()),
        ));
    }
    findings
}

/// The folder that models are put into.
fn models(store: &Store) -> PathBuf {
    store.root().join("models")
}

fn store(store: &Store) -> Vec<Finding> {
    let root = store.root().to_owned();
    if let Some(why) = refusal(&models(store), Need::Read) {
        let found = format!("{} cannot be read", root.display());
        return vec![Finding::wrong("store", found, why)];
    }
    let mut findings = vec![contents(store, &root)];
    for broken in store.scan().into_iter().filter_map(Result::err) {
        let advice = match broken {
            StoreError::Io { .. } => "its folder must be readable",
            _ => "remove it with `gptoss-ctl rm` and install it again",
        };
        findings.push(Finding::wrong("store", broken.to_string(), advice));
    }
    let staged = store.staged();
    if !staged.is_empty() {
        let names: Vec<_> = staged.iter().map(|(n, r)| format!("{n}@{r}")).collect();
        findings.push(Finding::note(
            "store",
            format!("interrupted, or at work: {}", names.join(", ")),
            "the same command goes on with it; `gptoss-ctl gc` removes it",
        ));
    }
    findings
}

fn contents(store: &Store, root: &Path) -> Finding {
    let models = store.models();
    let free = available_space(root).map_or_else(|_| "?".into(), human_size);
    let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
    let found = format!(
        "{}: {}, {free} free",
        root.display(),
        match names.len() {
            0 => "no model".to_owned(),
            _ => names.join(", "),
        }
    );
    match models.is_empty() {
        false => Finding::good("store", found),
        true => Finding::note(
            "store",
            found,
            "`gptoss-ctl pull 20b` fetches a model, `gptoss-ctl bundle import` brings one in",
        ),
    }
}

/// The library, and which provider proves itself with it.
fn runtime(global: &Global) -> Vec<Finding> {
    if let Err(error) = in_process::start_runtime(global) {
        let advice = "install the package gptoss, import a bundle with a runtime, or set \
                      ORT_DYLIB_PATH";
        return vec![Finding::wrong("runtime", error.to_string(), advice)];
    }
    let mut findings = Vec::new();
    if let Some(info) = library::loaded() {
        let found = format!(
            "ONNX Runtime {} with {}, {}",
            info.version,
            info.providers.join(", "),
            info.path.display()
        );
        findings.push(Finding::good("runtime", found));
    }
    match runtime::choose(ProviderChoice::Auto) {
        Err(error) => findings.push(Finding::wrong(
            "provider",
            error.to_string(),
            "the library does not compute what it should: reinstall gptoss",
        )),
        Ok(report) => {
            let found = format!("{} reproduces nano's logits", report.provider);
            findings.push(Finding::good("provider", found));
            findings.extend(report.rejected.into_iter().map(|(provider, reason)| {
                let advice =
                    "without a GPU this is as it should be; `gptoss-ctl runtime` tells more";
                Finding::note("provider", format!("not {provider}: {reason}"), advice)
            }));
        }
    }
    findings
}

fn settings(bus: BusName) -> Finding {
    let scope = match bus {
        BusName::System => Scope::System,
        BusName::Session => Scope::User,
    };
    let read = config::files(scope, None).and_then(|files| Config::load(&files).map(|_| files));
    match read {
        Ok(files) if files.is_empty() => Finding::good("settings", "the defaults"),
        Ok(files) => {
            let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
            Finding::good("settings", names.join(", "))
        }
        Err(error) => Finding::wrong(
            "settings",
            error.to_string(),
            "`gptossd --check-config` checks them again",
        ),
    }
}

/// Which catalog says what a name stands for, and who vouches for it.
fn catalog(global: &Global) -> Finding {
    match Trust::load(global, &[]).and_then(|trust| trust.catalog()) {
        Ok(vouched) => {
            let names: Vec<_> = vouched.catalog.names().collect();
            let found = format!("{}: {}", vouched.describe(), names.join(", "));
            Finding::good("catalog", found)
        }
        Err(error) => Finding::wrong(
            "catalog",
            error.to_string(),
            "correct the catalog, its signature or the settings under [trust]",
        ),
    }
}

fn files() -> Finding {
    let prefixes = ["/usr", "/usr/local"].map(PathBuf::from);
    let there = |prefix: &PathBuf| prefix.join(SYSTEM_FILES[0].0).exists();
    let Some(prefix) = prefixes.iter().find(|p| there(p)) else {
        return Finding::note(
            "units",
            "the daemon is not installed for the machine",
            "install the package gptoss, or use one of your own with --bus session",
        );
    };
    let missing: Vec<_> = SYSTEM_FILES
        .iter()
        .filter(|(file, _)| !prefix.join(file).exists())
        .map(|(file, means)| format!("{}: {means}", prefix.join(file).display()))
        .collect();
    match missing.is_empty() {
        true => Finding::good(
            "units",
            format!("unit, bus and polkit files under {}", prefix.display()),
        ),
        false => Finding::wrong(
            "units",
            format!("missing {}", missing.join("; missing ")),
            "reinstall the package gptoss",
        ),
    }
}
