// Warp-level operations.
#define ALL 0xffffffffu
typedef unsigned int u32;
#define ROW(k) out[(k) * blockDim.x + threadIdx.x]

extern "C" __global__ void shuffles(const u32 *in, u32 *out) {
    int lane = threadIdx.x & 31;
    u32 v = in[threadIdx.x];
    ROW(0) = __shfl_sync(ALL, v, (lane * 7 + 3) & 31);
    ROW(1) = __shfl_up_sync(ALL, v, 3);
    ROW(2) = __shfl_down_sync(ALL, v, 5);
    ROW(3) = __shfl_xor_sync(ALL, v, 9);
    ROW(4) = __shfl_sync(ALL, v, lane + 1, 8);
    ROW(5) = __shfl_up_sync(ALL, v, 1, 16);
    ROW(6) = __shfl_down_sync(ALL, v, 2, 4);
    ROW(7) = __shfl_xor_sync(ALL, v, 17, 16);
    u32 inside, r;
    asm volatile("{.reg .pred p; shfl.sync.down.b32 %0|p, %2, 4, 0x1f, 0xffffffff; selp.u32 %1, 1, 0, p;}"
                 : "=r"(r), "=r"(inside) : "r"(v));
    ROW(8) = inside;
    // Only half of the warp.
    if (lane < 16) v = __shfl_xor_sync(0xffffu, v, 1);
    ROW(9) = v;
}

extern "C" __global__ void votes(const u32 *in, u32 *out) {
    int lane = threadIdx.x & 31;
    u32 v = in[threadIdx.x];
    ROW(0) = __ballot_sync(ALL, v & 1);
    ROW(1) = __any_sync(ALL, v == 3) | __all_sync(ALL, v < 1000) << 1;
    ROW(2) = __popc(__activemask());
    ROW(3) = __match_any_sync(ALL, v & 3);
    int same;
    ROW(4) = __match_all_sync(ALL, lane >> 5, &same);
    ROW(5) = same;
    ROW(6) = __reduce_add_sync(ALL, v);
    ROW(7) = __reduce_min_sync(ALL, v);
    ROW(8) = (u32)__reduce_max_sync(ALL, (int)v - 50);
    ROW(9) = __reduce_xor_sync(ALL, v);
    u32 odd = 0;
    if (v & 1) odd = __reduce_or_sync(__ballot_sync(__activemask(), 1), v);
    __syncwarp();
    ROW(10) = odd & 1;
}

// Sums of squares: across lanes by shuffles, across warps by shared memory.
extern "C" __global__ void sumsq(const float *x, float *out, int n) {
    __shared__ float part[32];
    float sum = 0.f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i] * x[i];
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(ALL, sum, step);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x >> 5 ? part[threadIdx.x] : 0.f;
        for (int step = 16; step; step >>= 1) sum += __shfl_down_sync(ALL, sum, step);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}
