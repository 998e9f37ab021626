//! Convolutions by cuDNN, and the classifier's products by cuBLAS.
//!
//! The heuristics are asked once for each convolution and number of images; of what they offer the first that is
//! deterministic and whose workspace fits is taken. bf16 runs on tensor cores, f32 without TF32.

#![expect(unsafe_code, reason = "calls of cuDNN and cuBLAS")]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use cudarc::cublas::{self, result as blas, sys::cublasHandle_t};
use cudarc::cudnn::{result as dnn, sys};
use forebay::gpu::{DeviceError, Gpu, Lane};

use super::Number;
use super::pass::Key;
use crate::model::Conv;

/// What cuDNN and cuBLAS need.
pub(super) struct Convolutions {
    device: u32,
    number: Number,
    dnn: sys::cudnnHandle_t,
    blas: cublasHandle_t,
    prepared: BTreeMap<Key, Prepared>,
    /// Address and bytes.
    workspace: (u64, usize),
}

/// A convolution, ready to run.
struct Prepared {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    forward: sys::cudnnConvolutionFwdAlgo_t,
    data: sys::cudnnConvolutionBwdDataAlgo_t,
    weights: sys::cudnnConvolutionBwdFilterAlgo_t,
    workspace: usize,
}

/// A matrix product, column-major: C = A B + beta C.
pub(super) struct Product {
    /// Whether A and B are transposed.
    pub(super) transposed: [bool; 2],
    /// m, n, k.
    pub(super) sizes: [usize; 3],
    /// Addresses and leading dimensions.
    pub(super) a: (u64, usize),
    pub(super) b: (u64, usize),
    pub(super) c: (u64, usize),
    /// Whether C is f32, not as activations are.
    pub(super) wide: bool,
    pub(super) beta: f32,
}

/// Results that the heuristics may give.
const RESULTS: usize = 10;

/// Workspace of one convolution, at most.
const MOST_WORKSPACE: usize = 512 << 20;

fn int(number: usize) -> c_int {
    c_int::try_from(number).expect("sizes of tensors are below 2^31")
}

fn scale(number: &f32) -> *const c_void {
    std::ptr::from_ref(number).cast()
}

macro_rules! choose {
    ($get:path, $perf:ty, $most:expr, $($argument:expr),*) => {{
        let mut count: c_int = 0;
        // SAFETY: a C structure of numbers, for which zeros are values.
        let mut found: [$perf; RESULTS] = unsafe { std::mem::zeroed() };
        // SAFETY: live handles and descriptors, and room for as many results as are asked for.
        unsafe { $get($($argument,)* int(RESULTS), &raw mut count, found.as_mut_ptr()) }.result()?;
        let found = &found[..usize::try_from(count).unwrap_or(0)];
        let fits = |perf: &&$perf| {
            perf.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && perf.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC
                && perf.memory <= $most
        };
        let status = sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED;
        let best = found.iter().find(fits).ok_or(dnn::CudnnError(status))?;
        (best.algo, best.memory)
    }};
}

impl Convolutions {
    pub(super) fn new(device: &Gpu, number: Number) -> Result<Self, DeviceError> {
        // SAFETY: loading the libraries runs their initialisers, which is what they are for.
        let there = unsafe { [sys::is_culib_present(), cublas::sys::is_culib_present()] };
        for (there, library) in there.into_iter().zip(["libcudnn", "libcublas"]) {
            if !there {
                let help = "install CUDA 12's, and have LD_LIBRARY_PATH lead to it";
                return Err(DeviceError::NoLibrary { device: device.number(), library, help });
            }
        }
        device.bind()?;
        let failed = |status| driver(device.number(), "opening cuDNN or cuBLAS", status);
        let dnn = dnn::create_handle().map_err(|e| failed(format!("{e:?}")))?;
        let blas = blas::create_handle().map_err(|e| failed(format!("{e:?}")))?;
        let prepared = BTreeMap::new();
        Ok(Self { device: device.number(), number, dnn, blas, prepared, workspace: (0, 0) })
    }

    /// Has all work go to a lane, and use a workspace there.
    pub(super) fn attach(
        &mut self,
        lane: &Lane,
        workspace: (u64, usize),
    ) -> Result<(), DeviceError> {
        let stream = lane.stream().cu_stream();
        self.workspace = workspace;
        // SAFETY: live handles and stream; the backend drops this before the lane.
        let set = unsafe { dnn::set_stream(self.dnn, stream.cast()) };
        set.map_err(|e| self.failed("cudnnSetStream", e))?;
        // SAFETY: as above.
        let set = unsafe { blas::set_stream(self.blas, stream.cast()) };
        set.map_err(|e| self.failed("cublasSetStream", e))
    }

    fn failed(&self, call: &'static str, status: impl std::fmt::Debug) -> DeviceError {
        driver(self.device, call, format!("{status:?}"))
    }

    /// Prepares a convolution for its number of images, once; gives the workspace it needs.
    pub(super) fn prepare(&mut self, key: Key, conv: &Conv) -> Result<usize, DeviceError> {
        if let Some(prepared) = self.prepared.get(&key) {
            return Ok(prepared.workspace);
        }
        let most = if self.workspace.0 == 0 { MOST_WORKSPACE } else { self.workspace.1 };
        let prepared = self
            .describe(conv, key.2, most)
            .map_err(|e| self.failed("planning a convolution", e))?;
        let bytes = prepared.workspace;
        self.prepared.insert(key, prepared);
        Ok(bytes)
    }

