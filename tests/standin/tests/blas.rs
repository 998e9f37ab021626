//! Tests of the matrix products of cuBLAS, through cudarc.

use std::sync::Arc;

use cudarc::cublas::sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
use cudarc::cublas::sys::cublasGemmAlgo_t;
use cudarc::cublas::sys::cublasMath_t::CUBLAS_TF32_TENSOR_OP_MATH;
use cudarc::cublas::sys::cublasOperation_t::{self, CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
use cudarc::cublas::{CudaBlas, Gemm, GemmConfig, StridedBatchedConfig, result, sys};
use cudarc::driver::{CudaSlice, DevicePtr as _, DevicePtrMut as _};
use half::{bf16, f16};

use crate::data::{Real, blank, noise};
use crate::gpu::{Failure, Gpu, Outcome};

const M: usize = 5;
const N: usize = 7;
const K: usize = 33;

/// The unused rows between the columns of A, B and C.
const GAP: usize = 3;

fn config<T: Real>(
    op_a: cublasOperation_t,
    op_b: cublasOperation_t,
    gap: usize,
    beta: f32,
) -> GemmConfig<T> {
    let rows = |op, plain, transposed| if op == CUBLAS_OP_N { plain } else { transposed };
    GemmConfig {
        transa: op_a,
        transb: op_b,
        m: M as i32,
        n: N as i32,
        k: K as i32,
        alpha: T::from(0.5),
        lda: (rows(op_a, M, K) + gap) as i32,
        ldb: (rows(op_b, K, N) + gap) as i32,
        beta: T::from(beta),
        ldc: (M + gap) as i32,
    }
}

/// The number of elements of a matrix with gaps, up to its last one.
fn span(rows: usize, columns: usize, gap: usize) -> usize {
    (rows + gap) * columns - gap
}

/// Uploads a matrix column by column, so that gaps are never written.
fn upload<T: Real>(
    gpu: &Gpu,
    values: &[T],
    rows: usize,
    gap: usize,
) -> Result<CudaSlice<T>, Failure> {
    let mut on = blank(gpu, span(rows, values.len() / rows, gap))?;
    for (column, values) in values.chunks(rows).enumerate() {
        let first = column * (rows + gap);
        gpu.two.memcpy_htod(values, &mut on.slice_mut(first..first + rows))?;
    }
    Ok(on)
}

fn download<T: Real>(
    gpu: &Gpu,
    on: &CudaSlice<T>,
    rows: usize,
    gap: usize,
) -> Result<Vec<T>, Failure> {
    let mut values = Vec::new();
    for first in (0..on.len()).step_by(rows + gap) {
        values.extend(gpu.two.clone_dtoh(&on.slice(first..first + rows))?);
    }
    Ok(values)
}

/// The expected product, column-major, of stored matrices without gaps.
fn wanted<T: Real>(
    op_a: cublasOperation_t,
    op_b: cublasOperation_t,
    [a, b, c]: [&[T]; 3],
    beta: f64,
) -> Vec<f64> {
    let a_at =
        |i: usize, l: usize| if op_a == CUBLAS_OP_N { a[l * M + i] } else { a[i * K + l] }.value();
    let b_at =
        |l: usize, j: usize| if op_b == CUBLAS_OP_N { b[j * K + l] } else { b[l * N + j] }.value();
    let element = |at: usize| {
        let products = (0..K).map(|l| a_at(at % M, l) * b_at(l, at / M));
        0.5 * products.sum::<f64>() + beta * c[at].value()
    };
    (0..M * N).map(element).collect()
}

fn near<T: Real>(found: &[T], wanted: &[f64]) -> Outcome {
    for (found, wanted) in found.iter().zip(wanted) {
        let error = (found.value() - wanted).abs();
        if error > T::ROUNDING * (wanted.abs() + 4.0) || found.value().is_nan() {
            return Err(Failure(format!("{} instead of {wanted}", found.value())));
        }
    }
    Ok(())
}

fn all_orders<T: Real>(gpu: &Gpu) -> Outcome
where
    CudaBlas: Gemm<T>,
{
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let (a, b, c) = (noise::<T>(M * K, 1), noise::<T>(K * N, 2), noise::<T>(M * N, 3));
    for (op_a, op_b) in [
        (CUBLAS_OP_N, CUBLAS_OP_N),
        (CUBLAS_OP_T, CUBLAS_OP_N),
        (CUBLAS_OP_N, CUBLAS_OP_T),
        (CUBLAS_OP_T, CUBLAS_OP_T),
    ] {
        for (gap, beta) in [(0, 0.0), (GAP, -2.0)] {
            let on_a = upload(gpu, &a, if op_a == CUBLAS_OP_N { M } else { K }, gap)?;
            let on_b = upload(gpu, &b, if op_b == CUBLAS_OP_N { K } else { N }, gap)?;
            let mut on_c =
                if beta == 0.0 { blank(gpu, span(M, N, gap))? } else { upload(gpu, &c, M, gap)? };
            // SAFETY: the buffers have the sizes of the configuration.
            unsafe { blas.gemm(config(op_a, op_b, gap, beta), &on_a, &on_b, &mut on_c)? };
            let wanted = wanted(op_a, op_b, [&a, &b, &c], f64::from(beta));
            near(&download(gpu, &on_c, M, gap)?, &wanted)?;
        }
    }
    Ok(())
}

pub(crate) fn products(gpu: &Gpu) -> Outcome {
    all_orders::<f32>(gpu)?;
    all_orders::<f16>(gpu)?;
    all_orders::<bf16>(gpu)
}

pub(crate) fn batches(gpu: &Gpu) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let (a, b) = (noise::<f32>(3 * M * K, 1), noise::<f32>(K * N, 2));
    let (on_a, on_b) = (gpu.two.clone_htod(&a)?, gpu.two.clone_htod(&b)?);
    let mut on_c = blank(gpu, 3 * M * N)?;
    let gemm = config(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0);
    let (stride_a, stride_c) = ((M * K) as i64, (M * N) as i64);
    let batch = StridedBatchedConfig { gemm, batch_size: 3, stride_a, stride_b: 0, stride_c };
    // SAFETY: the buffers have the sizes of the configuration.
    unsafe { blas.gemm_strided_batched(batch, &on_a, &on_b, &mut on_c)? };
    let c = gpu.two.clone_dtoh(&on_c)?;
    for (a, c) in a.chunks(M * K).zip(c.chunks(M * N)) {
        near(c, &wanted(CUBLAS_OP_N, CUBLAS_OP_N, [a, &b, c], 0.0))?;
    }
    Ok(())
}

