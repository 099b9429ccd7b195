//! What Linux and macOS do differently. Each system's file has the same names, and
//! nothing else in the library asks which system it is on, but for one attribute of the
//! linker (`src/runtime/library.rs`).
//!
//! `make test-macos` compiles the file for macOS, as far as types and borrows go. It has
//! not been run.

#[cfg(any(target_os = "macos", test))]
mod beneath;
mod folders;
#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

pub use folders::{
    MACHINE_SETTINGS, MACHINE_STORE, default_socket, user_cache_folder, user_data_folder,
    user_settings_folder,
};
#[cfg(not(target_os = "macos"))]
pub use linux::*;
#[cfg(target_os = "macos")]
pub use macos::*;

/// What this process keeps in physical memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resident {
    /// Memory of its own: caches, activations, repacked weights.
    pub anonymous: u64,
    /// Pages of mapped files, shared with the page cache: the experts.
    pub file: u64,
}
