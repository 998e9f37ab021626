// Barriers, shared memory of each kind, atomics.
typedef unsigned int u32;
typedef unsigned long long u64;

extern "C" __global__ void transpose(const float *in, float *out, int rows, int cols) {
    extern __shared__ float tile[];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    if (x < cols && y < rows) tile[threadIdx.y * 17 + threadIdx.x] = in[y * cols + x];
    __syncthreads();
    int row = blockIdx.x * 16 + threadIdx.y, col = blockIdx.y * 16 + threadIdx.x;
    if (row < cols && col < rows) out[row * rows + col] = tile[threadIdx.x * 17 + threadIdx.y];
}

extern "C" __global__ void scan(const int *in, int *out) {
    __shared__ int buffer[2][128];
    int t = threadIdx.x, from = 0;
    buffer[0][t] = in[t];
    __syncthreads();
    for (int step = 1; step < 128; step *= 2, from ^= 1) {
        buffer[from ^ 1][t] = buffer[from][t] + (t >= step ? buffer[from][t - step] : 0);
        __syncthreads();
    }
    out[t] = buffer[from][t];
}

extern "C" __global__ void counted(const int *in, int *out) {
    int t = threadIdx.x;
    out[t] = __syncthreads_count(in[t] & 1);
    out[t] += 1000 * (__syncthreads_or(in[t] == 5) != 0);
    out[t] += 10000 * (__syncthreads_and(in[t] >= 0) != 0);
}

// Half of the block uses a barrier of its own.
extern "C" __global__ void named(int *out) {
    __shared__ int box[64];
    int t = threadIdx.x;
    if (t < 64) {
        box[t] = t * t;
        asm volatile("bar.sync 1, 64;" ::: "memory");
        out[t] = box[63 - t];
    } else {
        out[t] = -1;
    }
}

extern "C" __global__ void atomics(const u32 *in, u32 *words, u64 *longs, float *floats, double *doubles) {
    __shared__ u32 local[2];
    u32 t = threadIdx.x, v = in[blockIdx.x * blockDim.x + t];
    if (t < 2) local[t] = 0;
    __syncthreads();
    atomicAdd(&local[v & 1], v);
    atomicAdd(&words[0], v);
    atomicMin(&words[1], v);
    atomicMax((int *)&words[2], (int)v - 100);
    atomicAnd(&words[3], v | 0xff00u);
    atomicOr(&words[4], 1u << (v & 31));
    atomicXor(&words[5], v);
    atomicInc(&words[6], 10);
    atomicDec(&words[7], 10);
    atomicSub(&words[8], 2);
    u32 old = words[9], seen;
    do seen = old, old = atomicCAS(&words[9], seen, seen * 3 + v);
    while (old != seen);
    words[16 + blockIdx.x * blockDim.x + t] = atomicExch(&words[10], t) < 100000u;
    atomicAdd(&longs[0], ((u64)v << 32) + 1);
    atomicMax(&longs[1], (u64)v << 40);
    atomicAdd(&floats[0], 0.5f * v);
    atomicAdd(&doubles[0], 0.25 * v);
    __threadfence();
    __syncthreads();
    if (t < 2) atomicAdd(&words[11 + t], local[t]);
}
