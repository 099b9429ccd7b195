//! A model's manifest and its signature's, wherever they lie: in a layout, in a
//! registry.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::oci::{self, Descriptor, Digest, ENTRIES_MAX, ImageManifest, ModelConfig, TITLE};
use super::signature::signer_of;
use super::{BundleError, SignedBy, TrustedKeys};
use crate::model::{FileEntry, StoreError, check_file_name, check_model_name, check_revision};

/// A model in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledModel {
    /// Its name where the bundle was made.
    pub name: String,
    /// Its revision there. Nothing proves it but a signature.
    pub revision: String,
    /// Where its bytes came from, by the word of the bundle's maker.
    pub source: String,
    /// SPDX expression of its licence, likewise.
    pub license: Option<String>,
    /// The checkpoint's files.
    pub files: Vec<FileEntry>,
    /// Digest of its manifest.
    pub manifest: Digest,
    manifest_bytes: Vec<u8>,
    /// Texts of the signatures over the manifest.
    pub(super) signatures: Vec<String>,
}

impl BundledModel {
    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// The trusted key that signed the model. None when no signature is by one.
    ///
    /// # Errors
    /// [`BundleError::Signature`] for a signature that is not right.
    pub fn signed_by(&self, keys: &TrustedKeys) -> Result<Option<SignedBy>, BundleError> {
        let mut found = None;
        for text in &self.signatures {
            let signed = keys.check(&self.manifest_bytes, text)?;
            found = found.or(signed);
        }
        Ok(found)
    }

    /// Numbers of the keys that the signatures name, right or not.
    ///
    /// # Errors
    /// [`BundleError::Signature`] for text that is no signature.
    pub fn signers(&self) -> Result<Vec<String>, BundleError> {
        self.signatures.iter().map(|text| signer_of(text)).collect()
    }
}

/// A model's manifest that was read. What it says of itself is in its config, which
/// is a document of its own.
#[derive(Debug)]
pub struct ModelManifest {
    digest: Digest,
    bytes: Vec<u8>,
    config: Descriptor,
    files: Vec<FileEntry>,
}

impl ModelManifest {
    /// Reads the bytes of a manifest, which prove its digest.
    ///
    /// # Errors
    /// [`BundleError::Malformed`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BundleError> {
        /// What tells an index from a manifest.
        #[derive(Deserialize)]
        struct Kind {
            manifests: Option<IgnoredAny>,
        }
        if oci::parse::<Kind>("the manifest", &bytes)?
            .manifests
            .is_some()
        {
            return Err(BundleError::malformed(
                "it is an index of several images; name the model's own manifest, by its tag \
                 or its digest",
            ));
        }
        let manifest: ImageManifest = oci::parse("the manifest", &bytes)?;
        if manifest.config.media_type != oci::MODEL_CONFIG {
            return Err(BundleError::malformed(format!(
                "it is no model but something of the type \"{}\"",
                plain_text(&manifest.config.media_type)
            )));
        }
        Self::of(Digest::of(&bytes), bytes, manifest)
    }

    /// Of a manifest that was parsed from `bytes`, which have this digest.
    pub(super) fn of(
        digest: Digest,
        bytes: Vec<u8>,
        manifest: ImageManifest,
    ) -> Result<Self, BundleError> {
        let files = files_of(&manifest.layers, oci::MODEL_FILE)?;
        if !files.iter().any(|f| f.path == "config.json") {
            return Err(BundleError::malformed("the model has no config.json"));
        }
        Ok(Self {
            digest,
            bytes,
            files,
            config: manifest.config,
        })
    }

    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn config(&self) -> &Descriptor {
        &self.config
    }

    /// Digest and size of the config, in bytes.
    pub fn config_blob(&self) -> (&Digest, u64) {
        (&self.config.digest, self.config.size)
    }

    /// The tag under which a registry keeps its signature.
    pub fn signature_tag(&self) -> String {
        signature_tag(&self.digest)
    }

    /// Digest and size of a signature's text, by the signature's own manifest; none
    /// for what is no signature over this manifest.
    ///
    /// # Errors
    /// [`BundleError::Malformed`].
    pub fn signature_blob(&self, bytes: &[u8]) -> Result<Option<(Digest, u64)>, BundleError> {
        let manifest: ImageManifest = oci::parse("the signature's manifest", bytes)?;
        let found = signature_layer(&manifest).filter(|(subject, _)| *subject == self.digest);
        Ok(found.map(|(_, layer)| (layer.digest, layer.size)))
    }

    /// The model, with its config and the texts of its signatures, all proven to be
    /// what the manifests name.
    ///
    /// # Errors
    /// [`BundleError::Malformed`].
    pub fn into_model(
        self,
        config: &[u8],
        signatures: Vec<String>,
    ) -> Result<BundledModel, BundleError> {
        let config: ModelConfig = oci::parse("the model's config", config)?;
        check_schema("the model's config", config.schema, oci::CONFIG_SCHEMA)?;
        let bad_name = |e: StoreError| BundleError::malformed(e.to_string());
        check_model_name(&config.name).map_err(bad_name)?;
        check_revision(&config.revision).map_err(bad_name)?;
        Ok(BundledModel {
            files: self.files,
            name: config.name,
            revision: config.revision,
            source: plain_text(&config.source),
            license: config.license.as_deref().map(plain_text),
            manifest: self.digest,
            manifest_bytes: self.bytes,
            signatures,
        })
    }
}

