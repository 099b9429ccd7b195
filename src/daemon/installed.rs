//! The loader of installed models: store, ONNX Runtime, provider, session.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gptoss_onnx::export::Target;
use gptoss_onnx::kernels::attention::Precision;

use crate::config::Config;
use crate::harmony::Tokenizer;
use crate::model::{Installed, Store, StoreError, Stores};
use crate::platform;
use crate::runtime::quarantine::Stamp;
use crate::runtime::{
    self, ExpertMemory, Library, Options, OrtBackend, Provider, ProviderChoice, ProviderReport,
    Quarantine, RuntimeError,
};
use crate::session::{LoadedModel, Loader, ModelSummary, ProviderInfo, Unavailable};

/// Loads what `gptoss-ctl` installed.
pub struct StoreLoader {
    stores: Stores,
    default: Option<String>,
    context: usize,
    library: Option<PathBuf>,
    provider: ProviderChoice,
    threads: Option<usize>,
    kv_cache: Precision,
    parallel: usize,
    stream_experts: Option<ExpertMemory>,
    /// Providers that broke before, here or in an earlier daemon.
    quarantine: Quarantine,
    /// Providers that failed while they computed, since this daemon's start.
    failed: Mutex<Vec<(Provider, String)>>,
    /// The provider, once one has proven itself, and what the quarantine was then.
    chosen: Mutex<Option<(ProviderReport, Stamp)>>,
}

impl StoreLoader {
    /// A loader for the models in these stores.
    ///
    /// # Errors
    /// The settings name an unknown provider.
    pub fn new(
        stores: Stores,
        config: &Config,
        quarantine: Quarantine,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let threads = config.runtime.threads;
        Ok(Self {
            stores,
            default: config.model.default.clone(),
            context: config.model.context,
            library: config.runtime.library.clone(),
            provider: config.runtime.provider.parse()?,
            threads: (threads > 0).then_some(threads),
            kv_cache: config.runtime.kv_cache.parse()?,
            parallel: config.runtime.parallel,
            stream_experts: (config.runtime.stream_experts)
                .then(|| ExpertMemory::from_setting(config.runtime.expert_memory_bytes)),
            quarantine,
            failed: Mutex::default(),
            chosen: Mutex::default(),
        })
    }

    fn find(&self, model: &str) -> Result<Installed, Unavailable> {
        self.stores.find(model).map_err(|error| match error {
            StoreError::NotInstalled { .. } => self.nothing(format!(
                "the model {model:?} is not installed; `gptoss-ctl list` shows what is, \
                 `gptoss-ctl pull {model}` fetches it"
            )),
            other => Unavailable::NoModel(other.to_string()),
        })
    }

    /// No model, for this reason, unless the disk that has them is not there.
    fn nothing(&self, why: String) -> Unavailable {
        match self.stores.own().check_disk() {
            Ok(()) => Unavailable::NoModel(why),
            Err(error) => Unavailable::NoModel(error.to_string()),
        }
    }

    /// The model for requests that name none.
    fn default_model(&self) -> Result<String, Unavailable> {
        if let Some(name) = &self.default {
            return Ok(name.clone());
        }
        let mut names: Vec<_> = self.stores.models().into_iter().map(|m| m.name).collect();
        names.dedup();
        let named = |wanted: &str| names.iter().find(|name| *name == wanted);
        let chosen = match names.as_slice() {
            [only] => Some(only),
            _ => named("20b").or_else(|| named("nano")),
        };
        chosen.cloned().ok_or_else(|| match names.is_empty() {
            true => self.nothing("no model is installed; `gptoss-ctl pull 20b` fetches one".into()),
            false => Unavailable::NoModel(format!(
                "several models are installed ({}); name one, or set model.default",
                names.join(", ")
            )),
        })
    }

    /// ONNX Runtime's library: the one of the settings, else where one is looked for.
    fn find_library(&self) -> Result<Library, Unavailable> {
        let stores = self.stores.all().map(Store::root);
        runtime::find(self.library.as_deref(), stores).map_err(unavailable)
    }

