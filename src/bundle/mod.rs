//! Bundles: models on a medium, for machines without a network. Command line only.
//!
//! A bundle is an OCI image layout (specification 1.1), so that what a site has for
//! container images carries it, too: `skopeo copy`, a registry, a tar file.
//!
//! ```text
//! 20b.tar, or a folder
//! ├── oci-layout                       {"imageLayoutVersion":"1.0.0"}
//! ├── index.json                       names the manifests:
//! │                                      20b                      the model
//! │                                      sha256-….minisig         its signature, if any
//! │                                      onnxruntime-linux-x86_64 a runtime, if any
//! └── blobs/sha256/
//!     ├── 3f2a…                        the model's manifest: config, and a layer a file,
//!     │                                each with its name, size and SHA-256
//!     ├── 91bc…                        its config: name, revision, source, licence
//!     ├── 77d0…                        the signature's manifest; its subject is the model's
//!     ├── 44ab…                        the signature, minisign's text over the model's manifest
//!     ├── 08fe…                        the runtime's manifest: config, and a layer a file
//!     ├── c5d1…                        its config: the platform
//!     ├── fc44…                        libonnxruntime.so.1.31.1, as published
//!     ├── 3a2a…                        config.json, as published
//!     └── …                            every other file, as published
//! ```
//!
//! Blobs are not compressed and a file is one blob: what is installed from a bundle
//! are the published bytes, read in place. Exports are not in it, since an export
//! gives the same bytes on every machine. A runtime is code: what may be done with
//! it is not for the bundle to say, and whoever takes one in compares its digests
//! with those it knows.
//!
//! - [`create`] writes one from an installed model and proves the model as it goes.
//! - [`Bundle`] reads one from anybody: sizes, names and counts are bounded, and a
//!   path is never made from what it says.
//! - [`Signer`], [`TrustedKeys`]: minisign's signatures over a model's manifest.

mod archive;
mod error;
mod manifest;
mod media;
mod oci;
mod pieces;
mod read;
mod signature;
mod write;

pub use error::BundleError;
pub use manifest::{BundledModel, ModelManifest};
pub use oci::Digest;
pub use read::{Bundle, BundledRuntime};
pub use signature::{SignedBy, Signer, TrustedKeys};
pub use write::{Contents, Form, RuntimeFiles, Written, create};
