//! Reading a bundle: what it holds, its bytes, its proof.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::media::{Blob, INDEX_FILE, LAYOUT_FILE, Media};
use super::oci::{
    self, DOCUMENT_MAX, Descriptor, Digest, ENTRIES_MAX, ImageIndex, ImageManifest, Layout,
    ModelConfig, RuntimeConfig, TITLE,
};
use super::signature::signer_of;
use super::{BundleError, SignedBy, TrustedKeys};
use crate::model::incoming::{
    BringError, Checksum, CopyError, Original, Progress, Wanted, bring, copy_hashed,
};
use crate::model::{FileEntry, StoreError, check_file_name, check_model_name, check_revision};

/// Most manifests of an index that are looked at.
const MANIFESTS_MAX: usize = 256;

/// An open bundle whose documents were read and proven; of the files, only that
/// they are there in their sizes.
pub struct Bundle {
    path: PathBuf,
    media: Media,
    models: Vec<BundledModel>,
    runtimes: Vec<BundledRuntime>,
}

/// An ONNX Runtime in a bundle. Nothing about it is proven but that its files are
/// those its manifest lists: it is for the reader to know their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledRuntime {
    /// What it runs on, by the word of the bundle's maker.
    pub platform: String,
    /// The library and its licences.
    pub files: Vec<FileEntry>,
}

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
    signatures: Vec<String>,
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

impl Bundle {
    /// Whether `path` looks like a bundle and not like a checkpoint's folder.
    pub fn is_at(path: &Path) -> bool {
        Media::is_at(path)
    }

    /// Opens a bundle: a folder, a tar file, or one in pieces (`PATH` or `PATH.000`).
    ///
    /// # Errors
    /// [`BundleError::NotFound`], [`BundleError::Malformed`],
    /// [`BundleError::WrongBytes`], [`BundleError::Piece`].
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let media = Media::open(path)?;
        let (models, runtimes) = read_contents(&media)?;
        Ok(Self {
            path: path.to_owned(),
            media,
            models,
            runtimes,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The models it holds.
    pub fn models(&self) -> &[BundledModel] {
        &self.models
    }

    /// The runtimes it holds.
    pub fn runtimes(&self) -> &[BundledRuntime] {
        &self.runtimes
    }

    /// The model of that name, or the only one.
    ///
    /// # Errors
    /// [`BundleError::Choose`].
    pub fn model(&self, name: Option<&str>) -> Result<&BundledModel, BundleError> {
        let mut fitting = self
            .models
            .iter()
            .filter(|m| name.is_none_or(|name| m.name == name));
        match (fitting.next(), fitting.next()) {
            (Some(model), None) => Ok(model),
            _ if self.models.is_empty() => Err(BundleError::malformed("it holds no model")),
            _ => Err(BundleError::Choose {
                found: self.models.iter().map(|m| m.name.clone()).collect(),
            }),
        }
    }

    fn blob(&self, file: &FileEntry) -> Result<Blob<'_>, BundleError> {
        let digest = Digest::from_hex(&file.sha256);
        let blob = digest.map(|d| self.media.blob(&d)).transpose()?.flatten();
        blob.ok_or_else(|| BundleError::malformed(format!("{} is not in it", file.path)))
    }

    /// Brings files into a folder, one after the other in the order in which they
    /// lie, and proves them. What an earlier attempt left there is proven and gone
    /// on with.
    ///
    /// # Errors
    /// [`BundleError::WrongBytes`]; what the file system says.
    pub fn bring(
        &self,
        files: &[FileEntry],
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<(), BundleError> {
        for file in self.in_order(files)? {
            self.bring_one(file, dir, progress)?;
            progress.proven(&file.path);
        }
        Ok(())
    }

    fn in_order<'a>(&self, files: &'a [FileEntry]) -> Result<Vec<&'a FileEntry>, BundleError> {
        let mut placed = Vec::new();
        for file in files {
            placed.push((self.blob(file)?.place(), file));
        }
        placed.sort_by_key(|(place, _)| *place);
        Ok(placed.into_iter().map(|(_, file)| file).collect())
    }

