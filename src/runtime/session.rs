//! One ONNX Runtime session over a model in memory.

use std::path::Path;

use ort::AsPointer;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::coreml;
use super::error::RuntimeError;
use super::library;
use super::provider::Provider;

/// How a session is made.
pub(super) struct Settings<'a> {
    /// Folder that the locations of external tensors are relative to; `None`
    /// for a model that holds all its weights.
    pub external_root: Option<&'a Path>,
    /// Who computes.
    pub provider: Provider,
    /// Threads within one operator.
    pub threads: usize,
    /// Whether threads wait actively between two operators.
    pub spinning: bool,
    /// How the name of the profile's file begins, if one is wanted.
    pub profile: Option<&'a Path>,
    /// The `gptoss` operators.
    pub operators: OperatorDomain,
}

/// Opens the model.
pub(super) fn open(model: &[u8], settings: Settings<'_>) -> Result<Session, RuntimeError> {
    let provider = settings.provider;
    let cache = match provider {
        Provider::CoreMl => coreml::cache(model, settings.external_root),
        Provider::Cuda | Provider::Cpu => None,
    };
    let mut builder = options(settings)?;
    provider
        .register(&mut builder, cache.as_deref())
        .map_err(|reason| RuntimeError::ProviderUnusable { provider, reason })?;
    // A driver that hangs would keep it, and whoever opens a session afterwards wait for
    // ever. Nobody opens one at the same time: loads take turns, and a proof has a process
    // of its own.
    let opening = (provider == Provider::Cpu).then(gptoss_onnx::operators::opening);
    let session = builder.commit_from_memory(model)?;
    drop(opening);
    if provider != Provider::Cpu {
        check_assignment(&session, provider)?;
    }
    Ok(session)
}

fn options(settings: Settings<'_>) -> Result<SessionBuilder, RuntimeError> {
    let mut builder = Session::builder(&library::environment()?)?
        .with_operators(settings.operators)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(settings.threads)?
        .with_inter_threads(1)?
        .with_prepacking(true)?
        .with_intra_op_spinning(settings.spinning)?
        .with_config_entry("session.force_spinning_stop", "1")?;
    if settings.provider != Provider::Cpu {
        builder = builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?;
    }
    if let Some(profile) = settings.profile {
        builder = builder.with_profiling(profile)?;
    }
    if let Some(root) = settings.external_root {
        let root = root.to_str().ok_or_else(|| {
            RuntimeError::Model(format!(
                "the folder {} has a name that is not UTF-8, which ONNX Runtime cannot open",
                root.display()
            ))
        })?;
        builder = builder
            .with_config_entry("session.model_external_initializers_file_folder_path", root)?;
    }
    Ok(builder)
}

/// ONNX Runtime leaves to the CPU whatever a provider declines, down to the
/// whole graph, and says nothing. A provider that computes nothing is refused.
fn check_assignment(session: &Session, provider: Provider) -> Result<(), RuntimeError> {
    let nodes = nodes_assigned_to(session, provider)?;
    if nodes == 0 {
        return Err(RuntimeError::ProviderUnusable {
            provider,
            reason: "it takes no operator of the graph".into(),
        });
    }
    tracing::debug!(%provider, nodes, "nodes assigned");
    Ok(())
}

fn nodes_assigned_to(session: &Session, provider: Provider) -> Result<usize, RuntimeError> {
    let api = ort::api();
    let mut graphs = std::ptr::null();
    let mut count = 0;
    // SAFETY: the session lives, and both results may be written; what comes
    // back belongs to the session and is read before it can go away.
    unsafe {
        ort::Error::result_from_status((api.Session_GetEpGraphAssignmentInfo)(
            session.ptr(),
            &mut graphs,
            &mut count,
        ))?;
    }
    let mut nodes = 0;
    for i in 0..count {
        let mut name = std::ptr::null();
        let mut list = std::ptr::null();
        let mut length = 0;
        // SAFETY: `i` is below the count the library gave with the array, the
        // name it writes is a C string of the session.
        let owner = unsafe {
            let graph = *graphs.add(i);
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetEpName)(graph, &mut name))?;
            ort::Error::result_from_status((api.EpAssignedSubgraph_GetNodes)(
                graph,
                &mut list,
                &mut length,
            ))?;
            std::ffi::CStr::from_ptr(name)
        };
        if owner.to_bytes() == provider.onnx_name().as_bytes() {
            nodes += length;
        }
    }
    Ok(nodes)
}
