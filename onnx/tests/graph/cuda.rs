//! The graphs for CUDA, as far as a processor can judge them: it has kernels for all of
//! target `cuda-int4`, in float16 and in float32, and target `cuda` is that graph but for
//! the bytes of its experts.

use std::path::PathBuf;

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::{ModelFile, Target, in_memory};
use gptoss_onnx::graph::{self, CudaExperts, Floats, Plan};

use crate::host::{Host, Mode, session};
use crate::parity::{FEEDS, WINDOW, cases, compare, folder};

fn grid64() -> Checkpoint {
    Checkpoint::open(&folder().join("grid64")).expect("sound")
}

fn plan(checkpoint: &Checkpoint, floats: Floats, form: CudaExperts) -> Plan {
    graph::cuda(checkpoint.config(), checkpoint.experts(), floats, form)
}

#[test]
fn the_graph_is_exact_on_grid64_in_float32() {
    let (checkpoint, cases) = (grid64(), cases("grid64"));
    let plan = plan(&checkpoint, Floats::Single, CudaExperts::Int4);
    let mut host = Host::of_plan(&checkpoint, Target::CudaInt4, plan, Mode::Exact, WINDOW);
    for (name, feed) in FEEDS {
        let figures = compare(&mut host, &cases, feed, true);
        figures.assert_exact(&format!("cuda in float32, grid64, {name}"));
    }
}

#[test]
fn cuda_int4_as_shipped_is_near_on_grid64() {
    let (checkpoint, cases) = (grid64(), cases("grid64"));
    let mut host = Host::in_memory(&checkpoint, Target::CudaInt4, Mode::Shipped, WINDOW);
    for (fed, feed) in FEEDS {
        let figures = compare(&mut host, &cases, feed, false);
        let what = format!("cuda-int4 as shipped, grid64, {fed}");
        figures.assert_within(&what, 1.5e-3, 0.012, 0.96);
    }
}

/// Nodes, inputs, outputs and constants are the same, but for those of `QMoE`.
#[test]
fn the_two_targets_differ_in_their_experts_alone() {
    let checkpoint = grid64();
    let [first, second] =
        [CudaExperts::Mxfp4, CudaExperts::Int4].map(|form| plan(&checkpoint, Floats::Half, form));
    assert_eq!(first.graph.input, second.graph.input);
    assert_eq!(first.graph.output, second.graph.output);
    assert_eq!(first.graph.node.len(), second.graph.node.len());
    let mut differing = 0;
    for (a, b) in first.graph.node.iter().zip(&second.graph.node) {
        if a != b {
            differing += 1;
            assert_eq!(a.op_type.as_deref(), Some("QMoE"));
            assert_eq!(
                (&a.name, &a.output, &a.input[..2]),
                (&b.name, &b.output, &b.input[..2])
            );
        }
    }
    assert_eq!(differing, checkpoint.config().layers);
    let of_experts = |plan: &Plan| -> Vec<String> {
        let nodes = plan.graph.node.iter();
        let experts = nodes.filter(|node| node.op_type.as_deref() == Some("QMoE"));
        experts.flat_map(|node| node.input[2..].to_vec()).collect()
    };
    let others = |plan: &Plan| {
        let experts = of_experts(plan);
        let all = plan.initializers.iter();
        let others = all.filter(|i| !experts.contains(&i.name));
        let described = others.map(|i| (i.name.clone(), i.dtype, i.dims.clone()));
        described.collect::<Vec<_>>()
    };
    assert_eq!(others(&first), others(&second));
}

/// ONNX Runtime checks names, types and shapes of the whole graph before it looks for
/// kernels, of which it lacks one: that of `QMoE` for MXFP4.
#[test]
fn cuda_lacks_nothing_but_the_kernel_of_its_experts() {
    let model = ModelFile {
        bytes: in_memory(&grid64(), Target::Cuda).expect("an export"),
        external_root: PathBuf::new(),
    };
    let error = session(&model).expect_err("no such kernel").to_string();
    let wanted = "Failed to find kernel for com.microsoft.QMoE";
    assert!(error.contains(wanted), "{error}");
    assert!(error.contains("tensor(float8e8m0)"), "{error}");
}
