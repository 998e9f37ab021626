// Mistakes, one per kernel. Tests find a line by the word after its `!`.
typedef unsigned int u32;

extern "C" __global__ void past_end(float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = 1.f; // !past_end
}

extern "C" __global__ void before_start(const float *in, float *out) {
    out[threadIdx.x] = in[(int)threadIdx.x - 1]; // !before_start
}

extern "C" __global__ void unaligned(const float *in, float4 *out) {
    out[threadIdx.x] = *(const float4 *)(in + threadIdx.x * 4 + 1); // !unaligned
}

extern "C" __global__ void divergent(float *out) {
    if (threadIdx.x < 20) __syncthreads(); // !divergent
    out[threadIdx.x] = 1.f;
    __syncthreads(); // !other_barrier
    out[threadIdx.x] += 1.f;
}

extern "C" __global__ void early(float *out, int n) {
    if (threadIdx.x >= n) return;
    out[threadIdx.x] = 1.f;
    __syncthreads(); // !early
    out[threadIdx.x] += 1.f;
}

extern "C" __global__ void missing_barrier(const float *in, float *out) {
    __shared__ float box[64];
    box[threadIdx.x] = in[threadIdx.x];
    out[threadIdx.x] = box[63 - threadIdx.x]; // !missing_barrier
}

// The first pass is correct; the second overwrites values that a slower thread still reads.
extern "C" __global__ void missing_second_barrier(const float *in, float *out) {
    __shared__ float box[64];
    for (int pass = 0; pass < 2; pass++) {
        box[threadIdx.x] = in[threadIdx.x] + pass;
        __syncthreads();
        out[threadIdx.x] = box[63 - threadIdx.x]; // !missing_second_barrier
    }
}

extern "C" __global__ void shared_past_end(float *out) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = 1.f; // !shared_past_end
    __syncthreads();
    out[threadIdx.x] = dynamic[0];
}

extern "C" __global__ void unwritten(const float *in, float *out) {
    out[threadIdx.x] = in[threadIdx.x] + 1.f; // !unwritten
}

extern "C" __global__ void absent_lane(u32 *out) {
    u32 v = threadIdx.x;
    if (v < 8) v = __shfl_xor_sync(0xffffffffu, v, 1); // !absent_lane
    __syncthreads(); // !where_they_are
    out[threadIdx.x] = v;
}

extern "C" __global__ void ended_lane(u32 *out) {
    if (threadIdx.x >= 16) return;
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 16); // !ended_lane
}

extern "C" __global__ void local_past_end(u32 *out, int n) {
    u32 window[4] = {1, 2, 3, 4};
    window[n + threadIdx.x] = 9; // !local_past_end
    out[threadIdx.x] = window[threadIdx.x & 3];
}

extern "C" __global__ void divided(u32 *out, int by) {
    out[threadIdx.x] = 100 / by + 100 % by; // !divided
}

extern "C" __global__ void trapped(u32 *out) {
    out[threadIdx.x] = 1;
    if (threadIdx.x == 5) __trap(); // !trapped
}

extern "C" __global__ void endless(volatile u32 *out) {
    while (out[0] == 0) {} // !endless
    out[1] = 1;
}

extern "C" __global__ void no_instruction(const u32 *in, u32 *out) {
    u32 v;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(0), "l"(in)); // !no_instruction
    asm volatile("mov.u32 %0, 0;" : "=r"(v));
    out[0] = v;
}
