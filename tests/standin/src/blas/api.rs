//! The matrix products under their C names.

use std::ffi::{c_int, c_longlong};

use super::product::{COMPUTE_32F, Call, Given};

fn given(address: u64, kind: u32, leading: c_int, stride: c_longlong) -> Given {
    Given { address, kind, leading, stride }
}

#[unsafe(no_mangle)]
extern "C" fn cublasSgemm_v2(
    handle: usize,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: Option<&f32>,
    a: u64,
    lda: c_int,
    b: u64,
    ldb: c_int,
    beta: Option<&f32>,
    c: u64,
    ldc: c_int,
) -> u32 {
    cublasGemmEx(
        handle,
        op_a,
        op_b,
        m,
        n,
        k,
        alpha,
        a,
        0,
        lda,
        b,
        0,
        ldb,
        beta,
        c,
        0,
        ldc,
        COMPUTE_32F,
        -1,
    )
}

#[unsafe(no_mangle)]
extern "C" fn cublasSgemmStridedBatched(
    handle: usize,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: Option<&f32>,
    a: u64,
    lda: c_int,
    stride_a: c_longlong,
    b: u64,
    ldb: c_int,
    stride_b: c_longlong,
    beta: Option<&f32>,
    c: u64,
    ldc: c_int,
    stride_c: c_longlong,
    batch: c_int,
) -> u32 {
    let matrices =
        [given(a, 0, lda, stride_a), given(b, 0, ldb, stride_b), given(c, 0, ldc, stride_c)];
    let scales = [alpha.copied(), beta.copied()];
    let call = Call {
        transposed: [op_a, op_b],
        sizes: [m, n, k],
        scales,
        matrices,
        batch,
        compute: COMPUTE_32F,
    };
    call.queue(handle)
}

#[unsafe(no_mangle)]
extern "C" fn cublasGemmEx(
    handle: usize,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: Option<&f32>,
    a: u64,
    a_kind: u32,
    lda: c_int,
    b: u64,
    b_kind: u32,
    ldb: c_int,
    beta: Option<&f32>,
    c: u64,
    c_kind: u32,
    ldc: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let matrices = [given(a, a_kind, lda, 0), given(b, b_kind, ldb, 0), given(c, c_kind, ldc, 0)];
    let scales = [alpha.copied(), beta.copied()];
    let call =
        Call { transposed: [op_a, op_b], sizes: [m, n, k], scales, matrices, batch: 1, compute };
    call.queue(handle)
}

#[unsafe(no_mangle)]
extern "C" fn cublasGemmStridedBatchedEx(
    handle: usize,
    op_a: u32,
    op_b: u32,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: Option<&f32>,
    a: u64,
    a_kind: u32,
    lda: c_int,
    stride_a: c_longlong,
    b: u64,
    b_kind: u32,
    ldb: c_int,
    stride_b: c_longlong,
    beta: Option<&f32>,
    c: u64,
    c_kind: u32,
    ldc: c_int,
    stride_c: c_longlong,
    batch: c_int,
    compute: u32,
    _algorithm: c_int,
) -> u32 {
    let matrices = [
        given(a, a_kind, lda, stride_a),
        given(b, b_kind, ldb, stride_b),
        given(c, c_kind, ldc, stride_c),
    ];
    let scales = [alpha.copied(), beta.copied()];
    let call =
        Call { transposed: [op_a, op_b], sizes: [m, n, k], scales, matrices, batch, compute };
    call.queue(handle)
}
