//! Writing a bundle.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::archive::{length, write_end, write_header, write_padding};
use super::manifest::signature_tag;
use super::media::{INDEX_FILE, LAYOUT_FILE, blob_name, open_regular};
use super::oci::{
    self, Descriptor, Digest, ImageIndex, ImageManifest, Layout, ModelConfig, RuntimeConfig,
    file_layer, to_bytes,
};
use super::pieces::{self, PIECES_MAX, PieceWriter};
use super::{BundleError, Signer};
use crate::model::incoming::{Checksum, CopyError, Expected, Progress, Wanted, copy_hashed};
use crate::model::{
    FileEntry, Installed, StoreError, create_file, fsync_directory, now_rfc3339, require_space,
};
use crate::platform;

/// How to write a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An OCI image layout as a folder.
    Folder,
    /// One in a tar file.
    Tar,
    /// One in a tar file, cut into pieces of so many bytes.
    Pieces(u64),
}

/// What goes into a bundle.
pub struct Contents<'a> {
    /// The model, by its checkpoint.
    pub model: &'a Installed,
    /// Runtimes, of several platforms.
    pub runtimes: &'a [RuntimeFiles],
    /// Who signs the model.
    pub signer: Option<&'a Signer>,
}

/// An ONNX Runtime to put into a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFiles {
    /// What it runs on: `linux-x86_64`.
    pub platform: String,
    /// Where each file is, and what it must be.
    pub files: Vec<(PathBuf, FileEntry)>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The digest of the model's manifest: what a signature is over, and what
    /// registries call the image's digest.
    pub manifest: Digest,
    /// Bytes of the bundle.
    pub size: u64,
}

/// A document of the bundle, by its name in the layout.
type Document = (String, Vec<u8>);

/// A file to copy; progress hears of it as `wanted.path`.
struct Original {
    place: PathBuf,
    wanted: Wanted,
}

/// All of a bundle but the bytes of its files.
struct Plan {
    documents: Vec<Document>,
    runtime: Vec<Original>,
    model: Vec<Original>,
    manifest: Digest,
}

/// Writes a bundle of an installed model's checkpoint, and of runtimes, to `path`.
///
/// Each file is hashed as it is copied: a damaged model does not become a bundle.
/// The bundle appears under its name when it is complete and flushed.
///
/// # Errors
/// [`BundleError::Occupied`], [`BundleError::Damaged`],
/// [`BundleError::OtherRuntime`], and what the file system says.
pub fn create(
    contents: &Contents<'_>,
    path: &Path,
    form: Form,
    progress: &dyn Progress,
) -> Result<Written, BundleError> {
    let plan = plan(contents)?;
    let sizes = plan.documents.iter().map(|(_, bytes)| bytes.len() as u64);
    let files = plan.runtime.iter().chain(&plan.model);
    let size = length(sizes.chain(files.map(|f| f.wanted.size)));
    if let Form::Pieces(limit) = form {
        let (pieces, most) = (size.div_ceil(limit.max(1)), PIECES_MAX as u64);
        if pieces > most {
            return Err(BundleError::Pieces { pieces, most });
        }
    }
    let mut output = Output::open(path, form)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    require_space(folder.unwrap_or(Path::new(".")), "the bundle", size)?;
    for (name, bytes) in &plan.documents {
        output.document(name, bytes)?;
    }
    for file in &plan.runtime {
        let copied = output.file(file, progress);
        copied.map_err(|error| match error {
            BundleError::Damaged { why, .. } => BundleError::OtherRuntime {
                path: file.place.clone(),
                why,
            },
            error => error,
        })?;
    }
    for file in &plan.model {
        output.file(file, progress)?;
    }
    output.finish()?;
    Ok(Written {
        manifest: plan.manifest,
        size,
    })
}

