// The environment of a kernel that g++ compiles: the keywords, types and functions of CUDA that kernels without headers use.
// No system header is included, because NVRTC has none either: a kernel that compiles here defines its own types.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __grid_constant__
#define __builtin_assume(condition) ((void)0)
#define __shared__ static __attribute__((section("standin_shared")))

typedef __SIZE_TYPE__ size_t;

// ---- vector types -------------------------------------------------------------------------------------------------

#define STANDIN_VECTOR(type, name, align2, align4)                                                              \
    struct name##1 { type x; };                                                                                 \
    struct __align__(align2) name##2 { type x, y; };                                                            \
    struct name##3 { type x, y, z; };                                                                           \
    struct __align__(align4) name##4 { type x, y, z, w; };                                                      \
    inline name##1 make_##name##1(type x) { return {x}; }                                                       \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                            \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                 \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

STANDIN_VECTOR(signed char, char, 2, 4)
STANDIN_VECTOR(unsigned char, uchar, 2, 4)
STANDIN_VECTOR(short, short, 4, 8)
STANDIN_VECTOR(unsigned short, ushort, 4, 8)
STANDIN_VECTOR(int, int, 8, 16)
STANDIN_VECTOR(unsigned int, uint, 8, 16)
STANDIN_VECTOR(long, long, 16, 16)
STANDIN_VECTOR(unsigned long, ulong, 16, 16)
STANDIN_VECTOR(long long, longlong, 16, 16)
STANDIN_VECTOR(unsigned long long, ulonglong, 16, 16)
STANDIN_VECTOR(float, float, 8, 16)
STANDIN_VECTOR(double, double, 16, 16)

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

// ---- implemented by cuda_run.h --------------------------------------------------------------------------------

namespace standin {
// These numbers are mirrored by run.rs.
enum Fault : int { NONE, SIGNAL, MISALIGNED, ASSERT, DIVERGED, OVERFLOW, UNDEFINED };
enum WarpOp : int { SYNC, SHUFFLE, BALLOT, ANY, ALL, ADD, MIN, MAX, AND, OR, XOR };
static void* dynamic_shared;
[[noreturn]] void fault(Fault kind, unsigned line, const char* what, ...);
void barrier(unsigned line);
unsigned long warp_op(WarpOp what, unsigned mask, unsigned long value, int source, unsigned line);
int lane();
int shuffle_source(int kind, int lane, int by, int width);
template <class T> T shuffle(unsigned mask, T value, int kind, int by, int width, unsigned line) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take 4 or 8 bytes");
    unsigned long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = warp_op(SHUFFLE, mask, bits, shuffle_source(kind, lane(), by, width), line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <class To, class From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
template <class To> To saturated(double value, double low, double high) {
    return value != value ? To(0) : value <= low ? To(low) : value >= high ? To(high) : To(value);
}
}  // namespace standin

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

#define __syncthreads() standin::barrier(__LINE__)
#define __syncwarp(...) ((void)standin::warp_op(standin::SYNC, standin::mask(__VA_ARGS__), 0, -1, __LINE__))
#define __shfl_sync(mask, value, lane, ...) standin::shuffle(mask, value, 0, lane, standin::width(__VA_ARGS__), __LINE__)
#define __shfl_up_sync(mask, value, by, ...) standin::shuffle(mask, value, 1, by, standin::width(__VA_ARGS__), __LINE__)
#define __shfl_down_sync(mask, value, by, ...) standin::shuffle(mask, value, 2, by, standin::width(__VA_ARGS__), __LINE__)
#define __shfl_xor_sync(mask, value, by, ...) standin::shuffle(mask, value, 3, by, standin::width(__VA_ARGS__), __LINE__)
#define __ballot_sync(mask, value) ((unsigned)standin::warp_op(standin::BALLOT, mask, (value) != 0, -1, __LINE__))
#define __any_sync(mask, value) ((int)standin::warp_op(standin::ANY, mask, (value) != 0, -1, __LINE__))
#define __all_sync(mask, value) ((int)standin::warp_op(standin::ALL, mask, (value) != 0, -1, __LINE__))
#define __reduce_add_sync(mask, value) standin::reduce(standin::ADD, mask, value, __LINE__)
#define __reduce_min_sync(mask, value) standin::reduce(standin::MIN, mask, value, __LINE__)
#define __reduce_max_sync(mask, value) standin::reduce(standin::MAX, mask, value, __LINE__)
#define __reduce_and_sync(mask, value) standin::reduce(standin::AND, mask, value, __LINE__)
#define __reduce_or_sync(mask, value) standin::reduce(standin::OR, mask, value, __LINE__)
#define __reduce_xor_sync(mask, value) standin::reduce(standin::XOR, mask, value, __LINE__)
#define assert(condition) ((condition) ? (void)0 : standin::fault(standin::ASSERT, __LINE__, "assert(%s)", #condition))
#define __trap() standin::fault(standin::ASSERT, __LINE__, "__trap()")

namespace standin {
inline unsigned mask(unsigned mask = 0xffffffffu) { return mask; }
inline int width(int width = 32) { return width; }
// Values are passed sign-extended, so that one comparison serves signed and unsigned integers.
inline int reduce(WarpOp what, unsigned mask, int value, unsigned line) {
    return (int)warp_op(what, mask, (unsigned long)(long)value, -1, line);
}
inline unsigned reduce(WarpOp what, unsigned mask, unsigned value, unsigned line) {
    return (unsigned)warp_op(what, mask, value, -1, line);
}
}  // namespace standin

inline void __threadfence() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); }
inline void __threadfence_system() { __asm__ volatile("" ::: "memory"); }
inline void __nanosleep(unsigned) {}
inline unsigned __activemask() = delete;  // undefined, because lanes need not run together