    /// The provider that works, found out once, and again where the quarantine has
    /// changed since: `gptoss-ctl selftest --retry` lets one out of it.
    fn provider(&self) -> Result<ProviderReport, Unavailable> {
        let mut chosen = self.chosen();
        if let Some((report, stamp)) = chosen.as_ref()
            && *stamp == self.quarantine.stamp()
        {
            return Ok(report.clone());
        }
        self.quarantine.convict();
        let failed = self.failed().clone();
        let report = runtime::choose(self.provider, &self.quarantine, &failed);
        let report = report.map_err(unavailable)?;
        *chosen = Some((report.clone(), self.quarantine.stamp()));
        Ok(report)
    }

    fn chosen(&self) -> MutexGuard<'_, Option<(ProviderReport, Stamp)>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Vec<(Provider, String)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a provider passed over from now on, by this daemon.
    fn pass_over(&self, provider: Provider, reason: String) {
        self.failed().push((provider, reason));
        *self.chosen() = None;
    }

    /// Whether another provider may take this one's place.
    fn is_replaceable(&self, provider: Provider) -> bool {
        self.provider == ProviderChoice::Auto && provider != Provider::Cpu
    }
}

/// Whether a load failed by what the provider is, has or does: on another one it may
/// not. What is wrong with the model or the library is wrong there, too.
fn may_be_the_providers(error: &RuntimeError) -> bool {
    is_a_refusal(error) || hangs(error)
}

/// Whether the provider did not end a load. Whatever it is asked then would end no sooner,
/// and leave another thread behind.
fn hangs(error: &RuntimeError) -> bool {
    matches!(error, RuntimeError::LoadHangs { .. })
}

/// Whether the provider refused an export, and may take another one.
fn is_a_refusal(error: &RuntimeError) -> bool {
    matches!(
        error,
        RuntimeError::ProviderUnusable { .. }
            | RuntimeError::NoExport { .. }
            | RuntimeError::NotEnoughMemory { .. }
            | RuntimeError::NotEnoughGpuMemory { .. }
            | RuntimeError::Ort(_)
    )
}

/// The exports of a model that a provider runs, best first.
fn exports(model: &Installed, provider: Provider) -> impl Iterator<Item = Target> {
    let made = |target: &Target| model.manifest.targets.contains_key(target.name());
    provider.targets().iter().copied().filter(made)
}

/// Bytes of the files that an export is loaded from.
fn weight_bytes(model: &Installed, target: Target) -> u64 {
    let manifest = &model.manifest;
    let published = manifest.files.iter();
    let published = published.filter(|_| target.has_our_operators());
    let exported = manifest.targets.get(target.name()).into_iter().flatten();
    let sizes = published.chain(exported).map(|file| file.size);
    sizes.fold(0, u64::saturating_add)
}

/// The best export of a model, whoever runs it.
fn target(model: &Installed) -> Result<Target, Unavailable> {
    let [processor, gpu] = [Provider::Cpu, Provider::Cuda];
    let mut all = exports(model, processor).chain(exports(model, gpu));
    let missing = RuntimeError::NoExport {
        model: model.name.clone(),
        provider: processor,
        target: Target::Cpu,
    };
    all.next().ok_or_else(|| unavailable(missing))
}

