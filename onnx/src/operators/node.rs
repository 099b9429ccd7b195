//! What the nodes of all operators share: viewing inputs, the session's
//! threads, and memory that they take turns to use.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, TryLockError};

use ort::operator::ComputeContext;
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, ValueRef, ValueType};

use super::Control;
use crate::kernels::parallel::Parallel;
use crate::kernels::{KernelError, KernelSet, best_kernel};

/// The first inputs of a node, one for each name.
pub(super) fn required<'c>(
    context: &'c ComputeContext,
    operator: &str,
    names: &[&str],
) -> ort::Result<Vec<ValueRef<'c>>> {
    let value = |(i, name): (usize, &&str)| {
        let missing = || ort::Error::new(format!("{operator}: input {name} is missing"));
        context.input(i)?.ok_or_else(missing)
    };
    names.iter().enumerate().map(value).collect()
}

/// The inputs of a node, with what its operator calls them.
pub(super) struct Inputs<'a, 'v> {
    pub(super) operator: &'static str,
    pub(super) names: &'static [&'static str],
    pub(super) values: &'a [ValueRef<'v>],
}

impl<'a> Inputs<'a, '_> {
    /// Views input `index` as a tensor of `T`.
    pub(super) fn read<T: PrimitiveTensorElementType>(
        &self,
        index: usize,
    ) -> ort::Result<Input<'a, T>> {
        let (shape, data) = self.values[index].try_extract_tensor::<T>()?;
        Ok(Input {
            operator: self.operator,
            name: self.names[index],
            shape: shape.to_vec(),
            data,
        })
    }
}

impl Inputs<'_, '_> {
    /// The sizes of input `index`, of which there are `N`, without looking at
    /// its content, which may be an output's at the same time.
    pub(super) fn sizes<const N: usize>(
        &self,
        index: usize,
    ) -> ort::Result<([usize; N], Vec<i64>)> {
        let shape = match self.values[index].dtype() {
            ValueType::Tensor { shape, .. } => shape.to_vec(),
            _ => Vec::new(),
        };
        let input = Input::<u8> {
            operator: self.operator,
            name: self.names[index],
            shape,
            data: &[],
        };
        Ok((input.dimensions()?, input.shape))
    }

    /// Where the content of input `index` begins.
    pub(super) fn address(&self, index: usize) -> *const c_void {
        match self.values[index].view().downcast::<DynTensorValueType>() {
            Ok(tensor) => tensor.data_ptr().cast(),
            Err(_) => std::ptr::null(),
        }
    }
}

/// A tensor input, viewed.
pub(super) struct Input<'a, T> {
    operator: &'static str,
    pub(super) name: &'static str,
    pub(super) shape: Vec<i64>,
    pub(super) data: &'a [T],
}

impl<T> Input<'_, T> {
    /// Its sizes, of which there are `N`.
    pub(super) fn dimensions<const N: usize>(&self) -> ort::Result<[usize; N]> {
        let sizes: Option<Vec<usize>> = self
            .shape
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect();
        sizes.and_then(|s| s.try_into().ok()).ok_or_else(|| {
            ort::Error::new(format!(
                "{}: input {} has shape {:?}, which must have {N} dimensions",
                self.operator, self.name, self.shape
            ))
        })
    }

    /// Refuses another last dimension than `size`.
    pub(super) fn ends_with(&self, size: usize) -> ort::Result<()> {
        if self.shape.len() > 1 && self.shape.last() == Some(&(size as i64)) {
            return Ok(());
        }
        Err(ort::Error::new(format!(
            "{}: input {} has shape {:?}, whose last dimension must be {size}",
            self.operator, self.name, self.shape
        )))
    }
}

/// The session's own threads.
pub(super) struct IntraOpPool<'a>(pub(super) &'a ComputeContext);

impl Parallel for IntraOpPool<'_> {
    fn run(&self, parts: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        // 0 batches: threads take single parts, beginning each at its own
        // share of the range and helping out where others are behind.
        self.0
            .par_for(parts, 0, task)
            .map_err(|e| KernelError::Pool(e.to_string()))
    }
}

/// What all nodes of an operator in a session have together.
pub(super) struct Shared<W> {
    pub(super) control: Arc<Control>,
    pub(super) kernel: &'static dyn KernelSet,
    workspace: Mutex<W>,
}

impl<W: Default> Shared<W> {
    pub(super) fn new(control: Arc<Control>) -> Arc<Self> {
        Arc::new(Self {
            control,
            kernel: best_kernel(),
            workspace: Mutex::default(),
        })
    }

    /// Calls `f` with the memory that nodes take turns to use, since they run
    /// one after another. Two runs of one session at once are legal: the second
    /// one gets memory of its own. What a panic left behind is as good as any,
    /// since every run overwrites what it reads.
    pub(super) fn with_workspace<R>(&self, f: impl FnOnce(&mut W) -> R) -> R {
        match self.workspace.try_lock() {
            Ok(mut workspace) => f(&mut workspace),
            Err(TryLockError::Poisoned(poisoned)) => f(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => f(&mut W::default()),
        }
    }
}
