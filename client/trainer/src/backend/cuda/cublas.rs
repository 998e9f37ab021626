//! Matrix products by cuBLAS.

#![expect(unsafe_code, reason = "calls of cuBLAS")]

use std::ffi::{c_int, c_void};
use std::ops::Range;

use cudarc::cublas::result as blas;
use cudarc::cublas::sys::{self, cublasHandle_t};
use forebay::gpu::{DeviceError, Gpu, Lane, Library};

use super::Precision;

/// The math mode in which sums are f32 to the end. The default math is 0, to which this flag is added.
const EXACT_SUMS: sys::cublasMath_t =
    sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;

/// A handle of cuBLAS on a lane.
pub(super) struct Cublas {
    device: u32,
    precision: Precision,
    handle: cublasHandle_t,
}

/// A column-major matrix product: `C = A B + beta C`.
pub(super) struct Gemm {
    /// Whether A and B are transposed.
    pub(super) transposed: [bool; 2],
    /// m, n and k.
    pub(super) sizes: [usize; 3],
    /// Addresses and leading dimensions.
    pub(super) a: (u64, usize),
    pub(super) b: (u64, usize),
    pub(super) c: (u64, usize),
    /// Whether C is f32; otherwise it has the precision of activations, as A and B.
    pub(super) c_is_f32: bool,
    pub(super) beta: f32,
}

fn int(size: usize) -> c_int {
    c_int::try_from(size).expect("sizes of matrices are below 2^31")
}

impl Cublas {
    pub(super) fn open(device: &Gpu, precision: Precision) -> Result<Self, DeviceError> {
        device.require(&[Library::Cublas])?;
        device.bind()?;
        let device = device.number();
        let handle = blas::create_handle().map_err(|e| error(device, "cublasCreate", e))?;
        let cublas = Self { device, precision, handle };
        // By default cuBLAS may split a sum, and add its parts in the type of the result, which is bf16 or f16.
        // SAFETY: a live handle.
        let set = unsafe { sys::cublasSetMathMode(handle, EXACT_SUMS) }.result();
        set.map_err(|e| error(device, "cublasSetMathMode", e))?;
        Ok(cublas)
    }

    /// Runs all further products on a lane, with a workspace in its memory.
    pub(super) fn attach(
        &mut self,
        lane: &Lane,
        workspace: Range<usize>,
    ) -> Result<(), DeviceError> {
        // SAFETY: a live handle and stream; the backend drops this before the lane.
        let set = unsafe { blas::set_stream(self.handle, lane.stream().cu_stream().cast()) };
        set.map_err(|e| error(self.device, "cublasSetStream", e))?;
        let (space, bytes) = (lane.address(workspace.clone()) as *mut c_void, workspace.len());
        // SAFETY: memory of the lane, which nothing else uses.
        let set = unsafe { sys::cublasSetWorkspace_v2(self.handle, space, bytes) }.result();
        set.map_err(|e| error(self.device, "cublasSetWorkspace", e))
    }

    /// Multiplies matrices in the lane's memory.
    pub(super) fn gemm(&self, gemm: &Gemm) -> Result<(), DeviceError> {
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_16F, CUDA_R_32F};
        let input = match self.precision {
            Precision::Bf16 => CUDA_R_16BF,
            Precision::F16 => CUDA_R_16F,
            Precision::F32 => CUDA_R_32F,
        };
        let output = if gemm.c_is_f32 { CUDA_R_32F } else { input };
        let [ta, tb] = gemm.transposed.map(|t| if t { CUBLAS_OP_T } else { CUBLAS_OP_N });
        let [m, n, k] = gemm.sizes.map(int);
        let ((a, lda), (b, ldb), (c, ldc)) = (gemm.a, gemm.b, gemm.c);
        let alpha = 1.0_f32;
        // SAFETY: matrices of these sizes in the lane's memory.
        let done = unsafe {
            blas::gemm_ex(
                self.handle,
                ta,
                tb,
                m,
                n,
                k,
                std::ptr::from_ref(&alpha).cast(),
                a as *const c_void,
                input,
                int(lda),
                b as *const c_void,
                input,
                int(ldb),
                std::ptr::from_ref(&gemm.beta).cast(),
                c as *mut c_void,
                output,
                int(ldc),
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|e| error(self.device, "cublasGemmEx", e))
    }
}

fn error(device: u32, call: &'static str, status: impl std::fmt::Debug) -> DeviceError {
    DeviceError::Driver { device, call, status: format!("{status:?}") }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle was created once and is destroyed once. A failure has no consequence here.
        unsafe { blas::destroy_handle(self.handle) }.ok();
    }
}

impl std::fmt::Debug for Cublas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cublas").finish_non_exhaustive()
    }
}