fn unavailable(error: RuntimeError) -> Unavailable {
    let message = error.to_string();
    let no_runtime = |library: String| Unavailable::NoRuntime {
        library,
        message: message.clone(),
    };
    match error {
        RuntimeError::LibraryNotFound { .. } => no_runtime("libonnxruntime.so".into()),
        RuntimeError::NotALibrary { path, .. }
        | RuntimeError::NotPinned { path, .. }
        | RuntimeError::Untrusted { path, .. }
        | RuntimeError::LibraryTooOld { path, .. } => no_runtime(path.display().to_string()),
        RuntimeError::AlreadyLoaded { loaded } => no_runtime(loaded.display().to_string()),
        RuntimeError::ProviderUnusable { provider, .. } => Unavailable::SelfTestFailed {
            provider: provider.to_string(),
            message,
        },
        RuntimeError::NoProvider { rejected } => Unavailable::SelfTestFailed {
            provider: rejected
                .last()
                .map_or_else(String::new, |(provider, _)| provider.to_string()),
            message,
        },
        RuntimeError::NotEnoughMemory { need, have, .. }
        | RuntimeError::NotEnoughGpuMemory { need, have } => Unavailable::NotEnoughMemory {
            need,
            have,
            message,
        },
        _ => Unavailable::Failed(message),
    }
}

impl Loader for StoreLoader {
    fn models(&self) -> Vec<ModelSummary> {
        let summary = |model: Installed| {
            let exported = model.manifest.targets.values().flatten();
            let files = model.manifest.files.iter().chain(exported);
            ModelSummary {
                size: files.map(|file| file.size).sum(),
                target: target(&model).map_or_else(|_| String::new(), |t| t.to_string()),
                verified_at: model.manifest.verified_at.clone(),
                name: model.name,
                revision: model.revision,
            }
        };
        self.stores.models().into_iter().map(summary).collect()
    }

    fn resolve(&self, name: Option<&str>) -> Result<String, Unavailable> {
        let wanted = match name {
            Some(name) => name.to_owned(),
            None => self.default_model()?,
        };
        let found = self.find(&wanted)?;
        // The bare name where it means the same revision, so that both ways of
        // asking meet the same resident model.
        let bare = self.stores.find(&found.name);
        Ok(
            match bare.is_ok_and(|bare| bare.revision == found.revision) {
                true => found.name,
                false => format!("{}@{}", found.name, found.revision),
            },
        )
    }

    fn probe(&self, model: &str) -> Result<(), Unavailable> {
        target(&self.find(model)?)?;
        self.find_library().map(drop)
    }

    fn tokenizer(&self, model: &str) -> Result<Arc<Tokenizer>, Unavailable> {
        let file = self.find(model)?.dir.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&file);
        let failed = |e| Unavailable::Failed(format!("{}: {e}", file.display()));
        Ok(Arc::new(tokenizer.map_err(failed)?))
    }

    fn context_window(&self, model: &str) -> Result<usize, Unavailable> {
        #[derive(serde::Deserialize)]
        struct Shape {
            max_position_embeddings: usize,
        }
        let file = self.find(model)?.dir.join("config.json");
        let failed = |e: String| Unavailable::Failed(format!("{}: {e}", file.display()));
        let text = std::fs::read(&file).map_err(|e| failed(e.to_string()))?;
        let shape: Shape = serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        Ok(self.context.min(shape.max_position_embeddings))
    }

    fn prove_again(&self) -> Result<(), Unavailable> {
        let mut chosen = self.chosen();
        if chosen.take().is_none() {
            return Ok(());
        }
        // What a sleep does to a driver, a start of the machine mends: no quarantine for
        // that. And what failed before it may be well again.
        self.failed().clear();
        let quarantine = self.quarantine.clone().read_only();
        let report = runtime::choose(self.provider, &quarantine, &[]).map_err(unavailable)?;
        *chosen = Some((report, self.quarantine.stamp()));
        Ok(())
    }

    fn set_aside(&self, provider: &str, reason: &str) {
        if let Some(provider) = Provider::named(provider) {
            self.pass_over(provider, format!("it failed while it computed: {reason}"));
        }
    }

    fn load(&self, model: &str, progress: &mut dyn FnMut(f64)) -> Result<LoadedModel, Unavailable> {
        // ONNX Runtime's threads inherit the name of the thread that makes them.
        platform::named(c"model", || self.load_named(model, progress))
    }
}