/// bf16 inputs and f32 output with the caller's workspace, as for the gradient of a fully connected layer.
pub(crate) fn bf16_into_f32(gpu: &Gpu) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let workspace = blank::<u8>(gpu, 4096)?;
    let (a, b) = (noise::<bf16>(M * K, 1), noise::<bf16>(K * N, 2));
    let (on_a, on_b) = (gpu.two.clone_htod(&a)?, gpu.two.clone_htod(&b)?);
    let mut on_c = blank::<f32>(gpu, M * N)?;
    let config = config::<f32>(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0);
    // SAFETY: the buffers have the given sizes, and live until the copy below.
    unsafe {
        let at = workspace.device_ptr(&gpu.two).0 as *mut _;
        sys::cublasSetWorkspace_v2(*blas.handle(), at, workspace.len()).result()?;
        result::gemm_ex(
            *blas.handle(),
            config.transa,
            config.transb,
            config.m,
            config.n,
            config.k,
            (&raw const config.alpha).cast(),
            on_a.device_ptr(&gpu.two).0 as *const _,
            CUDA_R_16BF,
            config.lda,
            on_b.device_ptr(&gpu.two).0 as *const _,
            CUDA_R_16BF,
            config.ldb,
            (&raw const config.beta).cast(),
            on_c.device_ptr_mut(&gpu.two).0 as *mut _,
            CUDA_R_32F,
            config.ldc,
            CUBLAS_COMPUTE_32F,
            cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )?;
    }
    let nothing = vec![bf16::ZERO; M * N];
    near(&gpu.two.clone_dtoh(&on_c)?, &wanted(CUBLAS_OP_N, CUBLAS_OP_N, [&a, &b, &nothing], 0.0))
}

