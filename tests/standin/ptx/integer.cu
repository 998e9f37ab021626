// Integer arithmetic: one output row of `n` words for each operation.
#define ROW(k) out[(k) * n + i]

typedef unsigned int u32;
typedef unsigned long long u64;

extern "C" __global__ void words(const u32 *a, const u32 *b, u32 *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 x = a[i], y = b[i];
    int sx = (int)x, sy = (int)y;
    ROW(0) = x + y;
    ROW(1) = x - y;
    ROW(2) = x * y;
    ROW(3) = __umulhi(x, y);
    ROW(4) = (u32)__mulhi(sx, sy);
    ROW(5) = y ? x / y : 7u;
    ROW(6) = y ? x % y : 7u;
    ROW(7) = (u32)(sy && sy != -1 ? sx / sy : 7);
    ROW(8) = (u32)(sy && sy != -1 ? sx % sy : 7);
    ROW(9) = x << (y & 31);
    ROW(10) = x >> (y & 31);
    ROW(11) = (u32)(sx >> (y & 31));
    ROW(12) = (u32)min(sx, sy);
    ROW(13) = max(x, y);
    ROW(14) = (u32)abs(sx);
    ROW(15) = (u32)__popc(x);
    ROW(16) = (u32)__clz(sx);
    ROW(17) = __brev(x);
    ROW(18) = (u32)__ffs(sx);
    ROW(19) = __byte_perm(x, y, 0x4721 ^ (y & 0x7777));
    ROW(20) = __funnelshift_l(x, y, x >> 3);
    ROW(21) = __funnelshift_r(x, y, y >> 5);
    ROW(22) = (u32)__dp4a(sx, sy, (int)(x ^ y));
    ROW(23) = __dp4a(x, y, x);
    ROW(24) = (x & y) ^ (~x & ROW(0));
    ROW(25) = (x >> 7) & 0x3ff;
    ROW(26) = (u32)((sx << 9) >> 21);
    ROW(27) = __sad(sx, sy, x);
    ROW(28) = (u32)__mul24(sx, sy);
    ROW(29) = __hadd(sx, sy);
    ROW(30) = __vaddus4(x, y);
}

// Instructions that are only reachable by inline assembly.
extern "C" __global__ void asm_words(const u32 *a, const u32 *b, u32 *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    u32 x = a[i], y = b[i], r, s;
    asm("bfe.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y & 63), "r"((y >> 8) & 63));
    ROW(0) = r;
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y & 63), "r"((y >> 8) & 63));
    ROW(1) = r;
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(x), "r"(y), "r"(y & 63), "r"((x >> 8) & 63));
    ROW(2) = r;
    asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(r) : "r"(x), "r"(y), "r"(x * 3));
    ROW(3) = r;
    asm("bfind.u32 %0, %1;" : "=r"(r) : "r"(x));
    ROW(4) = r;
    asm("bfind.s32 %0, %1;" : "=r"(r) : "r"(x));
    ROW(5) = r;
    asm("bfind.shiftamt.u32 %0, %1;" : "=r"(r) : "r"(x));
    ROW(6) = r;
    asm("shf.l.clamp.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(y & 63));
    ROW(7) = r;
    asm("shf.r.clamp.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(y & 63));
    ROW(8) = r;
    asm("prmt.b32.f4e %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(y));
    ROW(9) = r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(y >> 4));
    ROW(10) = r;
    asm("shl.b32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y & 63));
    ROW(11) = r;
    asm("shr.s32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y & 63));
    ROW(12) = r;
    asm("add.sat.s32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    ROW(13) = r;
    asm("slct.u32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(y * 5));
    ROW(14) = r;
    asm("{add.cc.u32 %0, %2, %3; addc.u32 %1, 0, 0;}" : "=r"(r), "=r"(s) : "r"(x), "r"(y));
    ROW(15) = r;
    ROW(16) = s;
}

extern "C" __global__ void longs(const u64 *a, const u64 *b, u64 *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    u64 x = a[i], y = b[i];
    long long sx = (long long)x, sy = (long long)y;
    ROW(0) = x + y;
    ROW(1) = x * y;
    ROW(2) = __umul64hi(x, y);
    ROW(3) = (u64)__mul64hi(sx, sy);
    ROW(4) = y ? x / y : 7;
    ROW(5) = y ? x % y : 7;
    ROW(6) = (u64)(sy && sy != -1 ? sx / sy : 7);
    ROW(7) = (u64)(sy && sy != -1 ? sx % sy : 7);
    ROW(8) = x << (y & 63);
    ROW(9) = (u64)(sx >> (y & 63));
    ROW(10) = (u64)min(sx, sy);
    ROW(11) = max(x, y);
    ROW(12) = (u64)__popcll(x);
    ROW(13) = (u64)__clzll(sx);
    ROW(14) = __brevll(x);
    ROW(15) = (u64)(u32)x * (u32)y + x;
    ROW(16) = (u64)((long long)(int)x * (int)y);
    ROW(17) = x / 1000;
    ROW(18) = (u64)(sx % 224);
    ROW(19) = (u64)(unsigned short)x * (unsigned short)y;
    ROW(20) = (u64)(long long)((short)x * (short)y);
    ROW(21) = (u64)(long long)(signed char)x;
    u64 lo, hi; // a 128-bit sum and product
    asm("{add.cc.u64 %0, %2, %3; addc.cc.u64 %0, %0, %2; addc.u64 %1, %3, 0;}" : "=&l"(lo), "=&l"(hi) : "l"(x), "l"(y));
    ROW(22) = lo;
    ROW(23) = hi;
    asm("{mad.lo.cc.u64 %0, %2, %3, %3; madc.hi.u64 %1, %2, %3, 0;}" : "=&l"(lo), "=&l"(hi) : "l"(x), "l"(y));
    ROW(24) = lo;
    ROW(25) = hi;
    asm("{sub.cc.u64 %0, %2, %3; subc.u64 %1, 0, 0;}" : "=&l"(lo), "=&l"(hi) : "l"(x), "l"(y));
    ROW(26) = lo;
    ROW(27) = hi;
}

// Comparisons of each signedness, combined, and selections.
extern "C" __global__ void compares(const u32 *a, const u32 *b, u32 *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    u32 x = a[i], y = b[i];
    int sx = (int)x, sy = (int)y;
    u32 bits = 0;
    bits |= (x < y) << 0;
    bits |= (x <= y) << 1;
    bits |= (sx < sy) << 2;
    bits |= (sx >= sy) << 3;
    bits |= (x == y) << 4;
    bits |= (x != y && sx > 5) << 5;
    bits |= (x > 100 || sy < -7) << 6;
    bits |= ((x > y) ^ (sx > sy)) << 7;
    bits |= ((unsigned short)x < (unsigned short)y) << 8;
    bits |= ((short)x < (short)y) << 9;
    ROW(0) = bits;
    ROW(1) = sx > 0 ? y : x + 1;
}
