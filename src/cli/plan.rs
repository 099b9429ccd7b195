//! `gptoss-ctl plan`: what a model takes of disk and memory, before any of it is
//! fetched or loaded.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;
use gptoss_onnx::nano;
use serde::Serialize;

use super::eval::positive;
use super::locate::{Located, locate};
use super::messages::{message, size};
use super::progress::Ui;
use super::pull::Choice;
use super::trust::Trust;
use super::{CliError, ExitStatus, Global, install, pull, settings, streaming};
use crate::model::{Dimensions, Store, available_space};
use crate::runtime::streaming::Forecast;
use crate::runtime::{self, ExpertMemory, MemoryPlan, Options, Provider};

/// Contexts that are planned for unless said otherwise, besides the daemon's own.
const CONTEXTS: [usize; 4] = [8192, 32_768, 65_536, 131_072];

/// Arguments of `gptoss-ctl plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// An installed model, a checkpoint's folder, or 20b, 120b, nano or another name
    /// in the catalog.
    model: String,
    /// A catalog of your own: a TOML file that pins revisions and digests.
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Exports to plan for, separated by commas: cpu, portable, cuda, cuda-int4, coreml;
    /// memory is that of the first.
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    target: Vec<Target>,
    /// Context windows, separated by commas [default: the daemon's and some more].
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', value_parser = positive)]
    context: Vec<usize>,
    /// What the KV cache is made of, f16 or int8 [default: the daemon's].
    #[arg(long, value_name = "PRECISION")]
    kv_cache: Option<Precision>,
    /// Requests computed together [default: the daemon's].
    #[arg(long, value_name = "N", value_parser = positive)]
    parallel: Option<usize>,
}

/// What is known of the model.
struct Subject {
    label: String,
    /// Bytes of the checkpoint, where it is not installed.
    download: u64,
    dimensions: Option<Dimensions>,
    /// Where it is installed.
    located: Option<Located>,
}

/// What all of it takes, for programs.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    model: &'a str,
    installed: bool,
    disk: Disk,
    memory: Memory,
}

/// Bytes on disk.
#[derive(Debug, Serialize)]
struct Disk {
    folder: PathBuf,
    download: u64,
    /// At most; none for what is exported already.
    exports: BTreeMap<String, u64>,
    needed: u64,
    available: u64,
}

/// Bytes of memory.
#[derive(Debug, Serialize)]
struct Memory {
    target: &'static str,
    kv_cache: &'static str,
    parallel: usize,
    plans: Vec<Row>,
    /// Where the system tells.
    available: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    plan: MemoryPlan,
    needed: u64,
    fits: bool,
    /// What it costs to leave experts on the disk, where it does not fit.
    streamed: Option<Forecast>,
}

/// Runs the command.
pub fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let root = global.store.clone().unwrap_or_else(Store::default_root);
    let subject = subject(global, &args)?;
    let plan = Plan {
        model: &subject.label,
        installed: subject.located.is_some(),
        disk: disk(root, &subject, &args.target)?,
        memory: memory_plans(global, &args, &subject)?,
    };
    Ui::new(global.json).result(&text(&plan), &plan);
    Ok(())
}

/// How the daemon loads a model, by its settings.
pub(super) fn as_the_daemon(global: &Global) -> Result<Options, CliError> {
    let config = settings::load(global)?;
    Ok(Options {
        context: config.model.context,
        kv_cache: config.runtime.kv_cache.parse().ok(),
        sequences: config.runtime.parallel,
        stream_experts: (config.runtime.stream_experts)
            .then(|| ExpertMemory::from_setting(config.runtime.expert_memory_bytes)),
        ..Options::default()
    })
}

/// Says what running a checkpoint will take, once its `config.json` is in `folder`.
pub(super) fn tell_memory(ui: &Ui, folder: &Path, options: &Options) {
    let config = std::fs::read(folder.join("config.json")).ok();
    let dimensions = config.and_then(|json| Dimensions::from_config(&json));
    let plan = dimensions.and_then(|d| MemoryPlan::of_dimensions(&d, options));
    if let Some(plan) = plan {
        let notes = forecasts(&plan, options, options.provider.available_memory());
        notes.iter().for_each(|note| ui.note(note));
    }
}

/// What a model takes; where that is too much, what it costs with experts on the disk,
/// and that alone where the daemon is told to leave them there.
fn forecasts(plan: &MemoryPlan, options: &Options, available: Option<u64>) -> Vec<String> {
    let whole = forecast(plan, available);
    let short = available.filter(|have| plan.total() > *have);
    let memory = options.stream_experts.unwrap_or(ExpertMemory::Free);
    let streamed = short.and_then(|have| plan.streamed(memory, have, None));
    let streamed = streamed.map(|streamed| streaming::told(&streamed, plan.context));
    match (streamed, options.stream_experts) {
        (Some(streamed), Some(_)) => vec![streamed],
        (streamed, _) => std::iter::once(whole).chain(streamed).collect(),
    }
}