/// f32 is computed in f32, unless TF32 is enabled.
pub(crate) fn tf32_is_opt_in(gpu: &Gpu) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let a = gpu.two.clone_htod(&noise::<f32>(M * K, 1))?;
    let b = gpu.two.clone_htod(&noise::<f32>(K * N, 2))?;
    let product = || {
        let mut c = blank(gpu, M * N)?;
        // SAFETY: the buffers have the sizes of the configuration.
        unsafe { blas.gemm(config(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0), &a, &b, &mut c)? };
        Ok::<_, Failure>(gpu.two.clone_dtoh(&c)?)
    };
    let exact = product()?;
    // SAFETY: the handle is valid.
    unsafe { sys::cublasSetMathMode(*blas.handle(), CUBLAS_TF32_TENSOR_OP_MATH).result()? };
    if product()? == exact { Err(Failure("TF32 changes nothing".to_owned())) } else { Ok(()) }
}

// Mistakes.

fn product(gpu: &Gpu, change: impl FnOnce(&mut GemmConfig<f32>), [a, b, c]: [usize; 3]) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let (a, b) =
        (gpu.two.clone_htod(&noise::<f32>(a, 1))?, gpu.two.clone_htod(&noise::<f32>(b, 2))?);
    let mut config = config(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0);
    change(&mut config);
    // SAFETY: none; the sizes are wrong, which is the case.
    unsafe { blas.gemm(config, &a, &b, &mut blank(gpu, c)?)? };
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn leading_dimension_is_small(gpu: &Gpu) -> Outcome {
    product(gpu, |config| config.lda -= 1, [M * K, K * N, M * N])
}

pub(crate) fn product_is_short(gpu: &Gpu) -> Outcome {
    product(gpu, |_| (), [M * K, K * N, M * N - 1])
}

pub(crate) fn factor_is_short(gpu: &Gpu) -> Outcome {
    product(gpu, |_| (), [M * K, K * N - 1, M * N])
}

pub(crate) fn no_event_before_cublas(gpu: &Gpu) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let b = gpu.two.clone_htod(&noise::<f32>(K * N, 2))?;
    let mut a = gpu.blank(M * K)?;
    gpu.one.synchronize()?;
    gpu.one.memcpy_htod(&noise::<f32>(M * K, 1), &mut a)?;
    // SAFETY: the buffers have the sizes of the configuration.
    unsafe {
        blas.gemm(config(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0), &a, &b, &mut blank(gpu, M * N)?)?;
    }
    Ok(gpu.two.synchronize()?)
}

pub(crate) fn product_is_a_factor(gpu: &Gpu) -> Outcome {
    let blas = CudaBlas::new(Arc::clone(&gpu.two))?;
    let mut a = gpu.two.clone_htod(&noise::<f32>(K * K, 1))?;
    let config = GemmConfig {
        m: K as i32,
        n: K as i32,
        lda: K as i32,
        ldb: K as i32,
        ldc: K as i32,
        ..config::<f32>(CUBLAS_OP_N, CUBLAS_OP_N, 0, 0.0)
    };
    let at = a.device_ptr_mut(&gpu.two).0;
    // SAFETY: none; one buffer is used for all three, which is the case.
    unsafe {
        result::sgemm(
            *blas.handle(),
            config.transa,
            config.transb,
            config.m,
            config.n,
            config.k,
            &raw const config.alpha,
            at as *const _,
            config.lda,
            at as *const _,
            config.ldb,
            &raw const config.beta,
            at as *mut _,
            config.ldc,
        )?;
    }
    Ok(gpu.two.synchronize()?)
}
