//! The parts of the OCI image format that a bundle uses.
//!
//! Our own structs, since these bytes are what is signed: the same model must give
//! the same manifest, and the maps of the crate `oci-spec` have no order.
//!
//! Source: OCI image specification 1.1, `descriptor.md`, `manifest.md`,
//! `image-index.md`, `image-layout.md`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::BundleError;
use crate::model::{FileEntry, parse_unambiguous, sha256_bytes};

/// Version of the layout, `oci-layout`'s only field.
pub(super) const LAYOUT_VERSION: &str = "1.0.0";

/// An image manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An image index.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The empty config of an artifact that has none: `{}`.
pub(super) const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A model's config: [`ModelConfig`].
pub(super) const MODEL_CONFIG: &str = "application/vnd.gptoss.model.config.v1+json";
/// One file of a model's checkpoint, as it is.
pub(super) const MODEL_FILE: &str = "application/vnd.gptoss.model.file.v1";
/// A runtime's config: [`RuntimeConfig`].
pub(super) const RUNTIME_CONFIG: &str = "application/vnd.gptoss.runtime.config.v1+json";
/// One file of a runtime, as it is.
pub(super) const RUNTIME_FILE: &str = "application/vnd.gptoss.runtime.file.v1";
/// What a signature's manifest is.
pub(super) const SIGNATURE: &str = "application/vnd.gptoss.signature.v1";
/// A signature in minisign's format.
pub(super) const MINISIGN: &str = "application/vnd.gptoss.signature.minisign.v1";

/// A layer's file name.
pub(super) const TITLE: &str = "org.opencontainers.image.title";
/// A manifest's name in an index.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Largest JSON document of a bundle that is read: a bound against nonsense.
pub(super) const DOCUMENT_MAX: u64 = 1 << 20;
/// Most entries of a list in one: 120b has 24 files.
pub(super) const ENTRIES_MAX: usize = 4096;

/// `sha256:` and 64 digits, the only kind of digest that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// Of 64 lower-case hexadecimal digits.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let sound = hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        sound.then(|| Self(hex.to_owned()))
    }

    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256_bytes(bytes))
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| {
                format!(
                    "\"{}\" is not sha256: and 64 digits",
                    text.escape_default().take(100).collect::<String>()
                )
            })
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// What a blob is, its size and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of a document.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    pub(super) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }
}

/// An image manifest: a config and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManifest {
    pub(super) schema_version: u32,
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    /// The manifest that this one says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Descriptor>,
}

impl ImageManifest {
    pub(super) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: None,
            config,
            layers,
            subject: None,
        }
    }
}

/// An image index, `index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageIndex {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) manifests: Vec<Descriptor>,
}

/// `oci-layout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layout {
    pub(super) image_layout_version: String,
}

/// Schema of [`ModelConfig`] that this program writes and reads.
pub(super) const CONFIG_SCHEMA: u32 = 1;

/// What a bundle says about its model, besides the files.
///
/// Nothing in it changes from one machine or day to another: the same model gives
/// the same bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ModelConfig {
    /// [`CONFIG_SCHEMA`].
    pub(super) schema: u32,
    /// The model's name in the store it comes from.
    pub(super) name: String,
    /// Its revision there.
    pub(super) revision: String,
    /// Where its bytes came from.
    pub(super) source: String,
    /// SPDX expression of its licence, where known.
    #[serde(default)]
    pub(super) license: Option<String>,
}

/// Schema of [`RuntimeConfig`] that this program writes and reads.
pub(super) const RUNTIME_SCHEMA: u32 = 1;

/// What a bundle says about a runtime, besides the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RuntimeConfig {
    /// [`RUNTIME_SCHEMA`].
    pub(super) schema: u32,
    /// What it runs on: `linux-x86_64`.
    pub(super) platform: String,
}

/// A layer for a file; none for one without a usable digest.
pub(super) fn file_layer(media_type: &str, entry: &FileEntry) -> Option<Descriptor> {
    let layer = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::from_hex(&entry.sha256)?,
        size: entry.size,
        artifact_type: None,
        annotations: BTreeMap::new(),
    };
    Some(layer.annotated(TITLE, &entry.path))
}

/// A document's bytes. The structs above always have a JSON text.
pub(super) fn to_bytes(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// Parses a document that somebody else wrote, which has each key once.
pub(super) fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, BundleError> {
    parse_unambiguous(bytes).map_err(|e| BundleError::malformed(format!("{what}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_of_one_kind() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = Digest::try_from(format!("sha256:{hex}")).unwrap();
        assert_eq!(digest.hex(), hex);
        assert_eq!(String::from(digest), format!("sha256:{hex}"));
        let upper = hex.to_uppercase();
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha512:{hex}"),
            format!("sha256:{upper}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:../../{}", &hex[6..]),
        ] {
            assert!(Digest::try_from(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_document_says_everything_once() {
        let title = |more: &str| {
            let text = format!(
                r#"{{"mediaType":"x","digest":"sha256:{}","size":1,"annotations":{{"{TITLE}":"a"{more}}}}}"#,
                "0".repeat(64)
            );
            parse::<Descriptor>("it", text.as_bytes())
        };
        title("").unwrap();
        let error = title(&format!(",\"{TITLE}\":\"b\"")).unwrap_err();
        assert!(error.to_string().contains("is there twice"), "{error}");
    }

    #[test]
    fn a_manifest_has_the_same_bytes_every_time() {
        let entry = FileEntry {
            path: "config.json".into(),
            size: 2,
            sha256: sha256_bytes(b"{}"),
        };
        let manifest = ImageManifest::new(
            Descriptor::of(MODEL_CONFIG, b"{}"),
            vec![file_layer(MODEL_FILE, &entry).unwrap()],
        );
        let bytes = to_bytes(&manifest);
        let hex = sha256_bytes(b"{}");
        let expected = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\
             \"config\":{{\"mediaType\":\"{MODEL_CONFIG}\",\"digest\":\"sha256:{hex}\",\"size\":2}},\
             \"layers\":[{{\"mediaType\":\"{MODEL_FILE}\",\"digest\":\"sha256:{hex}\",\"size\":2,\
             \"annotations\":{{\"{TITLE}\":\"config.json\"}}}}]}}"
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(
            parse::<ImageManifest>("manifest", &bytes).unwrap(),
            manifest
        );
    }
}