/// What the bundle of a model consists of; but for a signature, the same whenever
/// it is made.
fn plan(contents: &Contents<'_>) -> Result<Plan, BundleError> {
    let Contents { model, signer, .. } = contents;
    let manifest = &model.manifest;
    let config = to_bytes(&ModelConfig {
        schema: oci::CONFIG_SCHEMA,
        name: manifest.name.clone(),
        revision: manifest.revision.clone(),
        source: manifest.source.clone(),
        license: manifest.license.clone(),
    });
    // The small files first: they tell a reader whether the rest is of use.
    let mut entries: Vec<_> = manifest.files.iter().collect();
    entries.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
    let layers = layers(oci::MODEL_FILE, entries.iter().copied())?;
    let image = ImageManifest::new(Descriptor::of(oci::MODEL_CONFIG, &config), layers);
    let image_bytes = to_bytes(&image);
    let described = Descriptor::of(oci::MANIFEST, &image_bytes);
    let digest = described.digest.clone();

    let mut manifests = vec![described.clone().annotated(oci::REF_NAME, &manifest.name)];
    let mut blobs = vec![image_bytes.clone(), config];
    if let Some(signer) = signer {
        let (listed, mut signature) = sign(signer, &manifest.label(), &image_bytes, described)?;
        manifests.push(listed);
        blobs.append(&mut signature);
    }
    let mut runtime = Vec::new();
    for carried in contents.runtimes {
        let (listed, mut documents) = describe_runtime(carried)?;
        manifests.push(listed);
        blobs.append(&mut documents);
        runtime.extend(carried.files.iter().map(|(place, entry)| {
            // Those of two platforms have the same name.
            let path = format!("{}/{}", carried.platform, entry.path);
            original(
                place.clone(),
                FileEntry {
                    path,
                    ..entry.clone()
                },
            )
        }));
    }
    let index = to_bytes(&ImageIndex {
        schema_version: 2,
        media_type: Some(oci::INDEX.to_owned()),
        manifests,
    });
    let layout = to_bytes(&Layout {
        image_layout_version: oci::LAYOUT_VERSION.to_owned(),
    });
    let mut documents = vec![
        (LAYOUT_FILE.to_owned(), layout),
        (INDEX_FILE.to_owned(), index),
    ];
    documents.extend(blobs.into_iter().map(|b| (blob_name(&Digest::of(&b)), b)));
    let files = entries.into_iter();
    let model = files.map(|entry| original(model.dir.join(&entry.path), entry.clone()));
    let mut plan = Plan {
        documents,
        runtime,
        model: model.collect(),
        manifest: digest,
    };
    plan.keep_one_of_each();
    Ok(plan)
}

fn original(place: PathBuf, entry: FileEntry) -> Original {
    let wanted = Wanted::from(&entry);
    Original { place, wanted }
}

impl Plan {
    /// Two files of the same bytes are one blob.
    fn keep_one_of_each(&mut self) {
        let mut seen = Vec::new();
        let mut first = |file: &Original| {
            let new = !seen.contains(&file.wanted.expected);
            seen.push(file.wanted.expected.clone());
            new
        };
        self.runtime.retain(&mut first);
        self.model.retain(first);
    }
}

fn layers<'a>(
    media_type: &str,
    files: impl Iterator<Item = &'a FileEntry>,
) -> Result<Vec<Descriptor>, BundleError> {
    let layer = |entry: &FileEntry| {
        file_layer(media_type, entry).ok_or_else(|| BundleError::Damaged {
            path: entry.path.clone(),
            why: "its manifest has no usable SHA-256".into(),
        })
    };
    files.map(layer).collect()
}

/// A runtime as a manifest, and its blobs.
fn describe_runtime(runtime: &RuntimeFiles) -> Result<(Descriptor, Vec<Vec<u8>>), BundleError> {
    let RuntimeFiles { platform, files } = runtime;
    let config = to_bytes(&RuntimeConfig {
        schema: oci::RUNTIME_SCHEMA,
        platform: platform.clone(),
    });
    let layers = layers(oci::RUNTIME_FILE, files.iter().map(|(_, entry)| entry))?;
    let manifest = ImageManifest::new(Descriptor::of(oci::RUNTIME_CONFIG, &config), layers);
    let bytes = to_bytes(&manifest);
    let name = format!("onnxruntime-{platform}");
    let listed = Descriptor::of(oci::MANIFEST, &bytes).annotated(oci::REF_NAME, &name);
    Ok((listed, vec![bytes, config]))
}

/// A signature as a manifest that names its subject, and its blobs: so that a
/// registry carries it like any image.
fn sign(
    signer: &Signer,
    label: &str,
    image: &[u8],
    subject: Descriptor,
) -> Result<(Descriptor, Vec<Vec<u8>>), BundleError> {
    let comment = format!("signed:{}\tmodel:{label}", now_rfc3339());
    let text = signer.sign(image, &comment)?.into_bytes();
    let name = signature_tag(&subject.digest);
    let empty = b"{}".to_vec();
    let layer = Descriptor::of(oci::MINISIGN, &text)
        .annotated(oci::TITLE, &format!("{}.minisig", subject.digest.hex()));
    let mut manifest = ImageManifest::new(Descriptor::of(oci::EMPTY, &empty), vec![layer]);
    manifest.artifact_type = Some(oci::SIGNATURE.to_owned());
    manifest.subject = Some(subject);
    let bytes = to_bytes(&manifest);
    let mut listed = Descriptor::of(oci::MANIFEST, &bytes).annotated(oci::REF_NAME, &name);
    listed.artifact_type = manifest.artifact_type.clone();
    Ok((listed, vec![bytes, empty, text]))
}

/// A bundle that is being written, under a name of its own.
enum Output {
    Folder(FolderPart),
    Tar(PieceWriter),
}

/// A folder that is removed unless it is finished.
struct FolderPart {
    part: PathBuf,
    whole: PathBuf,
}

impl Drop for FolderPart {
    fn drop(&mut self) {
        // Finished, it has another name.
        let _ = fs::remove_dir_all(&self.part);
    }
}

