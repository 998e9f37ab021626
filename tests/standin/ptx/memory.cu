// Each state space, width and vector; parameters by value; calls.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

struct Inner {
    float scale[3];
    u8 flag;
    u16 bias;
};
struct Args {
    u64 n;
    Inner inner;
    const u8 *in;
    signed char shift;
};

__constant__ float table[4] = {1.f, 2.f, 3.5f, -1.f};
__constant__ u32 limit = 1000u;
__device__ int counter = 7;
__device__ u8 bytes[5] = {1, 2, 3, 4, 250};
__device__ u64 zeroed[4];

// A struct by value, read at fixed offsets and with a computed index.
extern "C" __global__ void __launch_bounds__(128, 2) by_value(Args args, float *out) {
    for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < args.n; i += (u64)gridDim.x * blockDim.x) {
        float v = args.in[i] * args.inner.scale[i % 3] + args.inner.bias;
        out[i] = args.inner.flag ? v + args.shift : -v;
    }
}

// Many tensors in one launch: an array of pointers in the parameters, read with a computed index.
struct Tensors {
    const float *at[6];
    u32 length[6];
};

extern "C" __global__ void sums(const __grid_constant__ Tensors tensors, float *out) {
    float sum = 0.f;
    for (u32 i = 0; i < tensors.length[blockIdx.x]; i++) sum += tensors.at[blockIdx.x][i];
    out[blockIdx.x] = sum;
}

extern "C" __global__ void globals(float *out, u32 *words) {
    u32 i = threadIdx.x;
    out[i] = table[i & 3] + (float)(bytes[i % 5] + counter);
    words[i] = limit + i;
    zeroed[i & 3] = i;
    words[i] += (u32)zeroed[i & 3];
    if (i == 0) counter = 8;
}

// Loads and stores of sixteen bytes, as in the mixing kernels.
extern "C" __global__ void vectors(const uint4 *__restrict__ in, uint4 *out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint4 v = in[i];
        out[i] = make_uint4(v.w, v.z + 1u, v.y, v.x);
    }
}

extern "C" __global__ void widths(const u8 *in, u8 *out, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    const char2 *pairs = (const char2 *)in;
    const short4 *shorts = (const short4 *)in;
    const double2 *doubles = (const double2 *)in;
    ((u32 *)out)[i] = (u32)(pairs[i].x + pairs[i].y);
    ((u64 *)(out + 4 * n))[i] = (u64)(shorts[i].x + shorts[i].w);
    double2 d = doubles[i]; // !doubles
    ((double2 *)(out + 16 * n))[i] = make_double2(d.y, d.x);
    ((volatile u16 *)(out + 32 * n))[i] = *(const volatile u16 *)(in + 2 * i);
    u32 r;
    asm("ld.global.cs.u32 %0, [%1+4];" : "=r"(r) : "l"(in + 16 * i));
    asm volatile("st.global.wt.u32 [%0], %1;" ::"l"(out + 34 * n + 4 * i), "r"(r) : "memory");
}

// An array that is in local memory because of a computed index.
extern "C" __global__ void locals(const u32 *in, u32 *out, int n) {
    u32 window[8];
    int t = threadIdx.x;
    for (int i = 0; i < 8; i++) window[i] = in[(t + i) % n];
    u32 at = in[t % n];
    for (int i = 0; i < 5; i++) {
        window[at & 7] += i;
        at = window[(at + i) & 7];
    }
    out[t] = at;
}

__device__ __noinline__ float step(float x, const float *by, int n) {
    for (int i = 0; i < n; i++) x = x * 1.5f + by[i & 3];
    return x;
}
__device__ __noinline__ u32 ackermann(u32 m, u32 n) {
    return m == 0 ? n + 1 : ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}
__device__ __noinline__ Inner grow(Inner in, float by) {
    for (int i = 0; i < 3; i++) in.scale[i] *= by;
    in.bias++;
    return in;
}

extern "C" __global__ void calls(float *out, u32 *words, Inner inner) {
    int i = threadIdx.x;
    __shared__ float shared[4];
    if (i < 4) shared[i] = i;
    __syncthreads();
    float mine[4] = {1.f, 2.f, 4.f, (float)i};
    out[i] = step((float)i, i & 1 ? shared : i & 2 ? mine : table, i);
    words[i] = ackermann(2, i & 7);
    Inner grown = grow(inner, (float)i);
    out[blockDim.x + i] = grown.scale[i % 3] + grown.bias;
}

// Generic addresses: what space they are in, and access through them.
extern "C" __global__ void spaces(const u32 *in, u32 *out) {
    __shared__ u32 shared[1];
    u32 local[2] = {1, threadIdx.x}, seen[4], offset;
    if (threadIdx.x == 0) shared[0] = 40;
    __syncthreads();
    const u32 *generic[4] = {in, shared, local, &limit};
    u32 sum = 0;
    for (int i = 0; i < 4; i++) {
        u32 s[3];
        asm volatile("{.reg .pred p; isspacep.global p, %1; selp.u32 %0, 1, 0, p;}" : "=r"(s[0]) : "l"(generic[i]));
        asm volatile("{.reg .pred p; isspacep.shared p, %1; selp.u32 %0, 2, 0, p;}" : "=r"(s[1]) : "l"(generic[i]));
        asm volatile("{.reg .pred p; isspacep.local p, %1; selp.u32 %0, 4, 0, p;}" : "=r"(s[2]) : "l"(generic[i]));
        seen[i] = s[0] | s[1] | s[2];
        asm volatile("ld.u32 %0, [%1];" : "=r"(s[0]) : "l"(generic[i]));
        sum += s[0];
    }
    asm volatile("{.reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; ld.shared.u32 %0, [%0];}" : "=r"(offset) : "l"(generic[1]));
    u32 *row = out + 3 * threadIdx.x;
    row[0] = seen[0] | seen[1] << 4 | seen[2] << 8 | seen[3] << 12;
    row[1] = sum;
    row[2] = offset;
}

extern "C" __global__ void specials(u32 *out) {
    u32 lane, warp, sm, id = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    u32 t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    u32 threads = blockDim.x * blockDim.y * blockDim.z;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    asm("mov.u32 %0, %%warpid;" : "=r"(warp));
    asm("mov.u32 %0, %%smid;" : "=r"(sm));
    u32 below;
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
    long long start = clock64();
    u32 *row = out + (id * threads + t) * 6;
    row[0] = threadIdx.x | threadIdx.y << 8 | threadIdx.z << 16;
    row[1] = blockIdx.x | blockIdx.y << 8 | blockIdx.z << 16;
    row[2] = lane | warp << 8 | sm << 16;
    row[3] = gridDim.x | gridDim.y << 8 | gridDim.z << 16;
    row[4] = below;
    row[5] = clock64() >= start && clock() != 1;
}