fn forecast(plan: &MemoryPlan, available: Option<u64>) -> String {
    let (needed, context) = (size(plan.total()), plan.context);
    match available {
        None => message!("plan-forecast", needed = needed, context = context),
        Some(bytes) if plan.total() <= bytes => message!(
            "plan-forecast-fits",
            needed = needed,
            context = context,
            available = size(bytes),
        ),
        Some(bytes) => message!(
            "plan-forecast-too-much",
            needed = needed,
            context = context,
            available = size(bytes),
        ),
    }
}

/// Finds out which model is meant: an installed one, else one of a catalog.
fn subject(global: &Global, args: &Args) -> Result<Subject, CliError> {
    match locate(global, &args.model) {
        Ok(located) => Ok(Subject {
            label: located.name.clone(),
            download: 0,
            dimensions: std::fs::read(located.revision.join("config.json"))
                .ok()
                .and_then(|json| Dimensions::from_config(&json)),
            located: Some(located),
        }),
        Err(error) if error.status != ExitStatus::NotFound => Err(error),
        Err(error) if args.model.contains(std::path::MAIN_SEPARATOR) => Err(error),
        Err(_) => match pull::choose(
            &args.model,
            args.catalog.as_deref(),
            &Trust::load(global, &[])?,
        )? {
            Choice::Embedded => Ok(embedded(&args.model)),
            Choice::Pinned { model, .. } => Ok(Subject {
                label: format!("{}: {}@{}", args.model, model.repo, model.revision),
                download: model.total_size(),
                dimensions: model.dimensions.clone(),
                located: None,
            }),
        },
    }
}

fn embedded(name: &str) -> Subject {
    let mut files = nano::files().iter();
    let download = files.clone().map(|(_, bytes)| bytes.len() as u64).sum();
    let config = files.find(|(path, _)| *path == "config.json");
    Subject {
        label: name.to_owned(),
        download,
        dimensions: config.and_then(|(_, json)| Dimensions::from_config(json)),
        located: None,
    }
}

fn disk(folder: PathBuf, subject: &Subject, targets: &[Target]) -> Result<Disk, CliError> {
    let exported = |target: &Target| {
        let located = subject.located.as_ref();
        located.is_some_and(|l| l.revision.join(target.name()).is_dir())
    };
    // Of a checkpoint that is not there yet: published ones hold no floats.
    let floats = match &subject.located {
        Some(located) => install::float_layers_in(&located.revision).unwrap_or(0),
        None => 0,
    };
    let mut exports = BTreeMap::new();
    for target in targets.iter().filter(|t| !exported(t)) {
        if let Some(dimensions) = &subject.dimensions {
            let bytes = dimensions.export_bytes(target.name(), floats);
            exports.insert(target.to_string(), bytes);
        }
    }
    let needed = exports.values().copied();
    Ok(Disk {
        needed: needed.fold(subject.download, u64::saturating_add),
        available: available_space(&folder)?,
        download: subject.download,
        folder,
        exports,
    })
}

fn memory_plans(global: &Global, args: &Args, subject: &Subject) -> Result<Memory, CliError> {
    let daemon = as_the_daemon(global)?;
    let target = args.target.first().copied().unwrap_or(Target::Cpu);
    let kv_cache = args.kv_cache.or(daemon.kv_cache).unwrap_or_default();
    let parallel = args.parallel.unwrap_or(daemon.sequences);
    let mut contexts = args.context.clone();
    if contexts.is_empty() {
        contexts = [daemon.context].into_iter().chain(CONTEXTS).collect();
    }
    contexts.sort_unstable();
    let provider = Provider::of_target(target);
    let available = provider.available_memory();
    let disk = LazyCell::new(|| {
        let located = subject.located.as_ref()?;
        runtime::streaming::disk_speed_of(&located.revision, target)
    });
    let mut plans: Vec<Row> = Vec::new();
    for context in contexts {
        let options = Options {
            target,
            context,
            kv_cache: target.fixed_cache().is_none().then_some(kv_cache),
            sequences: parallel,
            provider,
            ..daemon.clone()
        };
        let Some(plan) = plan_of(subject, &options)? else {
            break;
        };
        // Longer ones than the model was made for are all the same.
        if plans.last().is_none_or(|last| last.plan != plan) {
            let needed = plan.total();
            let short = available.filter(|bytes| needed > *bytes);
            plans.push(Row {
                plan,
                needed,
                fits: short.is_none(),
                streamed: short.and_then(|have| {
                    let memory = daemon.stream_experts.unwrap_or(ExpertMemory::Free);
                    plan.streamed(memory, have, *disk)
                }),
            });
        }
    }
    Ok(Memory {
        target: target.name(),
        kv_cache: target.fixed_cache().unwrap_or(kv_cache).name(),
        parallel,
        plans,
        available,
    })
}

