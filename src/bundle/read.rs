//! Reading a bundle: what it holds, its bytes, its proof.

use std::path::{Path, PathBuf};

use super::BundleError;
use super::manifest::{
    BundledModel, ModelManifest, check_schema, files_of, plain_text, signature_layer,
};
use super::media::{Blob, INDEX_FILE, LAYOUT_FILE, Media};
use super::oci::{
    self, DOCUMENT_MAX, Descriptor, Digest, ImageIndex, ImageManifest, Layout, RuntimeConfig,
};
use crate::model::incoming::{
    BringError, Checksum, CopyError, Original, Progress, Wanted, bring, copy_hashed,
};
use crate::model::{FileEntry, StoreError};

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
        find_blob(&self.media, file)
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
            let model = read_model(media, listed, manifest, bytes)?;
            if !models.iter().any(|m| m.manifest == model.manifest) {
                models.push(model);
            }
        } else if manifest.config.media_type == oci::RUNTIME_CONFIG {
            let runtime = read_runtime(media, &manifest)?;
            if !runtimes.contains(&runtime) {
                runtimes.push(runtime);
            }
        } else if let Some((subject, layer)) = signature_layer(&manifest) {
            signatures.push((subject, read_signature(media, &layer)?));
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
    check_size(what, listed.size, &blob)?;
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

fn check_size(what: &str, listed: u64, blob: &Blob<'_>) -> Result<(), BundleError> {
    if blob.size() == listed {
        return Ok(());
    }
    Err(BundleError::WrongBytes {
        what: what.to_owned(),
        why: format!("{} bytes are there and {listed} are listed", blob.size()),
    })
}

/// A model of which every file is there in its size.
fn read_model(
    media: &Media,
    listed: &Descriptor,
    manifest: ImageManifest,
    bytes: Vec<u8>,
) -> Result<BundledModel, BundleError> {
    let manifest = ModelManifest::of(listed.digest.clone(), bytes, manifest)?;
    let config = proven_document(media, manifest.config(), "the model's config")?;
    let model = manifest.into_model(&config, Vec::new())?;
    check_sizes(media, &model.files)?;
    Ok(model)
}

/// An ONNX Runtime of which every file is there in its size.
fn read_runtime(media: &Media, manifest: &ImageManifest) -> Result<BundledRuntime, BundleError> {
    let config = proven_document(media, &manifest.config, "the runtime's config")?;
    let config: RuntimeConfig = oci::parse("the runtime's config", &config)?;
    check_schema("the runtime's config", config.schema, oci::RUNTIME_SCHEMA)?;
    let files = files_of(&manifest.layers, oci::RUNTIME_FILE)?;
    check_sizes(media, &files)?;
    Ok(BundledRuntime {
        platform: plain_text(&config.platform),
        files,
    })
}

fn check_sizes(media: &Media, files: &[FileEntry]) -> Result<(), BundleError> {
    for file in files {
        check_size(&file.path, file.size, &find_blob(media, file)?)?;
    }
    Ok(())
}

fn find_blob<'a>(media: &'a Media, file: &FileEntry) -> Result<Blob<'a>, BundleError> {
    let digest = Digest::from_hex(&file.sha256);
    let blob = digest.map(|d| media.blob(&d)).transpose()?.flatten();
    blob.ok_or_else(|| BundleError::malformed(format!("{} is not in it", file.path)))
}

/// A signature's text.
fn read_signature(media: &Media, layer: &Descriptor) -> Result<String, BundleError> {
    let text = proven_document(media, layer, "a signature")?;
    String::from_utf8(text)
        .map_err(|_| BundleError::Signature("the bundle's signature is no text".into()))
}