    fn bring_one(
        &self,
        file: &FileEntry,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<(), BundleError> {
        let open = |from| Ok(Original::Bytes(self.blob(file)?.read_from(from)?));
        let brought = bring(dir, &Wanted::from(file), &open, progress);
        brought.map(|_| ()).map_err(|error| match error {
            BringError::Open(e) => e,
            BringError::Read(e) => self.unread(e),
            BringError::Wrong(why) => BundleError::WrongBytes {
                what: file.path.clone(),
                why,
            },
            BringError::Store(e) => e.into(),
        })
    }

    fn unread(&self, error: std::io::Error) -> BundleError {
        StoreError::io("read", &self.path)(error).into()
    }

    /// Proves files where they lie.
    ///
    /// # Errors
    /// [`BundleError::WrongBytes`] for the first that is damaged.
    pub fn prove(&self, files: &[FileEntry], progress: &dyn Progress) -> Result<(), BundleError> {
        for file in self.in_order(files)? {
            let wanted = Wanted::from(file);
            let mut checksum = Checksum::new(&wanted);
            let (mut source, mut done) = (self.blob(file)?.read_from(0)?, 0);
            let copied = copy_hashed::<std::convert::Infallible>(
                &mut source,
                &mut |block| checksum.update(block),
                &mut |block| {
                    done += block.len() as u64;
                    progress.position(&file.path, done);
                    Ok(())
                },
            );
            if let Err(CopyError::Read(e)) = copied {
                return Err(self.unread(e));
            }
            checksum
                .finish(&wanted)
                .map_err(|why| BundleError::WrongBytes {
                    what: file.path.clone(),
                    why,
                })?;
            progress.proven(&file.path);
        }
        Ok(())
    }
}

/// Every model of a layout with the signatures that belong to it, and every runtime.
fn read_contents(media: &Media) -> Result<(Vec<BundledModel>, Vec<BundledRuntime>), BundleError> {
    let required = |name: &str| {
        let absent = || BundleError::malformed(format!("it has no {name}"));
        media.document(name, DOCUMENT_MAX)?.ok_or_else(absent)
    };
    let layout: Layout = oci::parse(LAYOUT_FILE, &required(LAYOUT_FILE)?)?;
    if layout.image_layout_version != oci::LAYOUT_VERSION {
        return Err(BundleError::malformed(format!(
            "its OCI layout has version {}",
            layout.image_layout_version.escape_default()
        )));
    }
    let index: ImageIndex = oci::parse(INDEX_FILE, &required(INDEX_FILE)?)?;
    if index.manifests.len() > MANIFESTS_MAX {
        return Err(BundleError::malformed(format!(
            "its index lists more than {MANIFESTS_MAX} manifests"
        )));
    }
    let (mut models, mut signatures) = (Vec::<BundledModel>::new(), Vec::new());
    let mut runtimes = Vec::new();
    for listed in &index.manifests {
        if listed.media_type != oci::MANIFEST {
            continue;
        }
        let bytes = proven_document(media, listed, "a manifest")?;
        let manifest: ImageManifest = oci::parse("a manifest", &bytes)?;
        if manifest.config.media_type == oci::MODEL_CONFIG {
            let model = read_model(media, listed, &manifest, bytes)?;
            if !models.iter().any(|m| m.manifest == model.manifest) {
                models.push(model);
            }
        } else if manifest.config.media_type == oci::RUNTIME_CONFIG {
            let runtime = read_runtime(media, &manifest)?;
            if !runtimes.contains(&runtime) {
                runtimes.push(runtime);
            }
        } else if manifest.artifact_type.as_deref() == Some(oci::SIGNATURE) {
            signatures.extend(read_signature(media, &manifest)?);
        }
    }
    for (subject, text) in signatures {
        if let Some(model) = models.iter_mut().find(|m| m.manifest == subject) {
            model.signatures.push(text);
        }
    }
    Ok((models, runtimes))
}

/// A document by its descriptor.
fn proven_document(media: &Media, listed: &Descriptor, what: &str) -> Result<Vec<u8>, BundleError> {
    let absent = || BundleError::malformed(format!("{what} ({}) is not in it", listed.digest));
    let blob = media.blob(&listed.digest)?.ok_or_else(absent)?;
    check_size(what, listed, &blob)?;
    let bytes = blob.document(what, DOCUMENT_MAX)?;
    let found = Digest::of(&bytes);
    if found != listed.digest {
        return Err(BundleError::WrongBytes {
            what: what.to_owned(),
            why: format!("its digest is {found} and must be {}", listed.digest),
        });
    }
    Ok(bytes)
}

fn check_size(what: &str, listed: &Descriptor, blob: &Blob<'_>) -> Result<(), BundleError> {
    if blob.size() == listed.size {
        return Ok(());
    }
    Err(BundleError::WrongBytes {
        what: what.to_owned(),
        why: format!(
            "{} bytes are there and {} are listed",
            blob.size(),
            listed.size
        ),
    })
}

fn read_model(
    media: &Media,
    listed: &Descriptor,
    manifest: &ImageManifest,
    manifest_bytes: Vec<u8>,
) -> Result<BundledModel, BundleError> {
    let config = proven_document(media, &manifest.config, "the model's config")?;
    let config: ModelConfig = oci::parse("the model's config", &config)?;
    check_schema("the model's config", config.schema, oci::CONFIG_SCHEMA)?;
    let bad_name = |e: StoreError| BundleError::malformed(e.to_string());
    check_model_name(&config.name).map_err(bad_name)?;
    check_revision(&config.revision).map_err(bad_name)?;
    let files = read_files(media, manifest, oci::MODEL_FILE)?;
    if !files.iter().any(|f| f.path == "config.json") {
        return Err(BundleError::malformed("the model has no config.json"));
    }
    Ok(BundledModel {
        files,
        name: config.name,
        revision: config.revision,
        source: plain_text(&config.source),
        license: config.license.as_deref().map(plain_text),
        manifest: listed.digest.clone(),
        manifest_bytes,
        signatures: Vec::new(),
    })
}

fn read_runtime(media: &Media, manifest: &ImageManifest) -> Result<BundledRuntime, BundleError> {
    let config = proven_document(media, &manifest.config, "the runtime's config")?;
    let config: RuntimeConfig = oci::parse("the runtime's config", &config)?;
    check_schema("the runtime's config", config.schema, oci::RUNTIME_SCHEMA)?;
    Ok(BundledRuntime {
        platform: plain_text(&config.platform),
        files: read_files(media, manifest, oci::RUNTIME_FILE)?,
    })
}

fn check_schema(what: &str, found: u32, read: u32) -> Result<(), BundleError> {
    if found == read {
        return Ok(());
    }
    Err(BundleError::malformed(format!(
        "{what} has schema {found} and this version of gptoss reads schema {read}; upgrade gptoss"
    )))
}

/// The layers as files: each named once by a plain name, each there in its size.
fn read_files(
    media: &Media,
    manifest: &ImageManifest,
    media_type: &str,
) -> Result<Vec<FileEntry>, BundleError> {
    if manifest.layers.len() > ENTRIES_MAX {
        return Err(BundleError::malformed(format!(
            "a manifest has more than {ENTRIES_MAX} files"
        )));
    }
    let (mut files, mut seen, mut total) = (Vec::new(), HashSet::new(), 0u64);
    for layer in &manifest.layers {
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
        let absent = || BundleError::malformed(format!("{name} is not in it"));
        let blob = media.blob(&layer.digest)?.ok_or_else(absent)?;
        check_size(name, layer, &blob)?;
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

/// The manifest a signature is over, and its text.
fn read_signature(
    media: &Media,
    manifest: &ImageManifest,
) -> Result<Option<(Digest, String)>, BundleError> {
    let layer = manifest
        .layers
        .iter()
        .find(|l| l.media_type == oci::MINISIGN);
    let (Some(subject), Some(layer)) = (&manifest.subject, layer) else {
        return Ok(None);
    };
    let text = proven_document(media, layer, "a signature")?;
    let text = String::from_utf8(text)
        .map_err(|_| BundleError::Signature("the bundle's signature is no text".into()))?;
    Ok(Some((subject.digest.clone(), text)))
}

/// A stranger's words, fit for a terminal.
fn plain_text(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(300).collect()
}