// ---- atomics: plain code, because threads take turns --------------------------------------------------------------

#define STANDIN_ATOMIC(name, expression)                                      \
    template <class T> T name(T* at, decltype(T()) value) {                   \
        T old = *at;                                                          \
        *at = expression;                                                     \
        return old;                                                           \
    }                                                                         \
    template <class T> T name##_block(T* at, decltype(T()) value) { return name(at, value); } \
    template <class T> T name##_system(T* at, decltype(T()) value) { return name(at, value); }

STANDIN_ATOMIC(atomicAdd, old + value)
STANDIN_ATOMIC(atomicSub, old - value)
STANDIN_ATOMIC(atomicExch, value)
STANDIN_ATOMIC(atomicMin, value < old ? value : old)
STANDIN_ATOMIC(atomicMax, value > old ? value : old)
STANDIN_ATOMIC(atomicAnd, old & value)
STANDIN_ATOMIC(atomicOr, old | value)
STANDIN_ATOMIC(atomicXor, old ^ value)
STANDIN_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
STANDIN_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
template <class T> T atomicCAS(T* at, decltype(T()) expected, decltype(T()) value) {
    T old = *at;
    if (old == expected) *at = value;
    return old;
}

// ---- integers -------------------------------------------------------------------------------------------------------

inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline unsigned long min(unsigned long a, unsigned long b) { return a < b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
inline unsigned min(int a, unsigned b) { return min((unsigned)a, b); }
inline unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
inline unsigned long min(long a, unsigned long b) { return min((unsigned long)a, b); }
inline unsigned long min(unsigned long a, long b) { return min(a, (unsigned long)b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }
inline unsigned long max(unsigned long a, unsigned long b) { return a > b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
inline unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
inline unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
inline unsigned long max(long a, unsigned long b) { return max((unsigned long)a, b); }
inline unsigned long max(unsigned long a, long b) { return max(a, (unsigned long)b); }
inline int abs(int a) { return a < 0 ? -a : a; }
inline long long llabs(long long a) { return a < 0 ? -a : a; }
inline int __clz(int a) { return a == 0 ? 32 : __builtin_clz((unsigned)a); }
inline int __clzll(long long a) { return a == 0 ? 64 : __builtin_clzll((unsigned long long)a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline unsigned __brev(unsigned a) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (a >> i & 1u) << (31 - i);
    return r;
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffffu) * (b & 0xffffffu); }
inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (by & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long both = (unsigned long long)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i) & 0xf;
        unsigned byte = (unsigned)(both >> (8 * (s & 7))) & 0xff;
        r |= (s & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << (8 * i);
    }
    return r;
}

// ---- floats ---------------------------------------------------------------------------------------------------------

#define STANDIN_LIBM1(name)                          \
    extern "C" float name##f(float) noexcept;        \
    extern "C" double name(double) noexcept;         \
    inline float name(float x) { return name##f(x); }
#define STANDIN_LIBM2(name)                                         \
    extern "C" float name##f(float, float) noexcept;                \
    extern "C" double name(double, double) noexcept;                \
    inline float name(float x, float y) { return name##f(x, y); }

STANDIN_LIBM1(sqrt) STANDIN_LIBM1(cbrt) STANDIN_LIBM1(exp) STANDIN_LIBM1(exp2) STANDIN_LIBM1(expm1)
STANDIN_LIBM1(log) STANDIN_LIBM1(log2) STANDIN_LIBM1(log10) STANDIN_LIBM1(log1p) STANDIN_LIBM1(sin)
STANDIN_LIBM1(cos) STANDIN_LIBM1(tan) STANDIN_LIBM1(asin) STANDIN_LIBM1(acos) STANDIN_LIBM1(atan)
STANDIN_LIBM1(sinh) STANDIN_LIBM1(cosh) STANDIN_LIBM1(tanh) STANDIN_LIBM1(erf) STANDIN_LIBM1(erfc)
STANDIN_LIBM1(fabs) STANDIN_LIBM1(floor) STANDIN_LIBM1(ceil) STANDIN_LIBM1(trunc) STANDIN_LIBM1(round)
STANDIN_LIBM1(rint) STANDIN_LIBM1(nearbyint)
STANDIN_LIBM2(pow) STANDIN_LIBM2(fmod) STANDIN_LIBM2(atan2) STANDIN_LIBM2(hypot) STANDIN_LIBM2(copysign)
STANDIN_LIBM2(fmin) STANDIN_LIBM2(fmax) STANDIN_LIBM2(fdim)
extern "C" float fmaf(float, float, float) noexcept;
extern "C" double fma(double, double, double) noexcept;
extern "C" float ldexpf(float, int) noexcept;
extern "C" int printf(const char*, ...);
inline float fma(float x, float y, float z) { return fmaf(x, y, z); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float min(float a, float b) { return fminf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline float abs(float a) { return fabsf(a); }
inline double abs(double a) { return fabs(a); }
inline bool isnan(float x) { return x != x; }
inline bool isinf(float x) { return fabsf(x) == __builtin_inff(); }
inline bool isfinite(float x) { return fabsf(x) < __builtin_inff(); }
inline float __saturatef(float x) { return x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f; }

// Each function is one operation, rounded to nearest even.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }
// Functions that are approximate on a GPU, whose last bits differ from these.
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }

// Conversions: to nearest, toward zero, down, up. Integers saturate and a NaN becomes 0, as in PTX's cvt.
#define STANDIN_TO_INTEGER(name, type, low, high)                                                          \
    inline type __float2##name##_rn(float x) { return standin::saturated<type>(rint((double)x), low, high); }  \
    inline type __float2##name##_rz(float x) { return standin::saturated<type>(trunc((double)x), low, high); } \
    inline type __float2##name##_rd(float x) { return standin::saturated<type>(floor((double)x), low, high); } \
    inline type __float2##name##_ru(float x) { return standin::saturated<type>(ceil((double)x), low, high); }  \
    inline type __double2##name##_rn(double x) { return standin::saturated<type>(rint(x), low, high); }        \
    inline type __double2##name##_rz(double x) { return standin::saturated<type>(trunc(x), low, high); }
STANDIN_TO_INTEGER(int, int, -2147483648.0, 2147483647.0)
STANDIN_TO_INTEGER(uint, unsigned, 0.0, 4294967295.0)
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline float __double2float_rn(double x) { return (float)x; }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline unsigned __float_as_uint(float x) { return standin::bits<unsigned>(x); }
inline int __float_as_int(float x) { return standin::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return standin::bits<float>(x); }
inline float __int_as_float(int x) { return standin::bits<float>(x); }
inline long long __double_as_longlong(double x) { return standin::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return standin::bits<double>(x); }

// ---- loads and stores with a cache hint -----------------------------------------------------------------------------------

#define STANDIN_LOAD(name) template <class T> T name(const T* at) { return *at; }
#define STANDIN_STORE(name) template <class T> void name(T* at, decltype(T()) value) { *at = value; }
STANDIN_LOAD(__ldg) STANDIN_LOAD(__ldcg) STANDIN_LOAD(__ldca) STANDIN_LOAD(__ldcs) STANDIN_LOAD(__ldlu) STANDIN_LOAD(__ldcv)
STANDIN_STORE(__stcg) STANDIN_STORE(__stcs) STANDIN_STORE(__stwb) STANDIN_STORE(__stwt)

// ---- inline PTX: source.rs rewrites each instruction to a call ----------------------------------------------

inline void standin_ptx_cvt_rn_bf16_f32(unsigned short& to, float from) {
    unsigned bits = __float_as_uint(from);
    to = from != from ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline void standin_ptx_cvt_rn_f16_f32(unsigned short& to, float from) {
    to = from != from ? 0x7fff : standin::bits<unsigned short>((_Float16)from);
}
inline void standin_ptx_cvt_f32_bf16(float& to, unsigned short from) { to = __uint_as_float((unsigned)from << 16); }
inline void standin_ptx_cvt_f32_f16(float& to, unsigned short from) { to = (float)standin::bits<_Float16>(from); }
inline void standin_ptx_cvt_rn_bf16x2_f32(unsigned& to, float high, float low) {
    unsigned short parts[2];
    standin_ptx_cvt_rn_bf16_f32(parts[0], low);
    standin_ptx_cvt_rn_bf16_f32(parts[1], high);
    to = (unsigned)parts[1] << 16 | parts[0];
}
inline void standin_ptx_cvt_rn_f16x2_f32(unsigned& to, float high, float low) {
    unsigned short parts[2];
    standin_ptx_cvt_rn_f16_f32(parts[0], low);
    standin_ptx_cvt_rn_f16_f32(parts[1], high);
    to = (unsigned)parts[1] << 16 | parts[0];
}
