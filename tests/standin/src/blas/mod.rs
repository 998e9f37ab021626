//! cuBLAS: matrix products.
//!
//! The functions are those for handles, modes and workspaces, and `Sgemm`, `GemmEx` and their strided batched versions, which
//! cudarc's `Gemm` calls. Signatures and numbers follow cudarc's bindings of CUDA 12.8.
//!
//! The rules of cuBLAS, from NVIDIA's cuBLAS manual; they were not checked against a GPU:
//! - Matrices are column-major. A leading dimension below the number of rows is `INVALID_VALUE` at the call.
//! - Work is enqueued on the stream of the handle. `alpha` and `beta` are read at the call. If `beta` is 0, the old C is not read;
//!   if `alpha` is 0, A and B are not.
//! - A and B have the same type; C has that type or f32. Sums are f32 (`CUBLAS_COMPUTE_32F`). f32 runs as TF32 only with
//!   `CUBLAS_COMPUTE_32F_FAST_TF32` or the math mode of the handle; the inputs are then rounded.
//! - A sum into bf16 or f16 may be split, and its parts be rounded to that type, unless the math mode has
//!   `CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION`. Here it then has two parts.
//! - `cublasSetWorkspace` requires 256-byte alignment, and `cublasSetStream` resets the workspace to the library's own one.
//!
//! Stricter than cuBLAS: C must not overlap A, B or the workspace; a workspace loses its contents before and after each product;
//! inputs must have been written.
//! `NOT_SUPPORTED` here: alpha and beta on the device, other types, sums in other types, conjugates.

mod api;
mod handle;
mod matrix;
mod product;

use crate::code::Code;
use crate::report::log;

/// A `cublasStatus_t` other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(u32);

type Answer<T = ()> = Result<T, Status>;

impl Status {
    const NOT_INITIALIZED: Self = Self(1);
    const INVALID_VALUE: Self = Self(7);
    const ARCH_MISMATCH: Self = Self(8);
    const EXECUTION_FAILED: Self = Self(13);
    const NOT_SUPPORTED: Self = Self(15);

    fn text(self) -> &'static str {
        match self.0 {
            0 => "CUBLAS_STATUS_SUCCESS\0",
            1 => "CUBLAS_STATUS_NOT_INITIALIZED\0",
            7 => "CUBLAS_STATUS_INVALID_VALUE\0",
            8 => "CUBLAS_STATUS_ARCH_MISMATCH\0",
            13 => "CUBLAS_STATUS_EXECUTION_FAILED\0",
            15 => "CUBLAS_STATUS_NOT_SUPPORTED\0",
            _ => "a status that the stand-in does not return\0",
        }
    }
}

impl From<Code> for Status {
    fn from(code: Code) -> Self {
        match code {
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Self::NOT_INITIALIZED,
            Code::INVALID_HANDLE => Self::INVALID_VALUE,
            _ => Self::EXECUTION_FAILED,
        }
    }
}

/// Returns a status and prints the reason.
fn wrong<T>(status: Status, what: impl AsRef<str>) -> Answer<T> {
    log(&format!("cuBLAS: {}", what.as_ref()));
    Err(status)
}

fn code(answer: Answer) -> u32 {
    answer.map_or_else(|status| status.0, |()| 0)
}
