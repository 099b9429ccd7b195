//! From a staged checkpoint to an installed model, and from an installed model
//! to one with more targets. Shared by `pull`, `import` and `export`.

use std::collections::BTreeMap;
use std::path::Path;

use gptoss_onnx::checkpoint::{Checkpoint, Config, float_layers};
use gptoss_onnx::export::{self, ExportReport, Target};
use serde::Serialize;

use super::error::reason;
use super::messages::{decimal, message, translated};
use super::progress::Ui;
use super::{CliError, ExitStatus, Global};
use crate::model::{
    CatalogFile, Dimensions, Export, FileEntry, Installed, Manifest, QuantizedExperts, SCHEMA,
    Signature, Staging, Store, StoreError, Stores, Weights, now_rfc3339, require_space,
};

/// Files up to this size are brought in first: they tell whether the rest is of use.
pub(super) const SMALL: u64 = 64 << 20;

/// Where a model comes from.
#[derive(Debug, Clone)]
pub(super) struct Provenance {
    pub(super) name: String,
    pub(super) revision: String,
    pub(super) source: String,
    pub(super) catalog: Option<String>,
    pub(super) catalog_file: Option<CatalogFile>,
    pub(super) license: Option<String>,
    pub(super) signature: Option<Signature>,
}

/// What a command did to a model, for programs.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    status: &'a str,
    dir: &'a Path,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

/// Opens the store that is written: the one the command line names, or one's own.
pub(super) fn open_store(global: &Global) -> Result<Store, CliError> {
    Ok(open_stores(global)?.own().clone())
}

/// Opens the stores that are looked into.
pub(super) fn open_stores(global: &Global) -> Result<Stores, CliError> {
    let stores = Stores::open(global.store.as_deref())?;
    stores.own().check_disk()?;
    Ok(stores)
}

/// Finds a model that is to be changed: in the store that is written.
pub(super) fn find_own(stores: &Stores, wanted: &str) -> Result<Installed, CliError> {
    stores.own().find(wanted).map_err(|error| match error {
        StoreError::NotInstalled { .. } => {
            elsewhere(stores, wanted).unwrap_or_else(|| error.into())
        }
        error => error.into(),
    })
}

/// Says that a model that is to be changed is in the machine's store, if it is.
pub(super) fn elsewhere(stores: &Stores, wanted: &str) -> Option<CliError> {
    let system = stores.system()?;
    let model = system.find(wanted).ok()?;
    Some(CliError::new(
        ExitStatus::NotFound,
        message!(
            "install-in-machines-store",
            model = model.manifest.label(),
            store = %system.root().display(),
        ),
    ))
}

/// All of these in a sentence: `cpu and portable`.
pub(super) fn all_of(things: &[impl ToString]) -> String {
    let all = things.iter().map(ToString::to_string);
    let all = all.reduce(|some, last| message!("install-and", some = some, last = last));
    all.unwrap_or_default()
}

/// Tells what was done.
pub(super) fn tell(ui: &Ui, status: &str, people: &str, model: &Installed) {
    let outcome = Outcome {
        status,
        dir: &model.dir,
        manifest: &model.manifest,
    };
    ui.result(people, &outcome);
}

/// Reads `config.json` of a folder, and where there is one the index: refuses other
/// architectures and formats before anything large is fetched or copied, and says what
/// the exports will take, as far as that can be known.
pub(super) fn check_config(dir: &Path, targets: &[Target]) -> Result<u64, CliError> {
    let floats = float_layers_in(dir)?;
    let config = read_config(dir)?;
    let dimensions = Dimensions::from_config(&config);
    Ok(dimensions.map_or(0, |d| export_bytes(&d, floats, targets)))
}

/// How many layers of the checkpoint in a folder hold their experts as floats, which an
/// export for `cpu` writes anew.
pub(super) fn float_layers_in(dir: &Path) -> Result<u64, CliError> {
    let generation = std::fs::read(dir.join("generation_config.json")).ok();
    let config = Config::parse(&read_config(dir)?, generation.as_deref())?;
    Ok(float_layers(dir, &config)? as u64)
}

