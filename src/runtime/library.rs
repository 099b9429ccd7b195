//! The ONNX Runtime shared library: where it is, whether it will do, loading it.
//!
//! It is opened at run time, so that a build downloads and links nothing and a
//! package carries one pinned file. A process loads it once and keeps it.

use std::ffi::{CStr, c_char};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::carried::{self, Proven};
use super::cuda;
use super::error::RuntimeError;
use super::wheels::{Build, Kind};

/// Oldest version whose C interface this program can use.
pub const NEEDED_VERSION: &str = "1.31";

/// Name of the pinned library file.
pub use crate::platform::RUNTIME_FILE as FILE_NAME;
use crate::platform::{RUNTIME_FOLDER as PACKAGE_FOLDER, RUNTIME_LOADER_NAME as LOADER_NAME};

/// Libraries of their own that the build for CUDA has its providers in, beside it.
pub const PROVIDERS: [&str; 2] = [
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_cuda.so",
];

/// Beside a private copy, where the package `gptoss-cuda` puts the build for CUDA. It
/// has the same CPU provider, and is as good without a GPU.
const CUDA_FOLDER: &str = "cuda";

const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Switches ONNX Runtime's telemetry off before `main`.
///
/// The library reads the variable as it loads, and later versions of it act on
/// their own from a background thread; so it is set before any code of ours,
/// or a test harness, can start a thread. [`initialise`] checks it.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
#[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func"))]
static TELEMETRY_OFF: extern "C" fn() = {
    extern "C" fn switch_off() {
        // SAFETY: runs among the process's initialisers, before `main`, when
        // there is one thread: nobody can be reading the environment.
        unsafe { std::env::set_var(TELEMETRY_SWITCH, "1") }
    }
    switch_off
};

/// The library in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryInfo {
    /// The file, or the bare name that the system's loader resolved.
    pub path: PathBuf,
    /// Its version, as it says.
    pub version: String,
    /// How it was built, as it says.
    pub build: String,
    /// Names of the execution providers compiled in.
    pub providers: Vec<String>,
}

/// A library that was found, by why it may be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// Installed like the program itself, or named by whoever runs it.
    Installed(PathBuf),
    /// Brought into the store by a bundle or by `runtime install`: only bytes that are
    /// pinned are loaded.
    Carried(PathBuf),
    /// In the folder of the store that `runtime install --cuda` made: only bytes that
    /// are pinned are loaded, and only where nobody else can change them.
    Cuda {
        /// The file.
        path: PathBuf,
        /// What must be in its folder.
        build: Box<Build>,
    },
}

impl Library {
    /// The file, or the bare name that the system's loader resolves.
    pub fn path(&self) -> &Path {
        match self {
            Self::Installed(path) | Self::Carried(path) | Self::Cuda { path, .. } => path,
        }
    }

    /// Where a store keeps the build for CUDA, if there is one for this machine.
    fn cuda(store: &Path) -> Option<Self> {
        let build = Build::here(Kind::Cuda)?;
        Some(Self::Cuda {
            path: build.folder(store).join(FILE_NAME),
            build: Box::new(build.clone()),
        })
    }

    /// Proves what must be proven before it is opened.
    fn vouch(&self) -> Result<Vouched, RuntimeError> {
        Ok(match self {
            Self::Installed(path) => Vouched::File(path.clone()),
            Self::Carried(path) => Vouched::Memory(Proven::of(path)?),
            Self::Cuda { path, build } => {
                let folder = path.parent().unwrap_or(Path::new("/"));
                let mut proven = cuda::Proven::open(folder, build)?;
                proven.load_needed(build);
                Vouched::Folder(proven)
            }
        })
    }
}

/// What the loader is given for a library. What was proven stays as it was as long as
/// this lives.
enum Vouched {
    File(PathBuf),
    Memory(Proven),
    Folder(cuda::Proven),
}

impl Vouched {
    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(proven) => proven.path(),
            Self::Folder(proven) => proven.path_of(FILE_NAME),
        }
    }
}

