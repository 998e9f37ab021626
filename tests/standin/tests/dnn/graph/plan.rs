//! A graph with its tensors, and its plans.

use std::ffi::c_void;

use cudarc::cudnn::result;
use cudarc::cudnn::sys::{
    self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode,
    cudnnConvolutionMode_t as Correlation, cudnnDataType_t as Number, cudnnHandle_t,
};
use cudarc::driver::{CudaSlice, DevicePtr as _};

use super::descriptor::Descriptor;
use crate::data::blank;
use crate::dnn::layer::Sizes;
use crate::gpu::{Failure, Gpu, Outcome};

/// A handle on the second stream.
pub(super) fn handle(gpu: &Gpu) -> Result<cudnnHandle_t, Failure> {
    gpu.context.bind_to_thread()?;
    let handle = result::create_handle()?;
    // SAFETY: the handle was just created.
    unsafe { result::set_stream(handle, gpu.two.cu_stream().cast())? };
    Ok(handle)
}

/// What a test may change about a tensor.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) uid: i64,
    pub(super) number: Number,
    pub(super) dims: [i64; 4],
    pub(super) strides: [i64; 4],
    pub(super) alignment: i64,
    pub(super) is_virtual: bool,
}

impl Tensor {
    /// A packed tensor with channels last.
    pub(super) fn new(uid: i64, number: Number, dims: [usize; 4]) -> Self {
        let [n, c, h, w] = dims.map(|size| size as i64);
        let strides = [h * w * c, 1, w * c, c];
        Self { uid, number, dims: [n, c, h, w], strides, alignment: 16, is_virtual: false }
    }

    pub(super) fn describe(&self) -> Result<Descriptor, Failure> {
        Descriptor::new(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .ints(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[self.uid])?
            .set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[self.number])?
            .ints(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[self.alignment])?
            .ints(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &self.dims)?
            .ints(Name::CUDNN_ATTR_TENSOR_STRIDES, &self.strides)?
            .set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Type::CUDNN_TYPE_BOOLEAN, &[self.is_virtual])?
            .finalize()
    }
}

/// The direction of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    BackwardData,
    BackwardFilter,
}

pub(super) const PASSES: [Pass; 3] = [Pass::Forward, Pass::BackwardData, Pass::BackwardFilter];

impl Pass {
    /// The kind of operation, and its attributes: the convolution, alpha, beta, x, w and y.
    fn attributes(self) -> (Kind, [Name; 6]) {
        match self {
            Self::Forward => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                ],
            ),
            Self::BackwardData => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                ],
            ),
            Self::BackwardFilter => (
                Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                ],
            ),
        }
    }

    /// The index of the output among x, w and y.
    pub(super) fn output(self) -> usize {
        match self {
            Self::Forward => 2,
            Self::BackwardData => 0,
            Self::BackwardFilter => 1,
        }
    }
}

/// A convolution. Its tensors x, w and y have the identifiers 1, 2 and 3.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub(super) pass: Pass,
    pub(super) tensors: [Tensor; 3],
    pub(super) scales: [f32; 2],
    pub(super) dilation: i64,
    pub(super) sums: Number,
    pub(super) stride: i64,
    pub(super) pad: i64,
}

impl Conv {
    pub(super) fn new(pass: Pass, sizes: &Sizes, number: Number) -> Self {
        let [x, w, y] = sizes.dims();
        let tensors =
            [Tensor::new(1, number, x), Tensor::new(2, number, w), Tensor::new(3, number, y)];
        let (stride, pad) = (sizes.stride as i64, sizes.pad as i64);
        let sums = Number::CUDNN_DATA_FLOAT;
        Self { pass, tensors, scales: [1.0, 0.0], dilation: 1, sums, stride, pad }
    }