fn read_config(dir: &Path) -> Result<Vec<u8>, CliError> {
    std::fs::read(dir.join("config.json")).map_err(|error| {
        let folder = dir.display();
        let message = message!("install-no-checkpoint", folder = %folder, error = reason(&error));
        CliError::new(ExitStatus::NotFound, message)
    })
}

/// What the exports take at most, of a checkpoint that holds the experts of
/// `float_layers` layers as floats.
pub(super) fn export_bytes(dimensions: &Dimensions, float_layers: u64, targets: &[Target]) -> u64 {
    let each = targets.iter();
    let each = each.map(|t| dimensions.export_bytes(t.name(), float_layers));
    each.fold(0, u64::saturating_add)
}

/// Validates a staged checkpoint completely, exports it and installs all of it.
///
/// `files` are proven. A checkpoint that is refused leaves nothing behind.
pub(super) fn install(
    staging: Staging,
    files: Vec<FileEntry>,
    provenance: Provenance,
    targets: &[Target],
    ui: &Ui,
) -> Result<Installed, CliError> {
    let exported = open_staged(&staging)
        .and_then(|checkpoint| export_all(&checkpoint, &staging.dir, targets, ui));
    let exported = match exported {
        Err(error) if error.status == ExitStatus::Verification => {
            staging.discard()?;
            return Err(error);
        }
        result => result?,
    };
    let now = now_rfc3339();
    let manifest = Manifest {
        schema: SCHEMA,
        name: provenance.name,
        revision: provenance.revision,
        source: provenance.source,
        catalog: provenance.catalog,
        catalog_file: provenance.catalog_file,
        license: provenance.license,
        signature: provenance.signature,
        tool_version: env!("CARGO_PKG_VERSION").into(),
        installed_at: now.clone(),
        verified_at: now,
        files,
        targets: exported.files,
        exports: exported.records,
    };
    Ok(staging.commit(manifest)?)
}

/// Validates everything: architecture, every tensor, every scale.
fn open_staged(staging: &Staging) -> Result<Checkpoint, CliError> {
    Checkpoint::open(&staging.dir).map_err(|error| {
        let mut error = CliError::from(error);
        // The staging folder's path says nothing to anybody.
        let folder = format!("{}/", staging.dir.display());
        error.message = message!("install-refused", why = error.message.replace(&folder, ""));
        error
    })
}

/// Exports by their target.
#[derive(Default)]
pub(super) struct Exported {
    pub(super) files: BTreeMap<String, Vec<FileEntry>>,
    records: BTreeMap<String, Export>,
}

/// Exports into the targets' folders below `dir`, which are emptied first.
pub(super) fn export_all(
    checkpoint: &Checkpoint,
    dir: &Path,
    targets: &[Target],
    ui: &Ui,
) -> Result<Exported, CliError> {
    for target in targets {
        let out = dir.join(target.name());
        if out.exists() {
            // Left by an interrupted export: nobody has proven it.
            std::fs::remove_dir_all(&out).map_err(StoreError::io("remove", &out))?;
        }
    }
    // Before the tensors were there, this could be estimated only.
    let bytes = targets.iter().map(|t| export::weight_bytes(checkpoint, *t));
    let needed = bytes.fold(0, u64::saturating_add);
    require_space(dir, &message!("space-export"), needed)?;
    let mut exported = Exported::default();
    for &target in targets {
        let (files, record) = export_one(checkpoint, dir, target, ui)?;
        exported.files.insert(target.to_string(), files);
        exported.records.insert(target.to_string(), record);
    }
    Ok(exported)
}

fn export_one(
    checkpoint: &Checkpoint,
    dir: &Path,
    target: Target,
    ui: &Ui,
) -> Result<(Vec<FileEntry>, Export), CliError> {
    let out = dir.join(target.name());
    let exporting = message!("install-exporting", target = %target);
    ui.note(&exporting);
    let task = ui.task(&exporting, 0);
    let report = export::export(checkpoint, target, &out, &mut |done, total| {
        task.set(done, total);
    })?;
    drop(task);
    let entry = |(name, size, sha256)| FileEntry {
        path: format!("{target}/{name}"),
        size,
        sha256,
    };
    let files = report.files.iter().cloned().map(entry).collect();
    let record = record(checkpoint, report);
    if let Some(quantized) = &record.quantized {
        let what = describe_quantized(quantized);
        ui.note(&message!("install-experts", target = %target, what = what));
    }
    Ok((files, record))
}

