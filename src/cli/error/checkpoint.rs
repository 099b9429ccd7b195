//! Errors of checkpoints and their exports.

use gptoss_onnx::checkpoint::CheckpointError;
use gptoss_onnx::export::ExportError;

use super::Spoken;
use super::system::reason;
use crate::cli::messages::translated;

impl Spoken for CheckpointError {
    fn spoken(&self) -> String {
        match self {
            Self::Read { path, source } => translated!(
                self,
                "error-checkpoint-read",
                path = %path.display(),
                why = reason(source)
            ),
            // A file's name and free text.
            Self::Config { .. } | Self::Index(_) => self.to_string(),
            Self::ShardPath { name, reason } => translated!(
                self,
                "error-checkpoint-shard-path",
                shard = %name.escape_debug(),
                why = *reason
            ),
            Self::Shard { shard, reason } => {
                translated!(self, "error-checkpoint-shard", shard = shard, why = reason)
            }
            Self::MissingTensor { name, place } => match place.strip_prefix(" in ") {
                Some(file) => translated!(
                    self,
                    "error-checkpoint-missing-in",
                    tensor = name,
                    file = file
                ),
                None => translated!(
                    self,
                    "error-checkpoint-missing",
                    tensor = name,
                    place = place
                ),
            },
            Self::Experts { layer, reason } => {
                translated!(
                    self,
                    "error-checkpoint-experts",
                    layer = *layer,
                    why = reason
                )
            }
            Self::UnexpectedTensor { name, shard } => translated!(
                self,
                "error-checkpoint-unexpected",
                tensor = name,
                shard = shard
            ),
            Self::WrongTensor {
                name,
                found,
                expected,
            } => translated!(
                self,
                "error-checkpoint-tensor",
                tensor = name,
                found = found,
                expected = expected
            ),
            Self::BadValue { name, what, index } => translated!(
                self,
                "error-checkpoint-value",
                tensor = name,
                value = *what,
                index = *index
            ),
        }
    }
}

impl Spoken for ExportError {
    fn spoken(&self) -> String {
        match self {
            Self::Write { path, source } => translated!(
                self,
                "error-export-write",
                path = %path.display(),
                why = reason(source)
            ),
            Self::NonFinite { name, index } => translated!(
                self,
                "error-export-not-finite",
                tensor = name,
                index = *index
            ),
            Self::TooLarge { bytes } => {
                translated!(self, "error-export-too-large", bytes = *bytes)
            }
            Self::Incomplete(name) => {
                translated!(self, "error-export-incomplete", tensor = name)
            }
        }
    }
}