    pub(super) fn geometry(&self) -> Result<Descriptor, Failure> {
        let correlation = Correlation::CUDNN_CROSS_CORRELATION;
        Descriptor::new(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE, &[self.sums])?
            .set(
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Type::CUDNN_TYPE_CONVOLUTION_MODE,
                &[correlation],
            )?
            .ints(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?
            .ints(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[self.dilation; 2])?
            .ints(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &[self.stride; 2])?
            .ints(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &[self.pad; 2])?
            .ints(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &[self.pad; 2])?
            .finalize()
    }

    /// The operation, which is not yet finalized.
    pub(super) fn operation(&self) -> Result<Descriptor, Failure> {
        let (kind, [geometry, alpha, beta, x, w, y]) = self.pass.attributes();
        let mut operation = Descriptor::new(kind)?
            .children(geometry, &[&self.geometry()?])?
            .set(alpha, Type::CUDNN_TYPE_FLOAT, &self.scales[..1])?
            .set(beta, Type::CUDNN_TYPE_FLOAT, &self.scales[1..])?;
        for (name, tensor) in [x, w, y].into_iter().zip(&self.tensors) {
            operation = operation.children(name, &[&tensor.describe()?])?;
        }
        Ok(operation)
    }

    pub(super) fn graph(&self, handle: cudnnHandle_t) -> Result<Descriptor, Failure> {
        graph(handle, &[&self.operation()?.finalize()?])
    }

    /// Configurations in the order of the heuristics.
    pub(super) fn configs(
        &self,
        handle: cudnnHandle_t,
        mode: Mode,
    ) -> Result<Vec<Descriptor>, Failure> {
        configs(&self.graph(handle)?, mode)
    }

    /// The plans of the proposals that have one, with those of the fallbacks last.
    pub(super) fn plans(&self, handle: cudnnHandle_t) -> Result<Vec<Plan>, Failure> {
        let mut configs = self.configs(handle, Mode::CUDNN_HEUR_MODE_A)?;
        configs.extend(self.configs(handle, Mode::CUDNN_HEUR_MODE_FALLBACK)?);
        Ok(configs.iter().filter_map(|config| Plan::new(handle, config).ok()).collect())
    }
}

pub(super) fn graph(
    handle: cudnnHandle_t,
    operations: &[&Descriptor],
) -> Result<Descriptor, Failure> {
    Descriptor::new(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?
        .children(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, operations)?
        .finalize()
}

pub(super) fn configs(graph: &Descriptor, mode: Mode) -> Result<Vec<Descriptor>, Failure> {
    Descriptor::new(Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?
        .set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, &[mode])?
        .finalize()?
        .fill(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, 32)
}

/// An execution plan, and what its engine says about itself.
pub(super) struct Plan {
    pub(super) descriptor: Descriptor,
    pub(super) workspace: usize,
    pub(super) engine: i64,
    pub(super) notes: Vec<u32>,
}

impl Plan {
    pub(super) fn new(handle: cudnnHandle_t, config: &Descriptor) -> Result<Self, Failure> {
        let descriptor = Descriptor::new(Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
            .set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Type::CUDNN_TYPE_HANDLE, &[handle])?
            .children(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[config])?
            .finalize()?;
        let size = Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE;
        let bytes = descriptor.get::<i64>(size, Type::CUDNN_TYPE_INT64, 1)?;
        let engine = engine(config)?;
        let index = Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX;
        let notes = Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE;
        Ok(Self {
            descriptor,
            workspace: usize::try_from(bytes[0])?,
            engine: engine.get::<i64>(index, Type::CUDNN_TYPE_INT64, 1)?[0],
            notes: engine.get::<u32>(notes, Type::CUDNN_TYPE_NUMERICAL_NOTE, 16)?,
        })
    }

    pub(super) fn has(&self, note: sys::cudnnBackendNumericalNote_t) -> bool {
        self.notes.contains(&(note as u32))
    }

    /// Executes the plan with a workspace of the right size.
    pub(super) fn run(
        &self,
        gpu: &Gpu,
        handle: cudnnHandle_t,
        memory: &[(i64, *mut c_void)],
    ) -> Outcome {
        let workspace: CudaSlice<u8> = blank(gpu, self.workspace.max(1))?;
        self.execute(handle, memory, workspace.device_ptr(&gpu.two).0 as *mut c_void)
    }

    pub(super) fn execute(
        &self,
        handle: cudnnHandle_t,
        memory: &[(i64, *mut c_void)],
        workspace: *mut c_void,
    ) -> Outcome {
        let (uids, pointers): (Vec<i64>, Vec<*mut c_void>) = memory.iter().copied().unzip();
        let void = Type::CUDNN_TYPE_VOID_PTR;
        let pack = Descriptor::new(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?
            .ints(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &uids)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, void, &pointers)?
            .set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, void, &[workspace])?
            .finalize()?;
        // SAFETY: the memory has the sizes of the tensors, unless the case tests that.
        unsafe {
            sys::cudnnBackendExecute(handle, self.descriptor.raw, pack.raw).result()?;
        }
        Ok(())
    }
}

/// The engine of a configuration.
pub(super) fn engine(config: &Descriptor) -> Result<Descriptor, Failure> {
    let kind = Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR;
    let mut engines = config.fill(Name::CUDNN_ATTR_ENGINECFG_ENGINE, kind, 1)?;
    engines.pop().ok_or_else(|| Failure("a configuration without engine".to_owned()))
}

/// The address of memory of the second stream.
pub(super) fn at<T>(gpu: &Gpu, slice: &CudaSlice<T>) -> *mut c_void {
    slice.device_ptr(&gpu.two).0 as *mut c_void
}