/// What an export has made of a checkpoint's experts.
pub(super) fn describe_quantized(experts: &QuantizedExperts) -> String {
    let QuantizedExperts {
        from, to, layers, ..
    } = experts;
    match experts.relative_rms_error {
        0.0 => translated!(
            experts,
            "experts-quantized-exactly",
            from = from,
            to = to,
            layers = layers,
        ),
        error => translated!(
            experts,
            "experts-quantized",
            from = from,
            to = to,
            layers = layers,
            error = decimal(error, 4),
        ),
    }
}

/// What a manifest remembers of an export that was made just now.
fn record(checkpoint: &Checkpoint, report: ExportReport) -> Export {
    let inputs = std::iter::once("config.json").chain(checkpoint.shards());
    let weights = report.forms.into_iter().map(|form| Weights {
        form: form.name,
        tensors: form.tensors,
        bytes: form.bytes,
    });
    Export {
        tool_version: env!("CARGO_PKG_VERSION").into(),
        exported_at: now_rfc3339(),
        format: export::FORMAT.into(),
        inputs: inputs.map(str::to_owned).collect(),
        weights: weights.collect(),
        quantized: report.experts.map(|experts| QuantizedExperts {
            from: experts.from,
            to: experts.to.to_owned(),
            layers: experts.layers as u64,
            relative_rms_error: experts.relative_rms_error,
        }),
    }
}

/// Exports an installed model for targets it lacks, or anew with `force`.
///
/// All of them appear at once. None when there is nothing to do.
pub(super) fn add_targets(
    store: &Store,
    model: &Installed,
    targets: &[Target],
    force: bool,
    ui: &Ui,
) -> Result<Option<Installed>, CliError> {
    let lacking = |t: &&Target| force || !model.manifest.targets.contains_key(t.name());
    let wanted: Vec<Target> = targets.iter().filter(lacking).copied().collect();
    if wanted.is_empty() {
        return Ok(None);
    }
    let staging = store.stage(&model.name, &model.revision)?;
    staging.clear()?;
    // Another process may have changed it before the lock was ours.
    let current = store.get(&model.name, &model.revision)?;
    let model = current.as_ref().unwrap_or(model);
    let needed = check_config(&model.dir, &wanted)?;
    let result = require_space(&staging.dir, &message!("space-export"), needed)
        .map_err(CliError::from)
        .and_then(|()| {
            let checkpoint = Checkpoint::open(&model.dir)?;
            export_all(&checkpoint, &staging.dir, &wanted, ui)
        });
    let exported = match result {
        Err(error) => {
            staging.discard()?;
            return Err(error);
        }
        Ok(exported) => exported,
    };
    let mut manifest = model.manifest.clone();
    for (target, mut record) in exported.records {
        // The same bytes again are not news.
        let again = manifest.targets.get(&target) == exported.files.get(&target);
        if let (true, Some(first)) = (again, manifest.exports.get(&target)) {
            record.exported_at.clone_from(&first.exported_at);
        }
        manifest.exports.insert(target, record);
    }
    manifest.targets.extend(exported.files);
    manifest.tool_version = env!("CARGO_PKG_VERSION").into();
    Ok(Some(staging.replace(model, manifest)?))
}

/// A failed attempt that brought nothing leaves nothing.
pub(super) fn discard_if_empty(staging: Staging) -> Result<(), CliError> {
    Ok(staging.discard_if_empty()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_in_a_sentence() {
        assert_eq!(all_of(&[Target::Cpu]), "cpu");
        assert_eq!(all_of(&["a", "b", "c"]), "a and b and c");
    }

    #[test]
    fn experts_are_told_of_with_what_they_lost() {
        let quantized = |error| QuantizedExperts {
            from: "bfloat16".into(),
            to: "MXFP4".into(),
            layers: 1,
            relative_rms_error: error,
        };
        let lossless = "quantized by the export from bfloat16 to MXFP4, 1 layer, without loss";
        assert_eq!(describe_quantized(&quantized(0.0)), lossless);
        assert!(describe_quantized(&quantized(0.1)).ends_with(", relative RMS error 0.1000"));
    }
}