    fn describe(
        &self,
        conv: &Conv,
        images: usize,
        most: usize,
    ) -> Result<Prepared, dnn::CudnnError> {
        use sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC as NHWC;
        let (kind, math) = match self.number {
            Number::Bf16 => (
                sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
                sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
            ),
            Number::F32 => {
                (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnMathType_t::CUDNN_FMA_MATH)
            }
        };
        // The images bring their zeros along.
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
            most,
            self.dnn,
            x,
            filter,
            descriptor,
            y
        );
        let (data, b) = choose!(
            sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
            sys::cudnnConvolutionBwdDataAlgoPerf_t,
            most,
            self.dnn,
            filter,
            y,
            descriptor,
            x
        );
        let (weights, c) = choose!(
            sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
            sys::cudnnConvolutionBwdFilterAlgoPerf_t,
            most,
            self.dnn,
            x,
            y,
            descriptor,
            filter
        );
        let workspace = a.max(b).max(c);
        Ok(Prepared { x, y, filter, conv: descriptor, forward, data, weights, workspace })
    }

    /// y = conv(x, w). The addresses must be of whole tensors of the prepared convolution.
    pub(super) fn forward(&self, key: Key, [x, w, y]: [u64; 3]) -> Result<(), DeviceError> {
        let p = &self.prepared[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        // SAFETY: tensors of the sizes described, in the lane's memory, as is the workspace.
        unsafe {
            dnn::convolution_forward(
                self.dnn,
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
        .map_err(|e| self.failed("cudnnConvolutionForward", e))
    }

    /// dx = gradient of the source, or adds it.
    pub(super) fn backward_data(
        &self,
        key: Key,
        [dy, w, dx]: [u64; 3],
        adds: bool,
    ) -> Result<(), DeviceError> {
        let p = &self.prepared[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        let beta = f32::from(u8::from(adds));
        // SAFETY: as in `forward`.
        unsafe {
            dnn::convolution_backward_data(
                self.dnn,
                scale(&1.0),
                p.filter,
                w as *const c_void,
                p.y,
                dy as *const c_void,
                p.conv,
                p.data,
                space,
                bytes,
                scale(&beta),
                p.x,
                dx as *mut c_void,
            )
        }
        .map_err(|e| self.failed("cudnnConvolutionBackwardData", e))
    }

    /// dw = gradient of the weights.
    pub(super) fn backward_filter(
        &self,
        key: Key,
        [x, dy, dw]: [u64; 3],
    ) -> Result<(), DeviceError> {
        let p = &self.prepared[&key];
        let (space, bytes) = (self.workspace.0 as *mut c_void, self.workspace.1);
        // SAFETY: as in `forward`.
        unsafe {
            dnn::convolution_backward_filter(
                self.dnn,
                scale(&1.0),
                p.x,
                x as *const c_void,
                p.y,
                dy as *const c_void,
                p.conv,
                p.weights,
                space,
                bytes,
                scale(&0.0),
                p.filter,
                dw as *mut c_void,
            )
        }
        .map_err(|e| self.failed("cudnnConvolutionBackwardFilter", e))
    }

    /// A product of matrices in the lane's memory.
    pub(super) fn product(&self, product: &Product) -> Result<(), DeviceError> {
        use cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use cublas::sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        let own = if self.number == Number::Bf16 { CUDA_R_16BF } else { CUDA_R_32F };
        let wide = if product.wide { CUDA_R_32F } else { own };
        let [ta, tb] = product.transposed.map(|t| if t { CUBLAS_OP_T } else { CUBLAS_OP_N });
        let [m, n, k] = product.sizes.map(int);
        let ((a, lda), (b, ldb), (c, ldc)) = (product.a, product.b, product.c);
        let compute = cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let algorithm = cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        // SAFETY: matrices of these sizes in the lane's memory.
        unsafe {
            blas::gemm_ex(
                self.blas,
                ta,
                tb,
                m,
                n,
                k,
                scale(&1.0),
                a as *const c_void,
                own,
                int(lda),
                b as *const c_void,
                own,
                int(ldb),
                scale(&product.beta),
                c as *mut c_void,
                wide,
                int(ldc),
                compute,
                algorithm,
            )
        }
        .map_err(|e| self.failed("cublasGemmEx", e))
    }
}

fn driver(device: u32, call: &'static str, status: String) -> DeviceError {
    DeviceError::Driver { device, call, status }
}

impl Drop for Convolutions {
    fn drop(&mut self) {
        for p in self.prepared.values() {
            // SAFETY: each was created once, and is destroyed here once. What cannot be destroyed has failed before.
            unsafe {
                dnn::destroy_tensor_descriptor(p.x).ok();
                dnn::destroy_tensor_descriptor(p.y).ok();
                dnn::destroy_filter_descriptor(p.filter).ok();
                dnn::destroy_convolution_descriptor(p.conv).ok();
            }
        }
        // SAFETY: as above.
        unsafe {
            dnn::destroy_handle(self.dnn).ok();
            blas::destroy_handle(self.blas).ok();
        }
    }
}

impl std::fmt::Debug for Convolutions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Convolutions({} prepared)", self.prepared.len())
    }
}