pub(super) fn check_schema(what: &str, found: u32, read: u32) -> Result<(), BundleError> {
    if found == read {
        return Ok(());
    }
    Err(BundleError::malformed(format!(
        "{what} has schema {found} and this version of gptoss reads schema {read}; upgrade gptoss"
    )))
}

/// The layers as files of this type: each named once by a plain name.
pub(super) fn files_of(
    layers: &[Descriptor],
    media_type: &str,
) -> Result<Vec<FileEntry>, BundleError> {
    if layers.len() > ENTRIES_MAX {
        return Err(BundleError::malformed(format!(
            "a manifest has more than {ENTRIES_MAX} files"
        )));
    }
    let (mut files, mut seen, mut total) = (Vec::new(), HashSet::new(), 0u64);
    for layer in layers {
        if layer.media_type != media_type {
            return Err(BundleError::malformed(format!(
                "a layer has the unknown type \"{}\"",
                plain_text(&layer.media_type)
            )));
        }
        let name = layer.annotations.get(TITLE).map(String::as_str);
        let name = name.unwrap_or_default();
        check_file_name(name).map_err(|e| BundleError::malformed(e.to_string()))?;
        if !seen.insert(name) {
            return Err(BundleError::malformed(format!("it lists {name} twice")));
        }
        total = total
            .checked_add(layer.size)
            .ok_or_else(|| BundleError::malformed("the sizes are absurd"))?;
        files.push(FileEntry {
            path: name.to_owned(),
            size: layer.size,
            sha256: layer.digest.hex().to_owned(),
        });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The name by which a signature is found in an index or a registry.
pub(super) fn signature_tag(manifest: &Digest) -> String {
    format!("sha256-{}.minisig", manifest.hex())
}

/// The manifest a signature is over, and the layer that is its text.
pub(super) fn signature_layer(manifest: &ImageManifest) -> Option<(Digest, Descriptor)> {
    if manifest.artifact_type.as_deref() != Some(oci::SIGNATURE) {
        return None;
    }
    let subject = manifest.subject.as_ref()?;
    let is_text = |layer: &&Descriptor| layer.media_type == oci::MINISIGN;
    let layer = manifest.layers.iter().find(is_text)?;
    Some((subject.digest.clone(), layer.clone()))
}

/// A stranger's words, fit for a terminal.
pub(super) fn plain_text(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::oci::to_bytes;
    use proptest::prelude::*;

    fn config() -> Vec<u8> {
        let text = r#"{"schema":1,"name":"m","revision":"r","source":"s","license":null}"#;
        text.as_bytes().to_vec()
    }

    fn manifest() -> ImageManifest {
        let entry = FileEntry {
            path: "config.json".into(),
            size: 2,
            sha256: crate::model::sha256_bytes(b"{}"),
        };
        let layer = oci::file_layer(oci::MODEL_FILE, &entry).unwrap();
        ImageManifest::new(Descriptor::of(oci::MODEL_CONFIG, &config()), vec![layer])
    }

    #[test]
    fn a_model_from_its_documents() {
        let bytes = to_bytes(&manifest());
        let read = ModelManifest::parse(bytes.clone()).unwrap();
        assert_eq!(read.digest(), &Digest::of(&bytes));
        assert_eq!(read.config_blob().1, config().len() as u64);
        let model = read.into_model(&config(), Vec::new()).unwrap();
        assert_eq!((model.name.as_str(), model.files.len()), ("m", 1));
    }

    #[test]
    fn what_is_no_model_says_so() {
        let mut image = manifest();
        image.config.media_type = "application/vnd.oci.image.config.v1+json".into();
        for (bytes, why) in [
            (to_bytes(&image), "no model"),
            (
                br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(),
                "an index",
            ),
            (b"<html>".to_vec(), "the manifest"),
            (Vec::new(), "the manifest"),
        ] {
            let error = ModelManifest::parse(bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_signature_counts_for_the_manifest_it_names() {
        let bytes = to_bytes(&manifest());
        let model = ModelManifest::parse(bytes.clone()).unwrap();
        let text = Descriptor::of(oci::MINISIGN, b"text");
        let mut signature = ImageManifest::new(Descriptor::of(oci::EMPTY, b"{}"), vec![text]);
        signature.artifact_type = Some(oci::SIGNATURE.into());
        signature.subject = Some(Descriptor::of(oci::MANIFEST, &bytes));
        let found = model.signature_blob(&to_bytes(&signature)).unwrap();
        assert_eq!(found, Some((Digest::of(b"text"), 4)));
        signature.subject = Some(Descriptor::of(oci::MANIFEST, b"another"));
        let found = model.signature_blob(&to_bytes(&signature)).unwrap();
        assert_eq!(found, None);
        assert!(model.signature_blob(b"<html>").is_err());
    }

    proptest! {
        /// A stranger's documents are refused or bounded, never more.
        #[test]
        fn any_manifest_is_judged(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = to_bytes(&manifest());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(read) = ModelManifest::parse(bytes) {
                for file in &read.files {
                    prop_assert!(check_file_name(&file.path).is_ok());
                }
            }
        }
    }
}