/// What is loaded, for whoever has another process load the same.
pub(super) struct InUse {
    pub library: Library,
    pub version: String,
    /// What [`identity`] said as it was loaded.
    pub identity: String,
}

struct Loaded {
    library: Library,
    version: String,
    identity: String,
    environment: Environment,
    /// ONNX Runtime opens its providers where it was opened itself, when they are asked
    /// for.
    _opened: Vouched,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// Finds the library, without opening it.
///
/// Order:
///
/// 1. `configured` (the setting `runtime.library`), then `ORT_DYLIB_PATH`;
/// 2. the build for CUDA that `runtime install --cuda` put into one of the store
///    folders `stores`: it is of this program's version and has CUDA's libraries with
///    it, which the package `gptoss-cuda` has not;
/// 3. the package's private folder, then the folder `lib/gptoss` of the running
///    program's installation, of both the build for CUDA first;
/// 4. what a bundle or `runtime install` brought into one of `stores`;
/// 5. the system loader's search path.
///
/// A place named by a person is not skipped silently: if nothing is there, that is the
/// error. Nor is a library that is found and then refused by [`initialise`].
///
/// # Errors
/// [`RuntimeError::LibraryNotFound`].
pub fn find<'a>(
    configured: Option<&Path>,
    stores: impl IntoIterator<Item = &'a Path>,
) -> Result<Library, RuntimeError> {
    let variable = named_by_variable();
    let folders = installation_folders();
    find_among(configured.or(variable.as_deref()), &folders, stores)
}

/// Folders that an installation keeps the library in, the one that is named first.
pub fn folders() -> Vec<PathBuf> {
    let named = named_by_variable().and_then(|path| Some(path.parent()?.to_owned()));
    named.into_iter().chain(installation_folders()).collect()
}

fn named_by_variable() -> Option<PathBuf> {
    let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    variable.map(PathBuf::from)
}

fn installation_folders() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok();
    let beside = beside.as_deref().and_then(beside_program);
    std::iter::once(PACKAGE_FOLDER.into())
        .chain(beside)
        .collect()
}

/// `PREFIX/lib/gptoss` of `PREFIX/bin/gptoss-ctl` and of `PREFIX/lib/gptoss/gptossd`.
fn beside_program(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    match folder.ends_with("lib/gptoss") {
        true => Some(folder.to_owned()),
        false => Some(folder.parent()?.join("lib/gptoss")),
    }
}

fn find_among<'a>(
    named: Option<&Path>,
    folders: &[PathBuf],
    stores: impl IntoIterator<Item = &'a Path>,
) -> Result<Library, RuntimeError> {
    if let Some(path) = named {
        return if path.is_file() {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            Ok(Library::Installed(path))
        } else {
            Err(RuntimeError::LibraryNotFound {
                tried: vec![path.to_owned()],
            })
        };
    }
    let stores: Vec<&Path> = stores.into_iter().collect();
    let cuda = stores.iter().filter_map(|store| Library::cuda(store));
    let installed = folders
        .iter()
        .flat_map(|folder| [folder.join(CUDA_FOLDER), folder.clone()])
        .map(|folder| Library::Installed(folder.join(FILE_NAME)));
    let carried = stores
        .iter()
        .map(|store| Library::Carried(carried::folder(store).join(FILE_NAME)));
    let places: Vec<Library> = cuda.chain(installed).chain(carried).collect();
    match places.iter().find(|place| place.path().is_file()) {
        Some(place) => Ok(place.clone()),
        None if opens(Path::new(LOADER_NAME)) => Ok(Library::Installed(LOADER_NAME.into())),
        None => {
            let tried = places.iter().map(|place| place.path().to_owned());
            Err(RuntimeError::LibraryNotFound {
                tried: tried.chain([LOADER_NAME.into()]).collect(),
            })
        }
    }
}

