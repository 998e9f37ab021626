// LAMB over all tensors at once, and what else touches every parameter. See src/lamb.rs.
//
// Parameters, gradients and both moments are f32 and lie alike, each tensor at a multiple of 16 numbers, zeros behind it. A
// chunk is a run of one tensor's numbers, a block's work. Twin: backend/cuda/twin/lamb.rs.

// Numbers of a chunk, at most.
constexpr unsigned CHUNK = 8192;

struct alignas(16) Chunk {
  unsigned start;   // place of its first number
  unsigned length;  // the tensor's own numbers, without what only fills
  unsigned tensor;
  unsigned decays;
};

struct Eight {
  float at[8];
};

__device__ Eight load_eight(const float *from) {
  float4 a = reinterpret_cast<const float4 *>(from)[0];
  float4 b = reinterpret_cast<const float4 *>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ void store_eight(float *to, const Eight &eight) {
  const float *at = eight.at;
  reinterpret_cast<float4 *>(to)[0] = make_float4(at[0], at[1], at[2], at[3]);
  reinterpret_cast<float4 *>(to)[1] = make_float4(at[4], at[5], at[6], at[7]);
}

// As activations are stored.
__device__ void store_copy(Stored *to, const Eight &eight) {
#pragma unroll
  for (unsigned part = 0; part < 8 / WIDE; ++part) {
    Pack pack;
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) pack.at[k] = eight.at[part * WIDE + k];
    store16(to + part * WIDE, pack);
  }
}

// The sum of what the threads have, in thread 0.
template <typename T>
__device__ T tree(T *room, T own) {
  room[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    __syncthreads();
  }
  T sum = room[0];
  __syncthreads();
  return sum;
}

// A run's sums of squares, CHUNK numbers a block; `numbers` is a multiple of 8.
extern "C" __global__ void __launch_bounds__(256)
    square_sums(const float *values, float *partial, unsigned numbers) {
  __shared__ float room[THREADS];
  unsigned begin = blockIdx.x * CHUNK, end = min(numbers, begin + CHUNK);
  float sum = 0.0f;
  for (unsigned at = begin + threadIdx.x * 8; at < end; at += THREADS * 8) {
    Eight eight = load_eight(values + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) sum += eight.at[k] * eight.at[k];
  }
  sum = tree(room, sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The norm of all gradients, and what they are divided by: so that it is at most `most`, if that is not 0.
extern "C" __global__ void __launch_bounds__(256)
    gradient_norm(const float *partial, unsigned parts, float most, double *norm, float *clip) {
  __shared__ double room[THREADS];
  double sum = 0.0;
  for (unsigned part = threadIdx.x; part < parts; part += THREADS) sum += partial[part];
  sum = tree(room, sum);
  if (threadIdx.x > 0) return;
  double root = sqrt(sum), ratio = root / most;
  *norm = root;
  *clip = most > 0.0f && ratio > 1.0 ? ratio : 1.0;
}

// Adam's direction plus decay, left in `gradient`; and the chunk's sums of squares of parameters and direction.
extern "C" __global__ void __launch_bounds__(256)
    lamb_direction(const Chunk *chunks, const float *parameter, float *gradient, float *mean,
                   float *square, float2 *partial, const float *clip, float beta1, float new1,
                   float beta2, float new2, float correction1, float correction2, float eps,
                   float decay) {
  __shared__ float room[THREADS];
  Chunk chunk = chunks[blockIdx.x];
  float divide = *clip, own_decay = chunk.decays ? decay : 0.0f, weights = 0.0f, update = 0.0f;
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    Eight p = load_eight(parameter + at), g = load_eight(gradient + at);
    Eight m = load_eight(mean + at), s = load_eight(square + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) {
      float now = g.at[k] / divide;
      m.at[k] = beta1 * m.at[k] + new1 * now;
      s.at[k] = beta2 * s.at[k] + new2 * now * now;
      float root = sqrtf(s.at[k]) / correction2 + eps;
      float direction = m.at[k] / correction1 / root + own_decay * p.at[k];
      // What only fills stays zero, even where eps is.
      g.at[k] = in + k < chunk.length ? direction : 0.0f;
      weights += p.at[k] * p.at[k];
      update += g.at[k] * g.at[k];
    }
    store_eight(gradient + at, g);
    store_eight(mean + at, m);
    store_eight(square + at, s);
  }
  weights = tree(room, weights);
  update = tree(room, update);
  if (threadIdx.x == 0) partial[blockIdx.x] = make_float2(weights, update);
}

// Where a tensor's chunks are.
struct alignas(16) Tensor {
  unsigned first, chunks;
  unsigned adapts;
  unsigned unused;
};

// A tensor's trust ratio: the size of its parameters over that of the direction. A block a tensor.
extern "C" __global__ void __launch_bounds__(256)
    lamb_ratio(const Tensor *tensors, const float2 *partial, float *ratios, unsigned always,
               unsigned decays, unsigned trust_clip) {
  __shared__ double room[THREADS];
  Tensor tensor = tensors[blockIdx.x];
  double weights = 0.0, update = 0.0;
  for (unsigned chunk = threadIdx.x; chunk < tensor.chunks; chunk += THREADS) {
    float2 sums = partial[tensor.first + chunk];
    weights += sums.x;
    update += sums.y;
  }
  weights = sqrt(tree(room, weights));
  update = sqrt(tree(room, update));
  if (threadIdx.x > 0) return;
  double ratio = 1.0;
  if (always || (decays && tensor.adapts)) {
    if (weights > 0.0 && update > 0.0) ratio = weights / update;
    if (trust_clip && ratio > 1.0) ratio = 1.0;
  }
  ratios[blockIdx.x] = ratio;
}

// Moves the parameters, writes their copy for the products, and forgets the gradient.
extern "C" __global__ void __launch_bounds__(256)
    lamb_apply(const Chunk *chunks, const float *ratios, float *parameter, float *gradient,
               Stored *copy, float rate) {
  Chunk chunk = chunks[blockIdx.x];
  float ratio = ratios[chunk.tensor];
  const Eight none = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    Eight p = load_eight(parameter + at), d = load_eight(gradient + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) p.at[k] = p.at[k] - rate * (d.at[k] * ratio);
    store_eight(parameter + at, p);
    store_eight(gradient + at, none);
    store_copy(copy + at, p);
  }
}

