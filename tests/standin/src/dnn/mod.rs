//! cuDNN: the three convolutions of a layer, through the legacy API.
//!
//! Which functions: those that cudarc's safe convolutions call, `cudnnFindConvolution*AlgorithmEx`, and versions and texts.
//! Signatures, layouts of structures and numbers follow cudarc's bindings of cuDNN 9.21.
//!
//! What it claims about cuDNN, and from where (NVIDIA's manual of cuDNN 9.6, "`cudnn_cnn` Library" and "`cudnn_ops` Library";
//! nothing was checked against a GPU):
//! - Sizes that do not fit each other are `BAD_PARAM` at the call; so is a workspace that is too small.
//! - Work is queued on the handle's stream. `alpha` and `beta` are f32 on the host for all types here and read at the call;
//!   the result is `alpha * new + beta * old`, and with `beta` 0 the old values are not read.
//! - An algorithm's `determinism` in what Find and Get return: backward data 0, backward filter 0 and 3 use atomic adds. Here each call
//!   of those splits its sums in another way, so the last bits differ. Both functions put such an algorithm first where
//!   there is one, for nothing promises that the fastest is deterministic.
//! - Find measures on the caller's buffers: the output's and the workspace's contents are lost, and the call waits. What the workspace
//!   given is too small for is listed with an allocation failure.
//! - Default math lets f32 run as TF32 from compute capability 8.0 on; `CUDNN_FMA_MATH` forbids it. So here, too, f32 inputs are
//!   rounded to TF32 unless FMA math is set.
//!
//! Stricter than cuDNN, so that what passes here is safe there: all tensors of a call have one type and one packed layout, NCHW or NHWC;
//! pointers are aligned to 16 bytes; outputs, inputs and workspace do not overlap; workspaces lose their contents before and
//! after each call; inputs were written.
//! Not here, and answered `NOT_SUPPORTED`: dilation, groups, `CUDNN_CONVOLUTION` (flipped filters), half-precision sums, five dimensions,
//! and the FFT and Winograd algorithms. Times that Find reports are made up.

mod algorithm;
mod arithmetic;
mod convolution;
mod descriptor;
mod geometry;
mod handle;
mod problem;
mod search;

use crate::code::Code;
use crate::report::say;

/// A `cudnnStatus_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(u32);

type Answer<T = ()> = Result<T, Status>;

impl Status {
    const NOT_INITIALIZED: Self = Self(1001);
    const BAD_PARAM: Self = Self(2000);
    const NULL_POINTER: Self = Self(2002);
    const MISALIGNED: Self = Self(2003);
    const NOT_SUPPORTED: Self = Self(3000);
    const ALLOCATION: Self = Self(4003);
    const CUDA: Self = Self(5001);

    fn text(self) -> &'static str {
        match self.0 {
            0 => "CUDNN_STATUS_SUCCESS\0",
            1001 => "CUDNN_STATUS_NOT_INITIALIZED\0",
            2000 => "CUDNN_STATUS_BAD_PARAM\0",
            2002 => "CUDNN_STATUS_BAD_PARAM_NULL_POINTER\0",
            2003 => "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER\0",
            3000 => "CUDNN_STATUS_NOT_SUPPORTED\0",
            4003 => "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED\0",
            5001 => "CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER\0",
            _ => "a status that the stand-in does not give\0",
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

/// A status, and why, for whoever reads the test's output.
fn wrong<T>(status: Status, what: impl AsRef<str>) -> Answer<T> {
    say(&format!("cuDNN: {}", what.as_ref()));
    Err(status)
}

fn code(answer: Answer) -> u32 {
    answer.map_or_else(|status| status.0, |()| 0)
}