/// Whether the system's loader finds and loads a library: ONNX Runtime, or one that
/// its providers need.
pub fn opens(path: &Path) -> bool {
    // SAFETY: opening runs the library's initialisers; it is one that the system has
    // installed and that computing on this machine would load next anyway.
    unsafe { libloading::Library::new(path) }.is_ok()
}

/// Loads a library and starts its environment, telemetry off and its messages
/// going to `tracing` under the target `onnxruntime`.
///
/// Calling it again with the same path does nothing. One that was carried costs its
/// size in memory, 30 MB; the build for CUDA in a store costs reading and hashing all
/// of its files once.
///
/// # Errors
/// Why it will not do.
pub fn initialise(library: &Library) -> Result<(), RuntimeError> {
    let path = library.path();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = &*loaded {
        return if loaded.library.path() == path {
            Ok(())
        } else {
            Err(RuntimeError::AlreadyLoaded {
                loaded: loaded.library.path().to_owned(),
            })
        };
    }
    if std::env::var(TELEMETRY_SWITCH).as_deref() != Ok("1") {
        return Err(RuntimeError::Telemetry);
    }
    let identity = identity(library);
    let vouched = library.vouch()?;
    let opened = vouched.path();
    let version = version_of(path, &opened)?;
    if !new_enough(&version) {
        return Err(RuntimeError::LibraryTooOld {
            path: path.to_owned(),
            version,
            needed: NEEDED_VERSION,
        });
    }
    let environment = start(path, &opened)?;
    tracing::info!(library = %path.display(), version, "ONNX Runtime loaded");
    *loaded = Some(Loaded {
        library: library.clone(),
        version,
        identity,
        environment,
        _opened: vouched,
    });
    Ok(())
}

/// What is loaded, if anything is.
pub fn loaded() -> Option<LibraryInfo> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded.as_ref().map(|loaded| LibraryInfo {
        path: loaded.library.path().to_owned(),
        version: loaded.version.clone(),
        build: ort::info().to_owned(),
        providers: compiled_providers(),
    })
}

/// The same, for the runtime itself.
pub(super) fn in_use() -> Result<InUse, RuntimeError> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = loaded.as_ref().ok_or(RuntimeError::NotInitialised)?;
    Ok(InUse {
        library: loaded.library.clone(),
        version: loaded.version.clone(),
        identity: loaded.identity.clone(),
    })
}

/// Which library this is, as far as the folder it is in tells: its file and those of
/// its providers, each by size and time of change. What was carried is the pinned one.
pub(super) fn identity(library: &Library) -> String {
    let path = match library {
        Library::Installed(path) => path,
        Library::Carried(_) => return format!("{FILE_NAME}, as pinned"),
        Library::Cuda { .. } => return format!("{FILE_NAME}, as pinned for CUDA"),
    };
    let providers = PROVIDERS.map(|name| path.with_file_name(name));
    let files = std::iter::once(path).chain(&providers);
    let stamps: Vec<_> = files.filter_map(|path| stamp(path)).collect();
    match stamps.is_empty() {
        // A name that the system's loader resolves.
        true => path.display().to_string(),
        false => stamps.join(", "),
    }
}

/// A file's place, size and time of change; none where there is none.
pub(super) fn stamp(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    let size = metadata.len();
    Some(format!(
        "{} {size} {seconds}.{nanoseconds:09}",
        path.display()
    ))
}

/// The environment sessions are made in.
pub(super) fn environment() -> Result<Environment, RuntimeError> {
    let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    loaded
        .as_ref()
        .map(|loaded| loaded.environment.clone())
        .ok_or(RuntimeError::NotInitialised)
}

/// `opened` is what the loader is given for the file `path`.
fn start(path: &Path, opened: &Path) -> Result<Environment, RuntimeError> {
    let environment = ort::init_from(opened)
        .map_err(|error| RuntimeError::NotALibrary {
            path: path.to_owned(),
            reason: error.to_string(),
        })?
        .with_name("gptoss")
        .with_telemetry(false)
        .with_logger(std::sync::Arc::new(forward_to_tracing))
        .build()?;
    environment.set_log_level(log_level());
    Ok(environment)
}

