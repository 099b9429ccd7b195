//! The model store: catalog, manifest, verification, atomic installation.
//!
//! - [`Catalog`]: which bytes a model's name stands for.
//! - [`Store`]: what is installed, and where ([`Store`] draws the folder tree);
//!   [`Stores`]: one's own and the machine's.
//! - [`Staging`]: a model on its way in; [`Staging::commit`] installs it at once
//!   or not at all.
//! - [`Manifest`]: what an installed model consists of, byte for byte.
//! - [`verify`]: proves an installed model's bytes again.
//!
//! Nothing here opens a socket.

mod access;
mod catalog;
mod digest;
mod durable;
mod error;
mod garbage;
#[cfg(feature = "ctl")]
pub mod incoming;
mod json;
mod manifest;
mod mounts;
mod name;
mod plan;
mod provenance;
#[cfg(feature = "ctl")]
mod repair;
mod staging;
mod store;
mod stores;
mod timestamp;
mod verify;

pub use access::{Advice, Need, Refusal, Remedy, closed_to_others, refusal};
pub use catalog::{Catalog, CatalogModel, Published, PublishedFile, check_repo};
pub use digest::{content_revision, sha256_bytes, sha256_file, sha256_read, to_hex};
pub use durable::{
    DIRECTORY_MODE, FILE_MODE, create_directory, create_file, fsync_directory, fsync_path,
    is_no_space,
};
pub use error::StoreError;
pub use garbage::{Garbage, Reason, size_of};
pub use json::parse_unambiguous;
pub use manifest::{FileEntry, Manifest, SCHEMA};
pub use name::{
    check_file_name, check_model_name, check_revision, sanitize_model_name, split_revision,
};
pub use plan::{CacheDimensions, Dimensions, available_space, human_size, require_space};
pub use provenance::{CatalogFile, Export, QuantizedExperts, Signature, Weights};
pub use staging::{InUse, Staging};
pub use store::{Installed, Store};
pub use stores::Stores;
pub use timestamp::now_rfc3339;
pub use verify::{FileState, Report, VerifiedFile, verify, verify_with};
