//! cuDNN: the three convolutions of a layer, by the legacy API and by the backend API (`graph`).
//!
//! The functions of the former are those that cudarc's safe convolutions call, `cudnnFindConvolution*AlgorithmEx`, and those for
//! versions and status names. Signatures, structure layouts and numbers follow cudarc's bindings of cuDNN 9.21.
//!
//! The rules of cuDNN, from NVIDIA's manual of cuDNN 9.6, "`cudnn_cnn` Library" and "`cudnn_ops` Library"; they were not checked
//! against a GPU:
//! - Sizes that do not match are `BAD_PARAM` at the call, and so is a workspace that is too small.
//! - Work is enqueued on the stream of the handle. `alpha` and `beta` are f32 on the host for all types here, and are read at the
//!   call. The result is `alpha * new + beta * old`; if `beta` is 0, the old values are not read.
//! - The `determinism` of an algorithm in the results of Find and Get: backward data 0 and backward filter 0 and 3 use atomic adds.
//!   Here each of their calls splits its sums differently, so the last bits differ. Both functions return such an algorithm first
//!   if there is one, because the fastest algorithm is not guaranteed to be deterministic.
//! - Find measures with the caller's buffers: the contents of output and workspace are lost, and the call waits. Algorithms that
//!   need a larger workspace are listed with an allocation failure.
//! - Get and Find list an algorithm once for each math type: those that the descriptor of the convolution allows, and default math.
//!   The workspace belongs to the pair, and a call or a query takes the math type from the descriptor. The size for one math type is
//!   therefore too small for another.
//! - Default math allows TF32 for f32 from compute capability 8.0 on; `CUDNN_FMA_MATH` forbids it. f32 inputs are therefore rounded
//!   to TF32 unless FMA math is set. `ALLOW_CONVERSION` rounds them to f16.
//!
//! Stricter than cuDNN, so that correct calls here are correct there: all tensors of a call have the same type and the same packed
//! layout, NCHW or NHWC; pointers are aligned to 16 bytes; outputs, inputs and workspace do not overlap; workspaces lose their
//! contents before and after each call; inputs must have been written.
//! `NOT_SUPPORTED` here: dilation, groups, `CUDNN_CONVOLUTION` (flipped filters), half-precision sums, five dimensions, and the FFT
//! and Winograd algorithms. The times that Find reports are invented.

mod algorithm;
mod arithmetic;
mod convolution;
mod descriptor;
mod geometry;
mod graph;
mod handle;
mod problem;
mod search;

use crate::code::Code;
use crate::report::log;

/// A `cudnnStatus_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(u32);

type Answer<T = ()> = Result<T, Status>;

impl Status {
    const NOT_INITIALIZED: Self = Self(1001);
    const BAD_PARAM: Self = Self(2000);
    const NULL_POINTER: Self = Self(2002);
    const MISALIGNED: Self = Self(2003);
    const NOT_FINALIZED: Self = Self(2004);
    const ATTRIBUTE_TYPE: Self = Self(2010);
    const NOT_SUPPORTED: Self = Self(3000);
    const ARCH_MISMATCH: Self = Self(3007);
    const ALLOCATION: Self = Self(4003);
    const CUDA: Self = Self(5001);

    fn text(self) -> &'static str {
        match self.0 {
            0 => "CUDNN_STATUS_SUCCESS\0",
            1001 => "CUDNN_STATUS_NOT_INITIALIZED\0",
            2000 => "CUDNN_STATUS_BAD_PARAM\0",
            2002 => "CUDNN_STATUS_BAD_PARAM_NULL_POINTER\0",
            2003 => "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER\0",
            2004 => "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED\0",
            2010 => "CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE\0",
            3000 => "CUDNN_STATUS_NOT_SUPPORTED\0",
            3007 => "CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH\0",
            4003 => "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED\0",
            5001 => "CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER\0",
            _ => "a status that the stand-in does not return\0",
        }
    }
}

impl From<Code> for Status {
    fn from(code: Code) -> Self {
        match code {
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Self::NOT_INITIALIZED,
            Code::INVALID_HANDLE => Self::BAD_PARAM,
            _ => Self::CUDA,
        }
    }
}

/// Returns a status and prints the reason.
fn wrong<T>(status: Status, what: impl AsRef<str>) -> Answer<T> {
    log(&format!("cuDNN: {}", what.as_ref()));
    Err(status)
}

fn code(answer: Answer) -> u32 {
    answer.map_or_else(|status| status.0, |()| 0)
}
