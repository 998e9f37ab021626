// Conversions between widths and kinds.
#define ROW(k) out[(k) * n + i]

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

#define CVT(k, op, T, R, type)                         \
    {                                                  \
        type r;                                        \
        asm(op " %0, %1;" : "=" R(r) : T(x));          \
        ROW(k) = (u32)r;                               \
    }

// From f32 to every stored type; results as bits.
extern "C" __global__ void from_float(const float *a, u32 *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = a[i];
    CVT(0, "cvt.rn.bf16.f32", "f", "h", u16)
    CVT(1, "cvt.rz.bf16.f32", "f", "h", u16)
    CVT(2, "cvt.rn.f16.f32", "f", "h", u16)
    CVT(3, "cvt.rz.f16.f32", "f", "h", u16)
    CVT(4, "cvt.rm.f16.f32", "f", "h", u16)
    CVT(5, "cvt.rp.f16.f32", "f", "h", u16)
    CVT(6, "cvt.rni.s32.f32", "f", "r", u32)
    CVT(7, "cvt.rzi.s32.f32", "f", "r", u32)
    CVT(8, "cvt.rmi.s32.f32", "f", "r", u32)
    CVT(9, "cvt.rpi.s32.f32", "f", "r", u32)
    CVT(10, "cvt.rni.u32.f32", "f", "r", u32)
    CVT(11, "cvt.rni.sat.u8.f32", "f", "r", u32)
    CVT(12, "cvt.rzi.u16.f32", "f", "h", u16)
    CVT(13, "cvt.rn.relu.bf16.f32", "f", "h", u16)
    CVT(14, "cvt.rna.tf32.f32", "f", "r", u32)
    ROW(15) = (u32)(u8)fminf(fmaxf(x, 0.f), 255.f);
    ROW(16) = (u32)__float2int_rn(x);
    ROW(17) = (u32)((u64)__float2ull_rz(x) >> 8);
    ROW(18) = (u32)((long long)x >> 8);
    ROW(19) = __float_as_uint(x) >> 16;
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(x), "f"(-x));
    ROW(20) = packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(x), "f"(x * 3.f));
    ROW(21) = packed;
    // bf16 by bits, rounded to nearest even, as in kernels without headers.
    u32 bits = __float_as_uint(x);
    ROW(22) = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

extern "C" __global__ void to_float(const u32 *a, float *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    u32 x = a[i];
    u64 wide = ((u64)x << 21) ^ x;
    u16 half = (u16)x;
    float r;
    ROW(0) = (float)x;
    ROW(1) = (float)(int)x;
    ROW(2) = __uint2float_rz(x);
    ROW(3) = __uint2float_ru(x);
    ROW(4) = __int2float_rd((int)x);
    ROW(5) = (float)(u8)x;
    ROW(6) = (float)(signed char)x;
    ROW(7) = (float)half;
    ROW(8) = (float)wide;
    ROW(9) = __ull2float_rz(wide);
    ROW(10) = (float)(long long)(wide << 9);
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(half));
    ROW(11) = r;
    ROW(12) = __uint_as_float(x << 16);
    ROW(13) = (float)((double)wide * 0.5);
    asm("{.reg .b16 lo, hi; mov.b32 {lo, hi}, %1; cvt.f32.f16 %0, hi;}" : "=f"(r) : "r"(x));
    ROW(14) = r;
    ROW(15) = (float)((int)(x << 8) >> 24);
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"((float)(x & 255) - 128.f));
    ROW(16) = r;
}

// Packed and scalar half arithmetic of sm_80 and sm_90, two values per word.
extern "C" __global__ void halves(const u32 *a, const u32 *b, const u32 *c, u32 *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    u32 x = a[i], y = b[i], z = c[i], r;
    u16 h;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z));
    ROW(0) = r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z));
    ROW(1) = r;
    asm("add.f16x2 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    ROW(2) = r;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    ROW(3) = r;
    asm("max.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    ROW(4) = r;
    asm("min.NaN.f16x2 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    ROW(5) = r;
    asm("sub.rn.f16 %0, %1, %2;" : "=h"(h) : "h"((u16)x), "h"((u16)y));
    ROW(6) = h;
    asm("fma.rn.bf16 %0, %1, %2, %3;" : "=h"(h) : "h"((u16)x), "h"((u16)y), "h"((u16)z));
    ROW(7) = h;
    asm("neg.bf16x2 %0, %1;" : "=r"(r) : "r"(x));
    ROW(8) = r;
    asm("abs.f16x2 %0, %1;" : "=r"(r) : "r"(x));
    ROW(9) = r;
    asm("fma.rn.relu.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(z));
    ROW(10) = r;
    asm("{.reg .pred p; .reg .b16 lo, hi; mov.b32 {lo, hi}, %1; setp.lt.f16 p, lo, hi; selp.u32 %0, 1, 0, p;}" : "=r"(r) : "r"(x));
    ROW(11) = r;
}
