// Kernels of the stand-in's tests: correct ones first, then one for each mistake.

struct Mix {
    const unsigned char* from;
    float* to;
    int count;
    float lambda;
};

extern "C" __global__ void mix(Mix mix) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < mix.count; i += gridDim.x * blockDim.x) {
        float a = mix.from[i], b = mix.from[mix.count - 1 - i];
        mix.to[i] = __fadd_rn(__fmul_rn(a, mix.lambda), __fmul_rn(b, __fsub_rn(1.0f, mix.lambda)));
    }
}

extern "C" __global__ void __launch_bounds__(256) sum_of_squares(const float* from, float* to, int count) {
    __shared__ float partial[32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += from[i] * from[i];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f;
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (threadIdx.x == 0) to[blockIdx.x] = sum;
    }
}

// Launched with one block of 32 by 32 threads.
extern "C" __global__ void transpose(const float* from, float* to) {
    extern __shared__ float tile[];
    tile[threadIdx.y * 32 + threadIdx.x] = from[threadIdx.y * 32 + threadIdx.x];
    __syncthreads();
    to[threadIdx.y * 32 + threadIdx.x] = tile[threadIdx.x * 32 + threadIdx.y];
}

// Launched with 64 threads, 4 words each.
extern "C" __global__ void votes(unsigned* to) {
    unsigned t = threadIdx.x;
    to[t * 4] = __ballot_sync(0xffffffffu, t % 3 == 0);
    to[t * 4 + 1] = __any_sync(0xffffffffu, t == 40) * 2 + __all_sync(0xffffffffu, t < 32);
    to[t * 4 + 2] = __shfl_sync(0xffffffffu, t, 5, 8);
    to[t * 4 + 3] = t % 2 == 0 ? __shfl_up_sync(0x55555555u, t, 2) : __shfl_down_sync(0xaaaaaaaau, t, 2);
}

extern "C" __global__ void histogram(const unsigned char* from, unsigned* to, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) atomicAdd(&to[from[i]], 1u);
}

extern "C" __global__ void copy16(const uint4* from, uint4* to, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) to[i] = from[i];
}

extern "C" __global__ void arithmetic(const float* from, float* to, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float a = from[i], b = from[(i + 1) % count];
    to[i * 4] = __fmaf_rn(a, b, 0.1f);
    to[i * 4 + 1] = (float)__float2int_rn(a * 100.0f);
    to[i * 4 + 2] = __fdiv_rn(a, b);
    to[i * 4 + 3] = __uint_as_float(__float_as_uint(a) ^ 0x80000000u);
}

extern "C" __global__ void to_bf16(const float* from, unsigned short* to, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to[i]) : "f"(from[i]));
}

extern "C" __global__ void add_one(float* at, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) at[i] += 1.0f;
}

// ---- mistakes -------------------------------------------------------------------------------------------------------

extern "C" __global__ void store_at(float* to, long long index) { to[index] = 1.0f; }

extern "C" __global__ void store_byte(unsigned char* to, int index) { to[index] = 1; }

extern "C" __global__ void load_at(const float* from, float* to, long long index) { to[0] = from[index]; }

extern "C" __global__ void half_of(float* to) {
    if (threadIdx.x % 2 == 0) to[threadIdx.x] = 1.0f;
}

extern "C" __global__ void some_skip_the_barrier(float* to) {
    if (threadIdx.x < 32) __syncthreads();
    to[threadIdx.x] = 1.0f;
}

extern "C" __global__ void two_barriers(float* to) {
    if (threadIdx.x < 32) {
        to[threadIdx.x] = 1.0f;
        __syncthreads();
    } else {
        to[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

extern "C" __global__ void no_barrier(float* to) {
    __shared__ float line[64];
    line[threadIdx.x] = (float)threadIdx.x;
    to[threadIdx.x] = line[threadIdx.x ^ 63];
}

extern "C" __global__ void absent_lanes(float* to) {
    if (threadIdx.x < 16) to[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    else __syncthreads();
}

extern "C" __global__ void reads_a_lane_that_ended(float* to) {
    if (threadIdx.x >= 16) return;
    to[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 16);
}

extern "C" __global__ void past_a_shared_array(float* to, int index) {
    __shared__ float line[64];
    line[threadIdx.x] = 1.0f;
    __syncthreads();
    to[threadIdx.x] = line[threadIdx.x + index];
}

extern "C" __global__ void past_dynamic_shared(float* to, int index) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = 1.0f;
    __syncthreads();
    to[threadIdx.x] = tile[threadIdx.x + index];
}

extern "C" __global__ void misaligned(const unsigned char* from, uint4* to) { to[0] = *(const uint4*)(from + 4); }

extern "C" __global__ void divides(int* to, int by) { to[0] = 1 / by; }

extern "C" __global__ void traps(int* to) {
    to[0] = 1;
    if (threadIdx.x == 3) __trap();
}

extern "C" __device__ __noinline__ int deep(int n) {
    volatile int frame[256];
    frame[n % 256] = n;
    return n == 0 ? 0 : deep(n - 1) + frame[n % 256];
}
extern "C" __global__ void overflows(int* to, int n) { to[0] = deep(n); }

extern "C" __global__ void fails_an_assertion(int* to) {
    to[0] = 1;
    assert(threadIdx.x != 5);
}

extern "C" __global__ void to_byte(const float* from, unsigned char* to) { to[0] = (unsigned char)from[0]; }

// ---- right again ----------------------------------------------------------------------------------------------------

extern "C" __global__ void functions(const float* from, float* to, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    to[i] = expf(-fabsf(from[i])) + fminf(from[i], 1.0f) + max(0, min(i, 7u)) + sqrtf((float)i);
}
