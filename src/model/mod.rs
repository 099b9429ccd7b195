//! The model store: catalog, manifest, verification, atomic installation.
