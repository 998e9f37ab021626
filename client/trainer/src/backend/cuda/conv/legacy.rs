//! Convolutions by cuDNN's legacy API.
//!
//! The heuristics list algorithms, best first, each with the math that it is for: the workspace belongs to both. So
//! each direction has a convolution descriptor of its own with the math of its algorithm, and the workspace is asked
//! for again with it.

#![expect(unsafe_code, reason = "calls of cuDNN")]

use std::ffi::{c_int, c_void};
use std::fmt;

use cudarc::cudnn::{result as dnn, sys};
use forebay::gpu::DeviceError;
use sys::cudnnMathType_t as Math;

use super::case::{ConvCase, Direction, Operands};
use super::library::Handle;
use super::refusal::Refusal;
use crate::backend::cuda::Precision;

/// Maximum number of algorithms that the heuristics return. Each of the at most eight is listed once for each math.
const MAX_ALGORITHMS: usize = 32;

/// The descriptors and the algorithm of a convolution.
pub(super) struct LegacyPlan {
    descriptors: Descriptors,
    direction: Direction,
    beta: f32,
    algorithm: Algorithm,
    math: Math,
    /// Bytes of workspace.
    pub(super) workspace: usize,
}

/// An algorithm of one direction.
#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Data(sys::cudnnConvolutionBwdDataAlgo_t),
    Filter(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// An entry of the list of the heuristics.
#[derive(Clone, Copy, Debug)]
struct Offer {
    algorithm: Algorithm,
    math: Math,
    usable: bool,
    deterministic: bool,
}

/// The descriptors of a convolution in one direction.
struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    filter: sys::cudnnFilterDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

fn int(size: usize) -> c_int {
    c_int::try_from(size).expect("sizes of tensors are below 2^31")
}

fn refused(doing: &'static str) -> impl Fn(dnn::CudnnError) -> Refusal {
    move |status| Refusal(format!("{status} when {doing}"))
}

/// A scaling factor, as cuDNN takes it.
fn scale(factor: &f32) -> *const c_void {
    std::ptr::from_ref(factor).cast()
}

/// Lists the algorithms of one direction.
macro_rules! offers {
    ($get:path, $perf:ty, $direction:path, $($argument:expr),*) => {{
        let mut count: c_int = 0;
        // SAFETY: a C structure of numbers, for which all zeros are valid.
        let mut found: [$perf; MAX_ALGORITHMS] = unsafe { std::mem::zeroed() };
        let room = int(MAX_ALGORITHMS);
        // SAFETY: live handles and descriptors, and room for the number of results that is passed.
        unsafe { $get($($argument,)* room, &raw mut count, found.as_mut_ptr()) }
            .result()
            .map_err(refused("asking for algorithms"))?;
        let count = usize::try_from(count).unwrap_or(0).min(MAX_ALGORITHMS);
        let offer = |perf: &$perf| Offer {
            algorithm: $direction(perf.algo),
            math: perf.mathType,
            usable: perf.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
            deterministic: perf.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
        };
        found[..count].iter().map(offer).collect()
    }};
}

/// The math with which an entry is used, or `None` if it rounds the inputs.
///
/// In f32 only FMA is exact: DEFAULT permits TF32 from compute capability 8.0 on. An entry for DEFAULT math is used
/// with FMA, if cuDNN then supports its algorithm.
fn math_for(offered: Math, precision: Precision) -> Option<Math> {
    match (precision, offered) {
        (Precision::F32, Math::CUDNN_FMA_MATH | Math::CUDNN_DEFAULT_MATH) => {
            Some(Math::CUDNN_FMA_MATH)
        }
        (_, Math::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION) | (Precision::F32, _) => None,
        (Precision::Bf16 | Precision::F16, math) => Some(math),
    }
}

impl Algorithm {
    /// Whether the algorithm is an FFT or Winograd's, whose sums are not within the tolerance of `selftest.rs`.
    fn transforms(self) -> bool {
        let name = format!("{self:?}");
        name.contains("FFT") || name.contains("WINOGRAD")
    }
}

impl LegacyPlan {
    /// Plans with the first suitable algorithm. Those that need more than `limit` bytes of workspace are passed over.
    /// If there is no other, and without `strict`, the one that needs least is used.
    pub(super) fn new(
        handle: &Handle,
        case: &ConvCase,
        precision: Precision,
        (limit, strict): (usize, bool),
    ) -> Result<Self, Refusal> {
        let descriptors = Descriptors::new(case, precision)?;
        let first = match precision {
            Precision::Bf16 | Precision::F16 => Math::CUDNN_TENSOR_OP_MATH,
            Precision::F32 => Math::CUDNN_FMA_MATH,
        };
        descriptors.set_math(first)?;
        let (mut passed_over, mut smallest) = (Vec::new(), None::<(usize, Offer)>);
        let mut chosen = None;
        for offer in descriptors.offers(handle, case.direction)? {
            let name = format!("{:?} with {:?}", offer.algorithm, offer.math);
            let math = math_for(offer.math, precision);
            let problem = match math {
                _ if !offer.usable => Some("not supported"),
                _ if !offer.deterministic => Some("not deterministic"),
                _ if offer.algorithm.transforms() => Some("transforms its inputs"),
                None => Some("rounds its inputs"),
                Some(_) => None,
            };
            let (Some(math), None) = (math, problem) else {
                passed_over.push(format!("{name}: {}", problem.unwrap_or("not supported")));
                continue;
            };
            let offer = Offer { math, ..offer };
            let bytes = descriptors
                .set_math(math)
                .and_then(|()| descriptors.workspace(handle, offer.algorithm));
            match bytes {
                Err(refusal) => passed_over.push(format!("{name}: {refusal}")),
                Ok(bytes) if bytes > limit => {
                    passed_over.push(format!("{name}: {bytes} bytes"));
                    if smallest.is_none_or(|(other, _)| bytes < other) {
                        smallest = Some((bytes, offer));
                    }
                }
                Ok(bytes) => {
                    chosen = Some((bytes, offer));
                    break;
                }
            }
        }
        let chosen = chosen.or(smallest.filter(|_| !strict));
        let (workspace, offer) = chosen.ok_or_else(|| Refusal::of_all(&passed_over, limit))?;
        let Offer { algorithm, math, .. } = offer;
        descriptors.set_math(math)?;
        let (direction, beta) = (case.direction, case.beta());
        Ok(Self { descriptors, direction, beta, algorithm, math, workspace })
    }

    /// Launches the convolution.
    pub(super) fn launch(
        &self,
        handle: &Handle,
        operands: Operands,
        workspace: u64,
    ) -> Result<(), DeviceError> {
        let Descriptors { x: xd, y: yd, filter, conv } = self.descriptors;
        let Operands { x, w, y } = operands;
        let [x, w, y, space] = [x, w, y, workspace].map(|address| address as *mut c_void);
        let (raw, bytes) = (handle.raw, self.workspace);
        let (alpha, beta) = (scale(&1.0), scale(&self.beta));
        // SAFETY: the caller passes addresses of tensors of the planned sizes, and a workspace of at least the size
        // that the plan needs, in the memory of the lane to which the handle is attached.
        let launched = unsafe {
            match self.algorithm {
                Algorithm::Forward(algorithm) => dnn::convolution_forward(
                    raw, alpha, xd, x, filter, w, conv, algorithm, space, bytes, beta, yd, y,
                ),
                Algorithm::Data(algorithm) => dnn::convolution_backward_data(
                    raw, alpha, filter, w, yd, y, conv, algorithm, space, bytes, beta, xd, x,
                ),
                Algorithm::Filter(algorithm) => dnn::convolution_backward_filter(
                    raw, alpha, xd, x, yd, y, conv, algorithm, space, bytes, beta, filter, w,
                ),
            }
        };
        let call = match self.direction {
            Direction::Forward => "cudnnConvolutionForward",
            Direction::BackwardData { .. } => "cudnnConvolutionBackwardData",
            Direction::BackwardFilter => "cudnnConvolutionBackwardFilter",
        };
        launched.map_err(|status| handle.error(call, &status))
    }
}

impl fmt::Display for LegacyPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { algorithm, math, workspace, .. } = self;
        write!(f, "legacy API, {algorithm:?} with {math:?}, {workspace} bytes of workspace")
    }
}