/// Messages below this level are not even formatted by the library.
fn log_level() -> LogLevel {
    if tracing::enabled!(target: "onnxruntime", tracing::Level::TRACE) {
        LogLevel::Verbose
    } else if tracing::enabled!(target: "onnxruntime", tracing::Level::DEBUG) {
        LogLevel::Info
    } else {
        LogLevel::Warning
    }
}

/// One level lower than the library thinks: what it calls a warning is about
/// its own graph optimiser and says nothing to an administrator.
fn forward_to_tracing(level: LogLevel, _category: &str, _id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(target: "onnxruntime", place, "{message}"),
        LogLevel::Error => tracing::warn!(target: "onnxruntime", place, "{message}"),
        LogLevel::Warning => tracing::info!(target: "onnxruntime", place, "{message}"),
        LogLevel::Info => tracing::debug!(target: "onnxruntime", place, "{message}"),
        LogLevel::Verbose => tracing::trace!(target: "onnxruntime", place, "{message}"),
    }
}

/// Asks the library at `path`, which the loader is given as `opened`, for its version.
fn version_of(path: &Path, opened: &Path) -> Result<String, RuntimeError> {
    let not_a_library = |reason: String| RuntimeError::NotALibrary {
        path: path.to_owned(),
        reason,
    };
    // SAFETY: opening runs the initialisers of a file that the administrator
    // or the package named as ONNX Runtime, or whose bytes were proven to be it;
    // that trust is the premise.
    let library = unsafe { libloading::Library::new(opened) }
        .map_err(|error| not_a_library(error.to_string()))?;
    // SAFETY: every version of ONNX Runtime exports this function with this
    // signature; it takes nothing and returns a pointer to static data.
    let base = unsafe {
        library
            .get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0")
            .map_err(|_| not_a_library("it does not export OrtGetApiBase".into()))?()
    };
    if base.is_null() {
        return Err(not_a_library("OrtGetApiBase returned nothing".into()));
    }
    // SAFETY: not null, and static in the library, which is still open; its
    // first two members have been the same in every version.
    let version: *const c_char = unsafe { ((*base).GetVersionString)() };
    if version.is_null() {
        return Err(not_a_library("it does not tell its version".into()));
    }
    // SAFETY: a string constant of the library, which is still open.
    Ok(unsafe { CStr::from_ptr(version) }
        .to_string_lossy()
        .into_owned())
}

/// Whether `version` ("1.31.1") is at least [`NEEDED_VERSION`].
fn new_enough(version: &str) -> bool {
    let number = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    number(version).is_some_and(|version| Some(version) >= number(NEEDED_VERSION))
}

