//! Convolutions by cuDNN.
//!
//! For each convolution and number of images, cuDNN's heuristics are asked once for algorithms. The first
//! one that is deterministic and whose workspace fits is used. bf16 runs on tensor cores; f32 runs without
//! TF32.

#![expect(unsafe_code, reason = "calls of cuDNN")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use cudarc::cudnn::{result as dnn, sys};
use forebay::gpu::{DeviceError, Gpu, Lane};

use super::Precision;
use crate::model::Conv;

/// Identifies a prepared convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConvKey {
    /// Operation of the graph.
    pub(super) op: usize,
    /// Whether the operation is of the training graph; otherwise of the inference graph.
    pub(super) train: bool,
    /// Number of images.
    pub(super) images: usize,
}

/// A handle of cuDNN on a lane, with the prepared convolutions.
pub(super) struct Cudnn {
    device: u32,
    precision: Precision,
    handle: sys::cudnnHandle_t,
    plans: BTreeMap<ConvKey, ConvPlan>,
    /// Address and size of the workspace; both zero before [`Self::attach`].
    workspace: (u64, usize),
}

/// The descriptors and algorithms of a convolution.
struct ConvPlan {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    forward: sys::cudnnConvolutionFwdAlgo_t,
    backward_data: sys::cudnnConvolutionBwdDataAlgo_t,
    backward_filter: sys::cudnnConvolutionBwdFilterAlgo_t,
    workspace: usize,
}

/// Maximum number of algorithms that the heuristics return.
const MAX_ALGORITHMS: usize = 10;

/// Maximum size of the workspace.
const MAX_WORKSPACE: usize = 512 << 20;

fn int(size: usize) -> c_int {
    c_int::try_from(size).expect("sizes of tensors are below 2^31")
}

/// A scaling factor, as cuDNN takes it.
fn scale(factor: &f32) -> *const c_void {
    std::ptr::from_ref(factor).cast()
}

/// Asks for algorithms of one direction. Evaluates to the first suitable one and its workspace.
macro_rules! choose {
    ($get:path, $perf:ty, $max_workspace:expr, $($argument:expr),*) => {{
        let mut count: c_int = 0;
        // SAFETY: a C structure of numbers, for which all zeros are valid.
        let mut found: [$perf; MAX_ALGORITHMS] = unsafe { std::mem::zeroed() };
        // SAFETY: live handles and descriptors, and room for the number of results that is passed.
        unsafe { $get($($argument,)* int(MAX_ALGORITHMS), &raw mut count, found.as_mut_ptr()) }.result()?;
        let found = &found[..usize::try_from(count).unwrap_or(0)];
        let fits = |perf: &&$perf| {
            perf.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && perf.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && perf.memory <= $max_workspace
        };
        let status = sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED;
        let best = found.iter().find(fits).ok_or(dnn::CudnnError(status))?;
        (best.algo, best.memory)
    }};
}