impl Descriptors {
    fn new(case: &ConvCase, precision: Precision) -> Result<Self, Refusal> {
        let refused = refused("describing the convolution");
        let (x, y) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mut made = Self { x, y, filter: std::ptr::null_mut(), conv: std::ptr::null_mut() };
        made.x = dnn::create_tensor_descriptor().map_err(&refused)?;
        made.y = dnn::create_tensor_descriptor().map_err(&refused)?;
        made.filter = dnn::create_filter_descriptor().map_err(&refused)?;
        made.conv = dnn::create_convolution_descriptor().map_err(&refused)?;
        let nhwc = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let kind = match precision {
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            Precision::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            Precision::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let [x, w, y] = [case.x_sizes(), case.w_sizes(), case.y_sizes()].map(|s| s.map(int));
        let (pad, stride) = (int(case.pad()), int(case.conv.stride));
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let float = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: descriptors just created.
        unsafe {
            dnn::set_tensor4d_descriptor(made.x, nhwc, kind, x).map_err(&refused)?;
            dnn::set_tensor4d_descriptor(made.y, nhwc, kind, y).map_err(&refused)?;
            dnn::set_filter4d_descriptor(made.filter, kind, nhwc, w).map_err(&refused)?;
            dnn::set_convolution2d_descriptor(
                made.conv, pad, pad, stride, stride, 1, 1, mode, float,
            )
            .map_err(&refused)?;
        }
        Ok(made)
    }

    fn set_math(&self, math: Math) -> Result<(), Refusal> {
        // SAFETY: a live descriptor.
        let set = unsafe { dnn::set_convolution_math_type(self.conv, math) };
        set.map_err(refused("setting the math"))
    }

    /// The algorithms that the heuristics list, best first.
    fn offers(&self, handle: &Handle, direction: Direction) -> Result<Vec<Offer>, Refusal> {
        let Self { x, y, filter, conv } = *self;
        Ok(match direction {
            Direction::Forward => offers!(
                sys::cudnnGetConvolutionForwardAlgorithm_v7,
                sys::cudnnConvolutionFwdAlgoPerf_t,
                Algorithm::Forward,
                handle.raw,
                x,
                filter,
                conv,
                y
            ),
            Direction::BackwardData { .. } => offers!(
                sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                Algorithm::Data,
                handle.raw,
                filter,
                y,
                conv,
                x
            ),
            Direction::BackwardFilter => offers!(
                sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                Algorithm::Filter,
                handle.raw,
                x,
                y,
                conv,
                filter
            ),
        })
    }

    /// Bytes of workspace of an algorithm with the math that is set.
    fn workspace(&self, handle: &Handle, algorithm: Algorithm) -> Result<usize, Refusal> {
        let Self { x, y, filter, conv } = *self;
        let raw = handle.raw;
        // SAFETY: live handles and descriptors.
        let bytes = unsafe {
            match algorithm {
                Algorithm::Forward(algorithm) => {
                    dnn::get_convolution_forward_workspace_size(raw, x, filter, conv, y, algorithm)
                }
                Algorithm::Data(algorithm) => dnn::get_convolution_backward_data_workspace_size(
                    raw, filter, y, conv, x, algorithm,
                ),
                Algorithm::Filter(algorithm) => {
                    dnn::get_convolution_backward_filter_workspace_size(
                        raw, x, y, conv, filter, algorithm,
                    )
                }
            }
        };
        bytes.map_err(refused("asking for the workspace"))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: each is null or was created once, and is destroyed once. A failure has no consequence here.
        unsafe {
            if !self.x.is_null() {
                dnn::destroy_tensor_descriptor(self.x).ok();
            }
            if !self.y.is_null() {
                dnn::destroy_tensor_descriptor(self.y).ok();
            }
            if !self.filter.is_null() {
                dnn::destroy_filter_descriptor(self.filter).ok();
            }
            if !self.conv.is_null() {
                dnn::destroy_convolution_descriptor(self.conv).ok();
            }
        }
    }
}
