//! `gptoss-ctl pull oci://…`: a bundle in a registry of container images.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Args, Origin, Request, finish_installed, runtime, settings};
use crate::bundle::{BundleError, BundledModel, Digest, ModelManifest};
use crate::cli::bundle::import::judge;
use crate::cli::messages::message;
use crate::cli::progress::Ui;
use crate::cli::trust::Trust;
use crate::cli::{CliError, ExitStatus};
use crate::fetch::{FetchError, Reference, Registry, SCHEME, Source};
use crate::model::incoming::Wanted;
use crate::model::{Installed, Store};

/// Largest note that is read: three documents and their quotes.
const NOTE_MAX: u64 = 8 << 20;

/// What a registry says of a model, as it was sent. Kept beside the model's files
/// until it is installed, so that a later attempt needs no network.
///
/// ```json
/// {"reference": "oci://registry.site/models:20b@sha256:3f2a…",
///  "manifest": "{\"schemaVersion\":2,…}", "config": "{…}", "signature": null}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Documents {
    /// The name, with the digest it stood for.
    reference: String,
    manifest: String,
    config: String,
    /// minisign's text over the manifest.
    signature: Option<String>,
}

/// Fetches the model that `reference` names, unless it is there.
pub(super) fn pull(
    store: &Store,
    args: &Args,
    reference: &str,
    trust: &Trust,
    ui: &Ui,
) -> Result<(&'static str, Installed), CliError> {
    refuse_hub_options(args)?;
    let reference = Reference::parse(reference)?;
    let (documents, origin) = if args.offline {
        if let Some(documents) = noted(store, &reference) {
            (documents, Origin::Staged)
        } else if let Some(model) = installed_from(store, &reference) {
            return finish_installed(store, model, args, ui);
        } else {
            return Err(unknown(&reference));
        }
    } else {
        let registry = Registry::new(&reference, args.plain_http, &settings(args))?;
        let runtime = runtime()?;
        let documents = runtime.block_on(ask(&registry))?;
        let source = Arc::new(Source::Registry(Box::new(registry)));
        (documents, Origin::Registry { source, runtime })
    };
    let model = documents.model()?;
    let (provenance, _) = judge(args.name.as_deref(), &documents.reference, &model, trust)?;
    let request = Request {
        provenance,
        files: model.files.iter().map(Wanted::from).collect(),
        origin,
        dimensions: None,
        note: serde_json::to_vec(&documents).ok(),
    };
    super::pull(store, args, request, trust, ui)
}

fn refuse_hub_options(args: &Args) -> Result<(), CliError> {
    let given = match (&args.endpoint, &args.catalog) {
        (Some(_), _) => "--endpoint",
        (_, Some(_)) => "--catalog",
        _ => return Ok(()),
    };
    Err(CliError::new(
        ExitStatus::Usage,
        message!("registry-names-itself", option = given, scheme = SCHEME),
    ))
}

fn unknown(reference: &Reference) -> CliError {
    CliError::new(
        ExitStatus::Failed,
        message!("registry-offline", reference = %reference),
    )
}

/// Asks for everything but the files.
async fn ask(registry: &Registry) -> Result<Documents, CliError> {
    let manifest = ModelManifest::parse(registry.manifest().await?)?;
    let (digest, size) = manifest.config_blob();
    let config = registry
        .small_blob("the model's config", digest.hex(), size)
        .await?;
    let tag = manifest.signature_tag();
    let signature = match registry.manifest_tagged(&tag).await? {
        None => None,
        Some(bytes) => match manifest.signature_blob(&bytes)? {
            None => None,
            Some((digest, size)) => {
                let text = registry.small_blob("the signature", digest.hex(), size);
                Some(plain(text.await?, || {
                    message!("registry-signature-no-text")
                })?)
            }
        },
    };
    let reference = registry.reference().pinned(manifest.digest().hex());
    Ok(Documents {
        reference: reference.to_string(),
        manifest: plain(manifest.bytes().to_vec(), || {
            message!("registry-manifest-no-text")
        })?,
        config: plain(config, || message!("registry-config-no-text"))?,
        signature,
    })
}

fn plain(bytes: Vec<u8>, why_not: impl Fn() -> String) -> Result<String, BundleError> {
    String::from_utf8(bytes).map_err(|_| BundleError::Malformed(why_not()))
}

impl Documents {
    /// The model they describe. They may have lain on a disk meanwhile, and prove each
    /// other as they did when they came.
    fn model(&self) -> Result<BundledModel, CliError> {
        let manifest = ModelManifest::parse(self.manifest.clone().into_bytes())?;
        let (digest, size) = manifest.config_blob();
        let config = self.config.as_bytes();
        let pinned = Reference::parse(self.reference.strip_prefix(SCHEME).unwrap_or_default())?;
        let sound = pinned.digest() == Some(manifest.digest().hex())
            && config.len() as u64 == size
            && Digest::of(config) == *digest;
        if !sound {
            return Err(FetchError::WrongCopy {
                path: message!("registry-answer"),
                place: message!("registry-answer-place"),
                why: message!("registry-answer-digest"),
            }
            .into());
        }
        let signatures = self.signature.iter().cloned().collect();
        Ok(manifest.into_model(config, signatures)?)
    }
}

/// What an earlier attempt was told of the name.
fn noted(store: &Store, reference: &Reference) -> Option<Documents> {
    let of_this = |note: Vec<u8>| {
        let documents: Documents = serde_json::from_slice(&note).ok()?;
        reference.may_be(&documents.reference).then_some(documents)
    };
    store.notes(NOTE_MAX).into_iter().find_map(of_this)
}

/// The model that was installed under the name.
fn installed_from(store: &Store, reference: &Reference) -> Option<Installed> {
    let is_this = |model: &Installed| {
        let source = &model.manifest.source;
        let place = source.split_once(", ");
        reference.may_be(place.map_or(&source[..], |(place, _)| place))
    };
    store.models().into_iter().find(is_this)
}
