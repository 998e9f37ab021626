// f32 and f64 arithmetic with each rounding mode, one output row for each operation.
#define ROW(k) out[(k) * n + i]

extern "C" __global__ void exact(const float *a, const float *b, const float *c, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = a[i], y = b[i], z = c[i];
    ROW(0) = __fadd_rn(x, y);
    ROW(1) = __fadd_rz(x, y);
    ROW(2) = __fadd_rd(x, y);
    ROW(3) = __fadd_ru(x, y);
    ROW(4) = __fmul_rn(x, y);
    ROW(5) = __fmul_rz(x, y);
    ROW(6) = __fmul_rd(x, y);
    ROW(7) = __fmul_ru(x, y);
    ROW(8) = __fmaf_rn(x, y, z);
    ROW(9) = __fmaf_rz(x, y, z);
    ROW(10) = __fmaf_rd(x, y, z);
    ROW(11) = __fmaf_ru(x, y, z);
    ROW(12) = __fdiv_rn(x, y);
    ROW(13) = __fdiv_rz(x, y);
    ROW(14) = __fdiv_rd(x, y);
    ROW(15) = __fdiv_ru(x, y);
    ROW(16) = __fsqrt_rn(fabsf(x));
    ROW(17) = __fsqrt_rz(fabsf(x));
    ROW(18) = __fsqrt_ru(fabsf(x));
    ROW(19) = __frcp_rn(x);
    ROW(20) = __frcp_rd(x);
    ROW(21) = __fsub_rn(x, y);
    ROW(22) = fminf(x, y);
    ROW(23) = fmaxf(x, y);
    ROW(24) = copysignf(x, y);
    ROW(25) = floorf(x);
    ROW(26) = ceilf(x);
    ROW(27) = truncf(x);
    ROW(28) = rintf(x);
    ROW(29) = -fabsf(x);
    ROW(30) = __saturatef(x);
    ROW(31) = x < y ? z : x;
    ROW(32) = x != y ? 1.f : 0.f;
    ROW(33) = x >= y || z > x ? 1.f : 0.f;
    ROW(34) = isnan(x) ? 1.f : isinf(x) ? 2.f : isfinite(x) ? 3.f : 4.f;
    ROW(35) = !(x <= y) ? 1.f : 0.f;
}

// Flushed subnormals: the instructions that -ftz=true compiles to.
extern "C" __global__ void flushed(const float *a, const float *b, const float *c, float *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    float x = a[i], y = b[i], z = c[i], r;
    asm("add.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(0) = r;
    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(1) = r;
    asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(x), "f"(y), "f"(z));
    ROW(2) = r;
    asm("max.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(3) = r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(4) = r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(5) = r;
    asm("{.reg .pred p; setp.gt.ftz.f32 p, %1, 0f00000000; selp.f32 %0, 0f3F800000, 0f00000000, p;}" : "=f"(r) : "f"(x));
    ROW(6) = r;
    asm("add.sat.f32 %0, %1, %2;" : "=f"(r) : "f"(x), "f"(y));
    ROW(7) = r;
    asm("{.reg .pred p; testp.subnormal.f32 p, %1; selp.f32 %0, 0f3F800000, 0f00000000, p;}" : "=f"(r) : "f"(x));
    ROW(8) = r;
    asm("slct.f32.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(x), "f"(y), "f"(z));
    ROW(9) = r;
}

extern "C" __global__ void doubles(const double *a, const double *b, const double *c, double *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    double x = a[i], y = b[i], z = c[i];
    ROW(0) = x + y;
    ROW(1) = __dmul_rn(x, y);
    ROW(2) = fma(x, y, z);
    ROW(3) = x / y;
    ROW(4) = sqrt(fabs(x));
    ROW(5) = fmin(x, y);
    ROW(6) = fmax(x, z);
    ROW(7) = floor(x);
    ROW(8) = (double)(float)x;
    ROW(9) = (double)(long long)y;
    ROW(10) = x < y ? z : -x;
    ROW(11) = 1.0 / y;
    ROW(12) = __dadd_rz(x, y);
    ROW(13) = __dmul_ru(x, y);
    ROW(14) = rint(x);
    ROW(15) = copysign(x, z);
}

// The library functions of the trainer's kernels.
extern "C" __global__ void library(const float *a, const float *b, float *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    float x = a[i], y = b[i];
    ROW(0) = expf(x);
    ROW(1) = logf(fabsf(x));
    ROW(2) = log1pf(fabsf(x));
    ROW(3) = expm1f(x);
    ROW(4) = rsqrtf(fabsf(x));
    ROW(5) = tanhf(x);
    ROW(6) = powf(fabsf(x), y);
    ROW(7) = sinf(x);
    ROW(8) = cosf(x * 1000.f);
    ROW(9) = exp2f(x);
    ROW(10) = log2f(fabsf(x));
    ROW(11) = cbrtf(x);
    ROW(12) = erff(x);
    ROW(13) = fmodf(x, y);
    ROW(14) = hypotf(x, y);
    ROW(15) = __expf(x);
    ROW(16) = __logf(fabsf(x));
    ROW(17) = __fdividef(x, y);
    ROW(18) = 1.f / (1.f + __expf(-x));
    ROW(19) = roundf(x);
    ROW(20) = atan2f(x, y);
    ROW(21) = sqrtf(fabsf(x)) / (y + 2.f);
    ROW(22) = ldexpf(x, 3);
    ROW(23) = __sinf(x);
    ROW(24) = __cosf(x);
    ROW(25) = __powf(fabsf(x), y);
    ROW(26) = (float)log((double)fabsf(x));
    ROW(27) = (float)exp((double)x);
}

// Both are rounded twice here. ptxas may fuse the first one, but not the second.
extern "C" __global__ void fusible(const float *a, float *out) {
    float product = a[0] * a[1];
    out[0] = product + a[2]; // !fusible
    out[1] = product;
}

extern "C" __global__ void separate(const float *a, float *out) {
    float product = __fmul_rn(a[0], a[1]);
    out[0] = product + a[2];
    out[1] = product;
}