impl Cudnn {
    pub(super) fn open(device: &Gpu, precision: Precision) -> Result<Self, DeviceError> {
        // SAFETY: loading the library runs its initializers, which have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            let help = "install cuDNN 9 for CUDA 12 and add its folder to LD_LIBRARY_PATH";
            let (device, library) = (device.number(), "libcudnn");
            return Err(DeviceError::NoLibrary { device, library, help });
        }
        device.bind()?;
        let device = device.number();
        let handle = dnn::create_handle().map_err(|e| error(device, "cudnnCreate", e))?;
        Ok(Self { device, precision, handle, plans: BTreeMap::new(), workspace: (0, 0) })
    }

    /// Runs all further convolutions on a lane, with a workspace in its memory.
    pub(super) fn attach(
        &mut self,
        lane: &Lane,
        workspace: (u64, usize),
    ) -> Result<(), DeviceError> {
        self.workspace = workspace;
        // SAFETY: a live handle and stream; the backend drops this before the lane.
        let set = unsafe { dnn::set_stream(self.handle, lane.stream().cu_stream().cast()) };
        set.map_err(|e| self.error("cudnnSetStream", e))
    }

    fn error(&self, call: &'static str, status: impl std::fmt::Debug) -> DeviceError {
        error(self.device, call, status)
    }

    /// Plans a convolution for a number of images, unless that is done. Returns the size of its workspace.
    pub(super) fn prepare(&mut self, key: ConvKey, conv: &Conv) -> Result<usize, DeviceError> {
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan.workspace);
        }
        let max_workspace = if self.workspace.0 == 0 { MAX_WORKSPACE } else { self.workspace.1 };
        let plan = self.plan(conv, key.images, max_workspace);
        let plan = plan.map_err(|e| self.error("planning a convolution", e))?;
        let workspace = plan.workspace;
        self.plans.insert(key, plan);
        Ok(workspace)
    }

    fn plan(
        &self,
        conv: &Conv,
        images: usize,
        max_workspace: usize,
    ) -> Result<ConvPlan, dnn::CudnnError> {
        use sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC as NHWC;
        let (kind, math) = match self.precision {
            Precision::Bf16 => (
                sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
                sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            ),
            Precision::F16 => {
                (sys::cudnnDataType_t::CUDNN_DATA_HALF, sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH)
            }
            Precision::F32 => {
                (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnMathType_t::CUDNN_FMA_MATH)
            }
        };
        // The input of the stem is stored with its padding.
        let around = if conv.padded { 2 * conv.pad } else { 0 };
        let pad = int(if conv.padded { 0 } else { conv.pad });
        let (input, output) = (conv.input, conv.output);
        let x = dnn::create_tensor_descriptor()?;
        let y = dnn::create_tensor_descriptor()?;
        let filter = dnn::create_filter_descriptor()?;
        let descriptor = dnn::create_convolution_descriptor()?;
        let sizes = [images, input.channels, input.height + around, input.width + around].map(int);
        // SAFETY: descriptors just created, here and below.
        unsafe { dnn::set_tensor4d_descriptor(x, NHWC, kind, sizes) }?;
        let sizes = [images, output.channels, output.height, output.width].map(int);
        // SAFETY: as above.
        unsafe { dnn::set_tensor4d_descriptor(y, NHWC, kind, sizes) }?;
        let sizes = [output.channels, input.channels, conv.kernel, conv.kernel].map(int);
        // SAFETY: as above.
        unsafe { dnn::set_filter4d_descriptor(filter, kind, NHWC, sizes) }?;
        let (stride, mode) =
            (int(conv.stride), sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION);
        let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: as above.
        unsafe {
            dnn::set_convolution2d_descriptor(
                descriptor, pad, pad, stride, stride, 1, 1, mode, float,
            )
        }?;
        // SAFETY: as above.
        unsafe { dnn::set_convolution_math_type(descriptor, math) }?;
        let (forward, a) = choose!(
            sys::cudnnGetConvolutionForwardAlgorithm_v7,
            sys::cudnnConvolutionFwdAlgoPerf_t,
            max_workspace,
            self.handle,
            x,
            filter,
            descriptor,
            y
        );
        let (backward_data, b) = choose!(
            sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
            sys::cudnnConvolutionBwdDataAlgoPerf_t,
            max_workspace,
            self.handle,
            filter,
            y,
            descriptor,
            x
        );
        let (backward_filter, c) = choose!(
            sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
            sys::cudnnConvolutionBwdFilterAlgoPerf_t,
            max_workspace,
            self.handle,
            x,
            y,
            descriptor,
            filter
        );
        Ok(ConvPlan {
            x,
            y,
            filter,
            conv: descriptor,
            forward,
            backward_data,
            backward_filter,
            workspace: a.max(b).max(c),
        })
    }

    /// `y = conv(x, w)`. The addresses must be of tensors of the prepared convolution.
    pub(super) fn forward(&self, key: ConvKey, [x, w, y]: [u64; 3]) -> Result<(), DeviceError> {
        let p = &self.plans[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        // SAFETY: tensors of the planned sizes and the workspace, all in the lane's memory.
        unsafe {
            dnn::convolution_forward(
                self.handle,
                scale(&1.0),
                p.x,
                x as *const c_void,
                p.filter,
                w as *const c_void,
                p.conv,
                p.forward,
                space,
                bytes,
                scale(&0.0),
                p.y,
                y as *mut c_void,
            )
        }
        .map_err(|e| self.error("cudnnConvolutionForward", e))
    }

    /// Computes the gradient of the input, and overwrites `dx` with it or, with `adds`, adds it.
    pub(super) fn backward_data(
        &self,
        key: ConvKey,
        [dy, w, dx]: [u64; 3],
        adds: bool,
    ) -> Result<(), DeviceError> {
        let p = &self.plans[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        let beta = f32::from(u8::from(adds));
        // SAFETY: as in `forward`.
        unsafe {
            dnn::convolution_backward_data(
                self.handle,
                scale(&1.0),
                p.filter,
                w as *const c_void,
                p.y,
                dy as *const c_void,
                p.conv,
                p.backward_data,
                space,
                bytes,
                scale(&beta),
                p.x,
                dx as *mut c_void,
            )
        }
        .map_err(|e| self.error("cudnnConvolutionBackwardData", e))
    }

    /// Computes the gradient of the weights of one microbatch.
    pub(super) fn backward_filter(
        &self,
        key: ConvKey,
        [x, dy, dw]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let p = &self.plans[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        // SAFETY: as in `forward`.
        unsafe {
            dnn::convolution_backward_filter(
                self.handle,
                scale(&1.0),
                p.x,
                x as *const c_void,
                p.y,
                dy as *const c_void,
                p.conv,
                p.backward_filter,
                space,
                bytes,
                scale(&0.0),
                p.filter,
                dw as *mut c_void,
            )
        }
        .map_err(|e| self.error("cudnnConvolutionBackwardFilter", e))
    }
}

fn error(device: u32, call: &'static str, status: impl std::fmt::Debug) -> DeviceError {
    DeviceError::Driver { device, call, status: format!("{status:?}") }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        for p in self.plans.values() {
            // SAFETY: each was created once and is destroyed once. A failure has no consequence here.
            unsafe {
                dnn::destroy_tensor_descriptor(p.x).ok();
                dnn::destroy_tensor_descriptor(p.y).ok();
                dnn::destroy_filter_descriptor(p.filter).ok();
                dnn::destroy_convolution_descriptor(p.conv).ok();
            }
        }
        // SAFETY: as above.
        unsafe { dnn::destroy_handle(self.handle) }.ok();
    }
}

impl std::fmt::Debug for Cudnn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cudnn({} convolutions)", self.plans.len())
    }
}