// This thread's first number, of 8.
__device__ unsigned eighth() { return (blockIdx.x * THREADS + threadIdx.x) * 8; }

// Writes the copy of all parameters; `numbers` is a multiple of 8, here and below.
extern "C" __global__ void __launch_bounds__(256)
    copy_parameters(const float *parameter, Stored *copy, unsigned numbers) {
  unsigned at = eighth();
  if (at < numbers) store_copy(copy + at, load_eight(parameter + at));
}

// Adds a microbatch's gradients to the step's.
extern "C" __global__ void __launch_bounds__(256)
    add_gradients(const Stored *from, float *gradient, unsigned numbers) {
  unsigned at = eighth();
  if (at >= numbers) return;
  Eight sum = load_eight(gradient + at);
#pragma unroll
  for (unsigned part = 0; part < 8 / WIDE; ++part) {
    Pack pack = load16(from + at + part * WIDE);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) sum.at[part * WIDE + k] += pack.at[k];
  }
  store_eight(gradient + at, sum);
}

// Moves a moving average.
extern "C" __global__ void __launch_bounds__(256)
    move_average(float *average, const float *model, unsigned numbers, float keep, float take) {
  unsigned at = eighth();
  if (at >= numbers) return;
  Eight old = load_eight(average + at), now = load_eight(model + at);
#pragma unroll
  for (unsigned k = 0; k < 8; ++k) old.at[k] = old.at[k] * keep + now.at[k] * take;
  store_eight(average + at, old);
}

// Exchanges two runs of numbers.
extern "C" __global__ void __launch_bounds__(256)
    exchange(float *one, float *other, unsigned numbers) {
  unsigned at = eighth();
  if (at >= numbers) return;
  Eight kept = load_eight(one + at);
  store_eight(one + at, load_eight(other + at));
  store_eight(other + at, kept);
}

// Zeros.
extern "C" __global__ void __launch_bounds__(256) clear(float *values, unsigned numbers) {
  unsigned at = eighth();
  const Eight none = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  if (at < numbers) store_eight(values + at, none);
}