/// From the export where there is one, else from the checkpoint's dimensions.
fn plan_of(subject: &Subject, options: &Options) -> Result<Option<MemoryPlan>, CliError> {
    if let Some(located) = &subject.located
        && located.revision.join(options.target.name()).is_dir()
    {
        return Ok(Some(MemoryPlan::of_export(&located.revision, options)?));
    }
    let dimensions = subject.dimensions.as_ref();
    Ok(dimensions.and_then(|d| MemoryPlan::of_dimensions(d, options)))
}

fn text(plan: &Plan<'_>) -> String {
    let state = match plan.installed {
        true => message!("plan-installed", model = plan.model),
        false => message!("plan-not-installed", model = plan.model),
    };
    let mut lines = vec![state, String::new()];
    lines.extend(disk_text(&plan.disk));
    lines.push(String::new());
    lines.extend(memory_text(&plan.memory));
    lines.join("\n")
}

fn disk_text(disk: &Disk) -> Vec<String> {
    let mut rows = Vec::new();
    if disk.download > 0 {
        rows.push((message!("plan-to-fetch"), disk.download, String::new()));
    }
    for (target, bytes) in &disk.exports {
        let at_most = format!(" {}", message!("plan-at-most"));
        rows.push((message!("plan-export", target = target), *bytes, at_most));
    }
    let free = size(disk.available);
    let verdict = match disk.needed <= disk.available {
        true => message!("plan-fits-disk", free = free),
        false => message!("plan-too-much-for-disk", free = free),
    };
    rows.push((message!("plan-together"), disk.needed, verdict));
    let width = rows.iter().map(|(what, ..)| what.chars().count() + 1).max();
    let width = width.unwrap_or(0).max(22);
    let head = message!("plan-disk", folder = %disk.folder.display());
    let line = |(what, bytes, rest)| format!("  {what:width$}{:>10}{rest}", size(bytes));
    std::iter::once(head)
        .chain(rows.into_iter().map(line))
        .collect()
}

fn memory_text(memory: &Memory) -> Vec<String> {
    let mut lines = vec![memory_head(memory)];
    if memory.plans.is_empty() {
        lines.push(format!("  {}", message!("plan-no-dimensions")));
        return lines;
    }
    let heads = [
        message!("plan-context"),
        message!("plan-weights"),
        message!("plan-cache"),
        message!("plan-working"),
        message!("plan-together"),
    ];
    // Room for a number, and for its heading.
    let width = |(least, head): (usize, &String)| least.max(head.chars().count() + 2);
    let widths = [9, 11, 11, 11, 11].into_iter().zip(&heads).map(width);
    let widths: Vec<usize> = widths.collect();
    let row = |cells: &[String; 5], rest: &str| {
        let cells = cells.iter().zip(&widths);
        let cells = cells.map(|(cell, &width)| format!("{cell:>width$}"));
        cells.collect::<String>() + rest
    };
    let too_much = format!("  {}", message!("plan-too-much"));
    lines.push(row(&heads, ""));
    lines.extend(memory.plans.iter().map(|planned| {
        let plan = &planned.plan;
        let cells = [
            plan.context.to_string(),
            size(plan.weights),
            size(plan.cache),
            size(plan.workspace),
            size(planned.needed),
        ];
        row(&cells, if planned.fits { "" } else { &too_much })
    }));
    let streamed = memory
        .plans
        .iter()
        .find_map(|row| Some((row, row.streamed?)));
    if let Some((row, forecast)) = streamed {
        lines.push(String::new());
        lines.push(streaming::told(&forecast, row.plan.context));
    }
    lines
}

fn memory_head(memory: &Memory) -> String {
    match memory.available {
        Some(bytes) => message!(
            "plan-memory",
            target = memory.target,
            precision = memory.kv_cache,
            requests = memory.parallel,
            available = size(bytes),
        ),
        None => message!(
            "plan-memory-untold",
            target = memory.target,
            precision = memory.kv_cache,
            requests = memory.parallel,
        ),
    }
}

#[cfg(test)]
mod tests;
