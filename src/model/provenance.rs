//! What a manifest remembers of where a model's bytes came from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A trusted key's signature, checked before the model was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The key's number, as minisign prints it.
    pub key_id: String,
    /// What the signer said about it.
    pub comment: String,
    /// Digest of what was signed, `sha256:…`.
    pub over: String,
}

/// The catalog that pinned a model's digests, as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogFile {
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Who vouched for it, where somebody who is trusted did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// How a target was made of the checkpoint. The same files and version give the same
/// bytes again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Export {
    /// Version of the program that made it.
    pub tool_version: String,
    /// When these bytes were first made, RFC 3339.
    pub exported_at: String,
    /// Version of the exported layout.
    pub format: String,
    /// Files of the checkpoint that it is made of.
    pub inputs: Vec<String>,
    /// In which form the weights are.
    pub weights: Vec<Weights>,
    /// What became of experts that the checkpoint holds as floats, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantized: Option<QuantizedExperts>,
}

/// Tensors of an export that are in one form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// The form and how it is made of the published one, in words.
    pub form: String,
    /// How many tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Experts that an export quantized, because the checkpoint holds them as floats: what
/// runs is then not the checkpoint's own bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizedExperts {
    /// What the checkpoint holds: `BF16`, `F16`, `F32`, or several, joined by a comma.
    pub from: String,
    /// What the export holds: `MXFP4` or `int4`.
    pub to: String,
    /// In how many layers.
    pub layers: u64,
    /// Root mean square of what the weights have changed by, relative to that of the
    /// weights; 0 where nothing was lost.
    pub relative_rms_error: f64,
}

impl fmt::Display for QuantizedExperts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from, to, layers, ..
        } = self;
        let plural = if *layers == 1 { "layer" } else { "layers" };
        write!(
            f,
            "quantized by the export from {from} to {to}, {layers} {plural}, "
        )?;
        match self.relative_rms_error {
            0.0 => f.write_str("without loss"),
            error => write!(f, "relative RMS error {error:.4}"),
        }
    }
}