impl StoreLoader {
    fn load_named(
        &self,
        model: &str,
        progress: &mut dyn FnMut(f64),
    ) -> Result<LoadedModel, Unavailable> {
        let installed = self.find(model)?;
        target(&installed)?;
        runtime::initialise(&self.find_library()?).map_err(unavailable)?;
        progress(0.05);
        let mut report = self.provider()?;
        let mut failed = self.failed().clone();
        let backend = loop {
            progress(0.1);
            let provider = report.provider;
            match self.load_on(provider, &installed, model) {
                Ok(backend) => break backend,
                Err(error) => {
                    let why = format!("it cannot load {model}: {error}");
                    // Nothing else is remembered: at the next load its memory may be free.
                    if hangs(&error) {
                        self.pass_over(provider, why.clone());
                    }
                    if !self.is_replaceable(provider) || !may_be_the_providers(&error) {
                        return Err(unavailable(error));
                    }
                    tracing::warn!(%provider, model, "{why}");
                    failed.push((provider, why));
                    let next = runtime::choose(self.provider, &self.quarantine, &failed);
                    report = next.map_err(unavailable)?;
                }
            }
        };
        progress(1.0);
        let streamed = backend.load_report().streamed;
        let ProviderReport { provider, rejected } = report;
        let rejected = rejected.into_iter();
        Ok(LoadedModel {
            backend: runtime::failing_at_run(provider, Box::new(backend)),
            provider: ProviderInfo {
                name: provider.to_string(),
                rejected: rejected.map(|(p, why)| (p.to_string(), why)).collect(),
                streamed: streamed.map(|streamed| streamed.memory),
            },
            on_device: provider != Provider::Cpu,
            replaceable: self.is_replaceable(provider),
        })
    }

    /// Loads the best of the model's exports that the provider runs; on a device the next
    /// one where that is refused, as MXFP4 is where it was built without.
    fn load_on(
        &self,
        provider: Provider,
        installed: &Installed,
        model: &str,
    ) -> Result<OrtBackend, RuntimeError> {
        let mut refused = None;
        for target in exports(installed, provider) {
            let options = self.options(model, target, provider);
            let bytes = weight_bytes(installed, target);
            match runtime::load(&installed.dir, options, bytes, &self.quarantine) {
                Err(error) if provider != Provider::Cpu && is_a_refusal(&error) => {
                    tracing::warn!(%provider, %target, model, "export refused: {error}");
                    refused.get_or_insert(error);
                }
                done => return done,
            }
        }
        Err(refused.unwrap_or_else(|| RuntimeError::NoExport {
            model: model.to_owned(),
            provider,
            target: provider.targets()[0],
        }))
    }

    fn options(&self, model: &str, target: Target, provider: Provider) -> Options {
        Options {
            model: model.to_owned(),
            target,
            context: self.context,
            threads: self.threads,
            kv_cache: target.fixed_cache().is_none().then_some(self.kv_cache),
            sequences: self.parallel,
            provider,
            // No other target has experts that lie in files as they are used.
            stream_experts: self.stream_experts.filter(|_| target == Target::Cpu),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Manifest, SCHEMA, Store, sha256_bytes};

    fn loader(root: &Path, default: Option<&str>) -> StoreLoader {
        let mut config = Config::default();
        config.model.default = default.map(str::to_owned);
        config.runtime.library = Some("/nowhere/libonnxruntime.so".into());
        let stores = Stores::of(root, None).unwrap();
        StoreLoader::new(stores, &config, Quarantine::default()).unwrap()
    }

    #[test]
    fn an_empty_store_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let empty = loader(folder.path(), None);
        let Err(Unavailable::NoModel(message)) = empty.resolve(None) else {
            panic!("a model in an empty store");
        };
        assert!(message.contains("gptoss-ctl pull 20b"), "{message}");
        let Err(Unavailable::NoModel(message)) = empty.resolve(Some("x")) else {
            panic!("a model in an empty store");
        };
        assert!(message.contains("gptoss-ctl pull x"), "{message}");
        assert!(empty.models().is_empty());
        let named = loader(folder.path(), Some("120b"))
            .resolve(None)
            .unwrap_err();
        assert!(named.to_string().contains("120b"), "{named}");
    }