/// Names of the providers compiled into what is loaded.
pub(super) fn compiled_providers() -> Vec<String> {
    let mut names = std::ptr::null_mut();
    let mut count = 0;
    let api = ort::api();
    // SAFETY: both pointers are valid for writing; on success the library
    // hands over `count` strings, released below with the same count.
    let status = unsafe {
        ort::Error::result_from_status((api.GetAvailableProviders)(&mut names, &mut count))
    };
    if status.is_err() || names.is_null() {
        return Vec::new();
    }
    let providers = (0..usize::try_from(count).unwrap_or(0))
        .map(|i| {
            // SAFETY: `i` is below the count, and each entry is a C string.
            unsafe { CStr::from_ptr(*names.add(i)) }
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    // SAFETY: the list came from GetAvailableProviders and is not used again.
    let released =
        unsafe { ort::Error::result_from_status((api.ReleaseAvailableProviders)(names, count)) };
    if let Err(error) = released {
        tracing::debug!(%error, "the list of providers was not released");
    }
    providers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(new_enough("1.31.1"));
        assert!(new_enough("1.31.0-dev"));
        assert!(new_enough("1.100.0"));
        assert!(!new_enough("1.9.9"));
        assert!(!new_enough("1.23.2"));
        assert!(!new_enough("ONNX"));
        assert!(!new_enough(""));
    }

    fn put(folder: &Path) -> Library {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(FILE_NAME), b"x").unwrap();
        Library::Installed(folder.join(FILE_NAME))
    }

    #[test]
    fn a_named_place_is_never_skipped() {
        let package = tempfile::tempdir().unwrap();
        put(package.path());
        let folders = [package.path().to_owned()];
        let missing = package.path().join("elsewhere.so");
        let error = find_among(Some(&missing), &folders, [package.path()]).unwrap_err();
        assert!(matches!(&error, RuntimeError::LibraryNotFound { tried } if *tried == [missing]));
        let message = error.to_string();
        assert!(message.contains("make runtime") && message.contains("ORT_DYLIB_PATH"));
    }

    #[test]
    fn an_installation_comes_before_what_a_bundle_brought() {
        let root = tempfile::tempdir().unwrap();
        let folders = ["package", "prefix"].map(|name| root.path().join(name));
        let stores = ["own", "machine"].map(|name| root.path().join(name));
        let find = || find_among(None, &folders, stores.iter().map(PathBuf::as_path)).unwrap();
        for store in stores.iter().rev() {
            put(&carried::folder(store));
            let brought = store.join("runtime").join(FILE_NAME);
            assert_eq!(find(), Library::Carried(brought));
        }
        for folder in folders.iter().rev() {
            let there = put(folder);
            assert_eq!(find(), there);
        }
    }

    #[test]
    fn both_programs_find_the_folder_of_their_installation() {
        for program in [
            "/opt/gptoss/bin/gptoss-ctl",
            "/opt/gptoss/lib/gptoss/gptossd",
        ] {
            let folder = beside_program(Path::new(program)).unwrap();
            assert_eq!(folder, Path::new("/opt/gptoss/lib/gptoss"), "{program}");
        }
    }

    #[test]
    fn the_build_for_cuda_comes_first() {
        let root = tempfile::tempdir().unwrap();
        let folders = [root.path().to_owned()];
        for folder in [root.path(), &root.path().join(CUDA_FOLDER)] {
            let there = put(folder);
            let found = find_among(None, &folders, [Path::new("/nowhere")]);
            assert_eq!(found.unwrap(), there);
        }
    }

    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    #[test]
    fn a_stores_build_for_cuda_comes_before_an_installation() {
        let root = tempfile::tempdir().unwrap();
        let (package, stores) = (root.path().join("package"), ["own", "machine"]);
        let stores = stores.map(|name| root.path().join(name));
        put(&package.join(CUDA_FOLDER));
        let folders = [package];
        for store in stores.iter().rev() {
            let build = Build::here(Kind::Cuda).unwrap();
            put(&build.folder(store));
            let found = find_among(None, &folders, stores.iter().map(PathBuf::as_path)).unwrap();
            let there = Library::Cuda {
                path: build.folder(store).join(FILE_NAME),
                build: Box::new(build.clone()),
            };
            assert_eq!(found, there);
        }
        let named = folders[0].join(CUDA_FOLDER).join(FILE_NAME);
        let found = find_among(Some(&named), &folders, stores.iter().map(PathBuf::as_path));
        assert_eq!(found.unwrap(), Library::Installed(named));
    }

    #[test]
    fn another_file_is_another_library() {
        let root = tempfile::tempdir().unwrap();
        let library = put(root.path());
        let first = identity(&library);
        assert_eq!(identity(&library), first);
        let provider = root.path().join(PROVIDERS[1]);
        std::fs::write(&provider, b"cuda").unwrap();
        let second = identity(&library);
        assert_ne!(second, first);
        let file = std::fs::File::open(library.path()).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(identity(&library), second);
        let nowhere = Library::Installed(LOADER_NAME.into());
        assert_eq!(identity(&nowhere), LOADER_NAME);
    }

    #[test]
    fn telemetry_is_off_before_anything_runs() {
        assert_eq!(std::env::var(TELEMETRY_SWITCH).as_deref(), Ok("1"));
    }
}
