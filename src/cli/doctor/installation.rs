//! The store, ONNX Runtime, units and policy files.

use std::path::{Path, PathBuf};

use super::{Check, Finding};
use crate::cli::daemon::Place;
use crate::cli::error::Spoken;
use crate::cli::install::open_stores;
use crate::cli::messages::{message, size};
use crate::cli::trust::Trust;
use crate::cli::{Global, in_process};
use crate::config::{self, Config, Scope};
use crate::model::{Need, Store, StoreError, available_space, closed_to_others, refusal};
use crate::runtime::{self, Provider, ProviderChoice, Quarantine, driver, library};
use crate::wheel;

/// The unit of the system's installation.
const UNIT: &str = "lib/systemd/system/gptossd.service";

/// Files of the system's installation: what is missing when one is.
fn system_files() -> [(&'static str, String); 5] {
    [
        (UNIT, message!("doctor-units-unit")),
        (
            "share/dbus-1/system-services/org.gptoss.Daemon1.service",
            message!("doctor-units-service"),
        ),
        (
            "share/dbus-1/system.d/org.gptoss.Daemon1.conf",
            message!("doctor-units-bus"),
        ),
        (
            "share/polkit-1/actions/org.gptoss.policy",
            message!("doctor-units-polkit"),
        ),
        (
            "lib/sysusers.d/gptoss.conf",
            message!("doctor-units-sysusers"),
        ),
    ]
}

pub(super) fn look(global: &Global, place: &Place) -> Vec<Finding> {
    let mut findings = stores(global, place);
    findings.extend(runtime(global, &place.quarantine().read_only()));
    findings.push(settings(place));
    findings.push(catalog(global));
    if place.is_system() {
        findings.push(files());
    }
    findings
}

fn stores(global: &Global, place: &Place) -> Vec<Finding> {
    let stores = match open_stores(global) {
        Ok(stores) => stores,
        Err(error) => {
            let advice = message!("doctor-store-name-another");
            return vec![Finding::wrong(Check::Store, error.to_string(), advice)];
        }
    };
    let mut findings = store(stores.own());
    // What we may not write to, root, or the puller, may.
    if let Some(why) = refusal(&models(stores.own()), Need::Write) {
        findings.push(Finding::note(
            Check::Store,
            message!("doctor-store-not-writable", why = why.spoken()),
            message!("doctor-store-only-read"),
        ));
    }
    findings.extend(stores.system().into_iter().flat_map(store));
    findings.extend(
        stores
            .all()
            .flat_map(wheel::of_other_versions)
            .map(|folder| {
                Finding::note(
                    Check::Runtime,
                    message!("doctor-runtime-other-version", folder = %folder.display()),
                    message!("doctor-runtime-collect"),
                )
            }),
    );
    let daemons = [stores.own(), stores.system().unwrap_or(stores.own())]
        .into_iter()
        .find(|store| store.root() == Store::system_root());
    if place.is_system()
        && let Some(closed) = daemons.and_then(closed_to_others)
    {
        findings.push(Finding::wrong(
            Check::Store,
            message!("doctor-store-closed", path = %closed.display()),
            message!("doctor-store-open", store = %Store::system_root().display()),
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
        let found = message!("doctor-store-unreadable", store = %root.display());
        return vec![Finding::wrong(Check::Store, found, why.spoken())];
    }
    let mut findings = vec![contents(store, &root)];
    for broken in store.scan().into_iter().filter_map(Result::err) {
        let advice = match broken {
            StoreError::Io { .. } => message!("doctor-store-make-readable"),
            _ => message!("doctor-store-reinstall"),
        };
        findings.push(Finding::wrong(Check::Store, broken.spoken(), advice));
    }
    let staged = store.staged();
    if !staged.is_empty() {
        let names: Vec<_> = staged.iter().map(|(n, r)| format!("{n}@{r}")).collect();
        findings.push(Finding::note(
            Check::Store,
            message!("doctor-store-staged", models = names.join(", ")),
            message!("doctor-store-go-on"),
        ));
    }
    findings
}

fn contents(store: &Store, root: &Path) -> Finding {
    let models = store.models();
    let free = available_space(root).map_or_else(|_| "?".into(), size);
    let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
    match models.is_empty() {
        false => Finding::good(
            Check::Store,
            message!(
                "doctor-store-holds",
                store = %root.display(),
                models = names.join(", "),
                free = free
            ),
        ),
        true => Finding::note(
            Check::Store,
            message!("doctor-store-empty", store = %root.display(), free = free),
            message!("doctor-store-fill"),
        ),
    }
}

/// The library, and which provider proves itself with it.
fn runtime(global: &Global, quarantine: &Quarantine) -> Vec<Finding> {
    if let Err(error) = in_process::start_runtime(global) {
        let advice = message!("doctor-runtime-install");
        return vec![Finding::wrong(Check::Runtime, error.to_string(), advice)];
    }
    let mut findings = Vec::new();
    if let Some(info) = library::loaded() {
        let found = message!(
            "doctor-runtime-found",
            version = info.version,
            providers = info.providers.join(", "),
            path = %info.path.display()
        );
        findings.push(Finding::good(Check::Runtime, found));
    }
    if let Err(why) = quarantine.read() {
        let advice = message!("doctor-quarantine-remove");
        findings.push(Finding::note(Check::Provider, why, advice));
    }
    match runtime::choose(ProviderChoice::Auto, quarantine, &[]) {
        Err(error) => findings.push(Finding::wrong(
            Check::Provider,
            error.spoken(),
            message!("doctor-provider-reinstall"),
        )),
        Ok(report) => {
            let found = message!("doctor-provider-proven", provider = %report.provider);
            findings.push(Finding::good(Check::Provider, found));
            let rejected = report.rejected.into_iter();
            findings.extend(rejected.map(|(provider, why)| passed_over(provider, why, quarantine)));
        }
    }
    findings
}

/// A provider that does not compute: what there is to do depends on whether it broke.
fn passed_over(provider: Provider, why: String, quarantine: &Quarantine) -> Finding {
    let Some(record) = quarantine.holds(provider) else {
        let found = message!("doctor-provider-not", provider = %provider, why = why);
        let advice = match is_idle_gpu(provider) {
            true => message!("doctor-provider-cuda"),
            false => message!("doctor-provider-no-gpu"),
        };
        return Finding::note(Check::Provider, found, advice);
    };
    let found = message!(
        "doctor-provider-quarantined",
        provider = %provider,
        since = record.since,
        why = record.reason
    );
    Finding::note(Check::Provider, found, message!("doctor-provider-retry"))
}

/// Whether there is a GPU and an ONNX Runtime that has no use for it.
fn is_idle_gpu(provider: Provider) -> bool {
    let compiled = library::loaded().map_or_else(Vec::new, |info| info.providers);
    provider == Provider::Cuda
        && driver::version(provider).is_some()
        && !compiled.iter().any(|name| name == provider.onnx_name())
}

fn settings(place: &Place) -> Finding {
    let scope = match place.is_system() {
        true => Scope::System,
        false => Scope::User,
    };
    let read = config::files(scope, None).and_then(|files| Config::load(&files).map(|_| files));
    match read {
        Ok(files) if files.is_empty() => {
            Finding::good(Check::Settings, message!("doctor-settings-defaults"))
        }
        Ok(files) => {
            let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
            Finding::good(Check::Settings, names.join(", "))
        }
        Err(error) => Finding::wrong(
            Check::Settings,
            error.spoken(),
            message!("doctor-settings-check"),
        ),
    }
}

/// Which catalog says what a name stands for, and who vouches for it.
fn catalog(global: &Global) -> Finding {
    match Trust::load(global, &[]).and_then(|trust| trust.catalog()) {
        Ok(vouched) => {
            let names: Vec<_> = vouched.catalog.names().collect();
            let found = format!("{}: {}", vouched.describe(), names.join(", "));
            Finding::good(Check::Catalog, found)
        }
        Err(error) => Finding::wrong(
            Check::Catalog,
            error.to_string(),
            message!("doctor-catalog-correct"),
        ),
    }
}

fn files() -> Finding {
    let prefixes = ["/usr", "/usr/local"].map(PathBuf::from);
    let there = |prefix: &PathBuf| prefix.join(UNIT).exists();
    let Some(prefix) = prefixes.iter().find(|p| there(p)) else {
        return Finding::note(
            Check::Units,
            message!("doctor-units-none"),
            message!("doctor-units-install"),
        );
    };
    let missing = system_files()
        .into_iter()
        .filter(|(file, _)| !prefix.join(file).exists())
        .map(|(file, means)| {
            let file = prefix.join(file);
            message!("doctor-units-missing", file = %file.display(), means = means)
        })
        .reduce(|first, then| message!("doctor-units-and", first = first, then = then));
    match missing {
        None => Finding::good(
            Check::Units,
            message!("doctor-units-there", prefix = %prefix.display()),
        ),
        Some(missing) => {
            let advice = message!("doctor-units-reinstall");
            Finding::wrong(Check::Units, missing, advice)
        }
    }
}
