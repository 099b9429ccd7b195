//! The graph for CoreML: near the reference where the processor computes it, and with
//! nothing in its projections that the provider does not take.

use std::collections::BTreeSet;

use gptoss_onnx::checkpoint::Checkpoint;
use gptoss_onnx::export::Target;
use gptoss_onnx::graph::{self, Plan};
use gptoss_onnx::proto::{DataType, NodeProto};

use crate::host::{Host, Mode};
use crate::parity::{FEEDS, WINDOW, cases, compare, folder};

fn grid64() -> Checkpoint {
    Checkpoint::open(&folder().join("grid64")).expect("sound")
}

fn plan(checkpoint: &Checkpoint) -> Plan {
    graph::coreml(checkpoint.config(), checkpoint.experts())
}

/// float16 rounds the activations that go into a projection and those that come out; all
/// else is computed exactly.
#[test]
fn float16_projections_cost_little_on_grid64() {
    let (checkpoint, cases) = (grid64(), cases("grid64"));
    for (mode, median, p95, top1) in [
        (Mode::Exact, 1e-5, 1e-4, 0.99),
        (Mode::Shipped, 1.5e-3, 0.012, 0.96),
    ] {
        let mut host = Host::in_memory(&checkpoint, Target::Coreml, mode, WINDOW);
        for (fed, feed) in FEEDS {
            let figures = compare(&mut host, &cases, feed, false);
            figures.assert_within(&format!("coreml, grid64, {fed}"), median, p95, top1);
        }
    }
}

/// What ONNX Runtime's list for the format MLProgram has, of what is used here.
const TAKEN: [&str; 4] = ["Cast", "Gemm", "Squeeze", "Unsqueeze"];

fn named(node: &NodeProto, part: &str) -> bool {
    node.name.as_deref().is_some_and(|name| name.contains(part))
}

#[test]
fn every_projection_but_the_last_is_of_nodes_that_the_provider_takes() {
    let checkpoint = grid64();
    let (plan, layers) = (plan(&checkpoint), checkpoint.config().layers);
    let projections = |node: &&NodeProto| named(node, "qkv_proj") || named(node, "o_proj");
    let nodes: Vec<_> = plan.graph.node.iter().filter(projections).collect();
    let last = format!("model.layers.{}.self_attn.o_proj", layers - 1);
    let (ours, theirs): (Vec<&NodeProto>, Vec<&NodeProto>) =
        nodes.into_iter().partition(|node| named(node, &last));
    // It may be asked for no position, and CoreML fails on empty tensors.
    let ours: Vec<_> = ours.iter().filter_map(|n| n.op_type.as_deref()).collect();
    assert_eq!(ours, ["Linear"]);
    let types: BTreeSet<_> = theirs.iter().filter_map(|n| n.op_type.as_deref()).collect();
    assert_eq!(Vec::from_iter(types), TAKEN);
    let multiplied = theirs
        .iter()
        .filter(|n| n.op_type.as_deref() == Some("Gemm"));
    assert_eq!(multiplied.clone().count(), 2 * layers - 1);
    for node in multiplied {
        assert!(node.domain.is_none());
        // Weights and biases are constants, as they must be.
        for name in &node.input[1..] {
            let constant = plan.initializers.iter().find(|i| i.name == *name);
            assert_eq!(constant.map(|i| i.dtype), Some(DataType::Float16), "{name}");
        }
    }
}

/// The rest is target `cpu`: the experts stay with our operator, in place.
#[test]
fn the_rest_is_the_processors() {
    let checkpoint = grid64();
    let cpu = graph::cpu(checkpoint.config(), checkpoint.experts());
    let others = |plan: &Plan| -> Vec<NodeProto> {
        let nodes = plan.graph.node.iter();
        let others = nodes.filter(|n| !named(n, "qkv_proj") && !named(n, "o_proj"));
        others.cloned().collect()
    };
    let coreml = plan(&checkpoint);
    assert_eq!(others(&coreml), others(&cpu));
    assert_eq!(coreml.graph.input, cpu.graph.input);
    assert_eq!(coreml.graph.output, cpu.graph.output);
}