    /// Puts a model without weights into a store.
    fn put(root: &Path, name: &str, revision: &str, context: usize) {
        let config = format!("{{\"max_position_embeddings\": {context}}}");
        let staging = Store::open(root).unwrap().stage(name, revision).unwrap();
        staging.write("config.json", config.as_bytes()).unwrap();
        let manifest = serde_json::json!({
            "schema": SCHEMA, "name": name, "revision": revision, "source": "test",
            "tool_version": "0", "verified_at": "2025-01-01T00:00:00Z",
            "files": [{
                "path": "config.json",
                "size": config.len(),
                "sha256": sha256_bytes(config.as_bytes()),
            }],
        });
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        staging.commit(manifest).unwrap();
    }

    #[test]
    fn a_users_daemon_runs_the_machines_models_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let (own, system) = (folder.path().join("own"), folder.path().join("system"));
        put(&own, "m", "r1", 100);
        put(&system, "m", "r1", 150);
        put(&system, "m", "r2", 200);
        put(&system, "n", "r1", 300);
        let stores = Stores::of(&own, Some(&system)).unwrap();
        let config = Config::default();
        let loader = StoreLoader::new(stores, &config, Quarantine::default()).unwrap();
        for (asked, resolved, context) in [
            ("m", "m", 100),
            ("m@r1", "m", 100),
            ("m@r2", "m@r2", 200),
            ("n", "n", 300),
        ] {
            assert_eq!(loader.resolve(Some(asked)).unwrap(), resolved);
            assert_eq!(loader.context_window(resolved).unwrap(), context, "{asked}");
        }
        let models = loader.models();
        let listed: Vec<_> = models.iter().map(|m| (&*m.name, &*m.revision)).collect();
        assert_eq!(listed, [("m", "r1"), ("m", "r2"), ("n", "r1")]);
    }

    #[test]
    fn a_disk_that_is_not_there_is_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("store");
        std::os::unix::fs::symlink("/nowhere/gptoss", &link).unwrap();
        let loader = loader(&link, None);
        for asked in [None, Some("20b")] {
            let why = loader.resolve(asked).unwrap_err().to_string();
            assert!(why.contains("a link to /nowhere/gptoss"), "{why}");
        }
    }

    #[test]
    fn another_provider_is_tried_for_what_it_may_do_better() {
        let memory = RuntimeError::NotEnoughMemory {
            need: 2,
            have: 1,
            streamed: None,
        };
        assert!(may_be_the_providers(&memory));
        assert!(may_be_the_providers(&RuntimeError::Ort(
            "CUDA failure 2".into()
        )));
        assert!(!may_be_the_providers(&RuntimeError::Model(
            "damaged".into()
        )));
        let folder = tempfile::tempdir().unwrap();
        let mut loader = loader(folder.path(), None);
        assert!(loader.is_replaceable(Provider::Cuda));
        assert!(!loader.is_replaceable(Provider::Cpu));
        loader.provider = ProviderChoice::Cuda;
        assert!(!loader.is_replaceable(Provider::Cuda));
    }

    #[test]
    fn errors_keep_their_kind() {
        let old = unavailable(RuntimeError::LibraryTooOld {
            path: "/x/libonnxruntime.so".into(),
            version: "1.21".into(),
            needed: "1.31",
        });
        assert_eq!(old.reason(), "no-runtime");
        assert!(old.to_string().contains("1.21"));
        let memory = unavailable(RuntimeError::NotEnoughMemory {
            need: 2_000_000_000,
            have: 1_000_000_000,
            streamed: None,
        });
        assert_eq!(memory.reason(), "not-enough-memory");
        assert!(memory.to_string().contains("2.0 GB are needed"), "{memory}");
        let none = unavailable(RuntimeError::NoProvider { rejected: vec![] });
        assert_eq!(none.reason(), "self-test-failed");
    }
}