impl Output {
    fn open(path: &Path, form: Form) -> Result<Self, BundleError> {
        if pieces::exist_for(path) || occupied(path, form) {
            return Err(BundleError::Occupied(path.to_owned()));
        }
        Ok(match form {
            Form::Tar => Self::Tar(PieceWriter::new(path, None)),
            Form::Pieces(limit) => Self::Tar(PieceWriter::new(path, Some(limit))),
            Form::Folder => {
                let mut part = path.as_os_str().to_owned();
                part.push(".part");
                let part = PathBuf::from(part);
                if part.exists() {
                    // What an interrupted attempt left is of no use.
                    fs::remove_dir_all(&part).map_err(BundleError::io("remove", &part))?;
                }
                let blobs = part.join("blobs/sha256");
                fs::create_dir_all(&blobs).map_err(BundleError::io("create", &blobs))?;
                Self::Folder(FolderPart {
                    part,
                    whole: path.to_owned(),
                })
            }
        })
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), BundleError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.part.join(name);
                create_file(&path)
                    .and_then(|mut file| {
                        file.write_all(bytes)?;
                        file.sync_all()
                    })
                    .map_err(BundleError::io("write", &path))
            }
            Self::Tar(writer) => {
                let size = bytes.len() as u64;
                write_header(writer, name, size)
                    .and_then(|()| writer.write_all(bytes))
                    .and_then(|()| write_padding(writer, size))
                    .map_err(unwritten)
            }
        }
    }

    /// Copies a file and proves it.
    fn file(&mut self, file: &Original, progress: &dyn Progress) -> Result<(), BundleError> {
        let Original { place, wanted } = file;
        let damaged = |why: String| BundleError::Damaged {
            path: wanted.path.clone(),
            why,
        };
        let (mut from, size) = open_regular(place).map_err(|e| match e.kind() {
            ErrorKind::InvalidData | ErrorKind::NotFound => damaged(e.to_string()),
            _ => BundleError::io("read", place)(e),
        })?;
        if size != wanted.size {
            return Err(damaged(format!("{size} bytes instead of {}", wanted.size)));
        }
        let Expected::Sha256(hex) = &wanted.expected else {
            return Err(damaged("it has no SHA-256".into()));
        };
        let digest = Digest::from_hex(hex).ok_or_else(|| damaged("it has no SHA-256".into()))?;
        let name = blob_name(&digest);
        platform::reads_in_order(&from);
        let mut checksum = Checksum::new(wanted);
        let copied = match self {
            Self::Folder(folder) => {
                let path = folder.part.join(&name);
                let mut to = create_file(&path).map_err(BundleError::io("create", &path))?;
                copy(&mut from, &mut to, &mut checksum, wanted, progress)?;
                to.sync_all()
            }
            Self::Tar(writer) => {
                write_header(writer, &name, size).map_err(unwritten)?;
                copy(&mut from, writer, &mut checksum, wanted, progress)?;
                write_padding(writer, size)
            }
        };
        copied.map_err(unwritten)?;
        checksum.finish(wanted).map_err(damaged)?;
        progress.proven(&wanted.path);
        Ok(())
    }

    fn finish(self) -> Result<(), BundleError> {
        match self {
            Self::Folder(folder) => {
                for inner in ["blobs/sha256", "blobs", ""] {
                    fsync_directory(&folder.part.join(inner))?;
                }
                fs::rename(&folder.part, &folder.whole)
                    .map_err(BundleError::io("write", &folder.whole))
            }
            Self::Tar(mut writer) => write_end(&mut writer)
                .and_then(|()| writer.finish())
                .map_err(unwritten),
        }
    }
}

/// An empty folder may be taken for a folder's bundle.
fn occupied(path: &Path, form: Form) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => form != Form::Folder || entries.next().is_some(),
        Err(_) => path.symlink_metadata().is_ok(),
    }
}

fn unwritten(error: std::io::Error) -> BundleError {
    BundleError::io("write", Path::new("the bundle"))(error)
}

/// Copies exactly the file's bytes; a longer or shorter file has other ones.
fn copy(
    from: &mut File,
    to: &mut dyn Write,
    checksum: &mut Checksum,
    wanted: &Wanted,
    progress: &dyn Progress,
) -> Result<(), BundleError> {
    let mut done = 0;
    let mut write = |block: &[u8]| {
        to.write_all(block)?;
        done += block.len() as u64;
        progress.position(&wanted.path, done);
        Ok(())
    };
    let mut source = from.take(wanted.size);
    let hash = &mut |block: &[u8]| checksum.update(block);
    match copy_hashed(&mut source, hash, &mut write) {
        Ok(copied) if copied == wanted.size => Ok(()),
        Ok(copied) => Err(BundleError::Damaged {
            path: wanted.path.clone(),
            why: format!("{copied} bytes instead of {}", wanted.size),
        }),
        Err(CopyError::Read(e)) => Err(StoreError::io("read", Path::new(&wanted.path))(e).into()),
        Err(CopyError::Write(e)) => Err(unwritten(e)),
    }
}
