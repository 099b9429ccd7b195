//! In which form the weights of an exported graph are.

use crate::graph::{Content, Job, Plan};
use crate::kernels::mxfp4;
use crate::quantize::int8::Scales;
use crate::quantize::{int4, int4_wide};

use super::sink::{Place, Places};

/// The tensors of a graph that are in one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The form and how it is made of the published one, in words.
    pub name: String,
    /// Tensors; an int8 or int4 matrix and its scales are two.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The forms of a plan's weights whose bytes are at `places`, in order of their
/// first tensor. What is in the model itself, such as shapes, is left out.
pub(super) fn forms(plan: &Plan, places: &Places) -> Vec<Form> {
    let mut forms: Vec<Form> = Vec::new();
    for initializer in &plan.initializers {
        let name = match &initializer.content {
            Content::Inline(_) => continue,
            Content::Published(_) => match places.get(&initializer.name) {
                Some(Place::InShard { .. }) => "published bytes, in place".to_owned(),
                _ => "published bytes, copied".to_owned(),
            },
            Content::Derived { job, .. } => match plan.jobs.get(*job) {
                Some(job) => made_by(job),
                None => continue,
            },
        };
        let bytes = initializer.byte_len();
        match forms.iter_mut().find(|form| form.name == name) {
            Some(form) => {
                form.tensors += 1;
                form.bytes += bytes;
            }
            None => forms.push(Form {
                name,
                tensors: 1,
                bytes,
            }),
        }
    }
    forms
}

fn made_by(job: &Job) -> String {
    match job {
        Job::Widen(_) => "float32, widened from bfloat16".into(),
        Job::Transpose(_) => "float32, widened from bfloat16 and transposed".into(),
        Job::Copy(_) => "published bytes, copied".into(),
        Job::Halve(_) => "float16, rounded from bfloat16".into(),
        Job::Int8 { layout, .. } => match layout.scales {
            Scales::Float32 => format!(
                "int8 of bfloat16, symmetric, float32 scale max|w|/127 for each {}",
                layout.block
            ),
            Scales::Float16 => format!(
                "int8 of bfloat16, symmetric, float16 scale for each {}",
                layout.block
            ),
        },
        Job::Int4 { .. } => format!(
            "int4 of MXFP4, symmetric, the float32 scale of least squared error for each {}",
            int4::BLOCK
        ),
        Job::Bfloat16(_) => "bfloat16, rounded from another float type".into(),
        Job::Mxfp4(_) => format!(
            "MXFP4 of floats, the E8M0 scale of least squared error for each {}",
            mxfp4::BLOCK
        ),
        Job::Int4OfFloats(_) => format!(
            "int4 of floats, symmetric, the float32 scale of least squared error for each {}",
            int4::BLOCK
        ),
        Job::Mxfp4Columns { .. } => "published MXFP4 codes, rows as columns".into(),
        Job::Mxfp4ColumnsOfFloats(_) => format!(
            "MXFP4 of floats, the E8M0 scale of least squared error for each {}, rows as columns",
            mxfp4::BLOCK
        ),
        Job::WideInt4 { .. } => format!(
            "int4 of MXFP4, symmetric, the float16 scale of least squared error for each {}",
            int4_wide::BLOCK
        ),
        Job::WideInt4OfFloats(_) => format!(
            "int4 of floats, symmetric, the float16 scale of least squared error for each {}",
            int4_wide::BLOCK
        ),
        Job::Rope => "YaRN's rotary tables".into(),
    }
}
