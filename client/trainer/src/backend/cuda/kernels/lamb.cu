// LAMB, SGD and AdamW over all tensors at once, gradient clipping, and other elementwise kernels over all parameters. See
// src/lamb.rs and src/optimizer.rs.
//
// Parameters, gradients and both moments are f32 and have the same layout: each tensor starts at a multiple of 16 values and
// is padded with zeros. A chunk is a range of one tensor that one block processes. Twin: backend/cuda/twin/lamb.rs.

// Maximum number of values in a chunk.
constexpr unsigned CHUNK = 8192;

struct alignas(16) Chunk {
  unsigned start;   // index of its first value
  unsigned length;  // number of values, without padding
  unsigned tensor;
  unsigned flags;

  __device__ bool decays() const { return flags & 1; }
  // Of each eight values, those that exist. The rest are zeros.
  __device__ unsigned existing() const { return flags >> 16; }
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

// Stores eight values in the precision of activations.
__device__ void store_copy(Stored *to, const Eight &eight) {
#pragma unroll
  for (unsigned part = 0; part < 8 / WIDE; ++part) {
    Pack pack;
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) pack.at[k] = eight.at[part * WIDE + k];
    store16(to + part * WIDE, pack);
  }
}

// Sums a value of each thread, for all threads.
template <typename T>
__device__ T block_sum(T *scratch, T own) {
  scratch[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    __syncthreads();
  }
  T sum = scratch[0];
  __syncthreads();
  return sum;
}

// Sums of squares, of CHUNK values per block. `len` is a multiple of 8.
extern "C" __global__ void __launch_bounds__(256)
    square_sums(const float *values, float *partial, unsigned len) {
  __shared__ float scratch[THREADS];
  unsigned begin = blockIdx.x * CHUNK, end = min(len, begin + CHUNK);
  float sum = 0.0f;
  for (unsigned at = begin + threadIdx.x * 8; at < end; at += THREADS * 8) {
    Eight eight = load_eight(values + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) sum += eight.at[k] * eight.at[k];
  }
  sum = block_sum(scratch, sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Updates of a dynamic scale in a row before it is doubled.
constexpr unsigned GROWTH_INTERVAL = 2000;

// The largest scale that is doubled: its double is finite in f32.
constexpr float MAX_SCALE = 8.507059173e37f;

// A power by repeated squaring, which the twin repeats bit for bit.
__device__ double power_of(double base, unsigned long long exponent) {
  double power = 1.0;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) power *= base;
    base *= base;
  }
  return power;
}

// Decides whether the update is skipped, and changes the scale for the next one. Writes the corrections of this update, which
// depend on the number of updates that were applied.
__device__ void update_scaler(Scaler *scaler, bool finite, float *corrections, double beta1, double beta2,
                              unsigned corrected) {
  scaler->skip = !finite;
  if (!finite) {
    scaler->scale *= 0.5f;
    scaler->growth = 0;
    scaler->skipped += 1;
    return;
  }
  unsigned long long updates = scaler->updates + 1;
  scaler->updates = updates;
  corrections[0] = corrected ? 1.0 - power_of(beta1, updates) : 1.0;
  corrections[1] = corrected ? sqrt(1.0 - power_of(beta2, updates)) : 1.0;
  unsigned growth = scaler->growth + 1;
  if (growth == GROWTH_INTERVAL) {
    if (scaler->scale <= MAX_SCALE) scaler->scale *= 2.0f;
    growth = 0;
  }
  scaler->growth = growth;
}

// The norm of all gradients without the loss scale, and the divisor that clips it and removes the scale: first to
// `clip_norm` as torch does, then to `max_norm` as LAMB does. A norm of 0 does not clip.
extern "C" __global__ void __launch_bounds__(256)
    gradient_norm(const float *partial, unsigned parts, float clip_norm, float max_norm, double *norm,
                  float *clip, Scaler *scaler, float *corrections, double beta1, double beta2,
                  unsigned corrected) {
  __shared__ double scratch[THREADS];
  double sum = 0.0;
  for (unsigned part = threadIdx.x; part < parts; part += THREADS) sum += partial[part];
  sum = block_sum(scratch, sum);
  if (threadIdx.x > 0) return;
  double scale = scaler->scale, root = sqrt(sum) / scale, factor = clip_norm / (root + 1e-6);
  if (!(clip_norm > 0.0f && factor < 1.0)) factor = 1.0;
  double ratio = root * factor / max_norm;
  *norm = root;
  *clip = (max_norm > 0.0f && ratio > 1.0 ? ratio : 1.0) * scale / factor;
  // The difference is NaN for a root that is NaN or infinite.
  if (scaler->dynamic) update_scaler(scaler, root - root == 0.0, corrections, beta1, beta2, corrected);
}

// Updates the moments and replaces the gradient by Adam's direction plus weight decay. Also sums the squares of the
// parameters and of the direction over the chunk. `corrections` are those of both moments at this step. Does nothing if the update
// is skipped, as do the next two, except that the gradient is cleared.
extern "C" __global__ void __launch_bounds__(256)
    lamb_direction(const Chunk *chunks, const float *parameter, float *gradient, float *exp_avg,
                   float *exp_avg_sq, float2 *partial, const float *clip, float beta1, float beta3,
                   float beta2, float one_minus_beta2, const float *corrections, float eps,
                   float decay, const Scaler *scaler) {
  __shared__ float scratch[THREADS];
  if (scaler->skip) return;
  Chunk chunk = chunks[blockIdx.x];
  float correction1 = corrections[0], correction2 = corrections[1];
  float divide = *clip, own_decay = chunk.decays() ? decay : 0.0f, weights = 0.0f, update = 0.0f;
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    Eight p = load_eight(parameter + at), g = load_eight(gradient + at);
    Eight m = load_eight(exp_avg + at), s = load_eight(exp_avg_sq + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) {
      float now = g.at[k] / divide;
      m.at[k] = beta1 * m.at[k] + beta3 * now;
      s.at[k] = beta2 * s.at[k] + one_minus_beta2 * now * now;
      float root = sqrtf(s.at[k]) / correction2 + eps;
      float direction = m.at[k] / correction1 / root + own_decay * p.at[k];
      // The padding stays zero, even if eps is 0 and the quotient NaN.
      g.at[k] = in + k < chunk.length && k < chunk.existing() ? direction : 0.0f;
      weights += p.at[k] * p.at[k];
      update += g.at[k] * g.at[k];
    }
    store_eight(gradient + at, g);
    store_eight(exp_avg + at, m);
    store_eight(exp_avg_sq + at, s);
  }
  weights = block_sum(scratch, weights);
  update = block_sum(scratch, update);
  if (threadIdx.x == 0) partial[blockIdx.x] = make_float2(weights, update);
}

// The chunks of a tensor.
struct alignas(16) Tensor {
  unsigned first, chunks;
  unsigned adapts;
  unsigned unused;
};

// The trust ratio of a tensor, one tensor per block: the norm of its parameters over that of the direction.
extern "C" __global__ void __launch_bounds__(256)
    lamb_ratio(const Tensor *tensors, const float2 *partial, float *ratios, unsigned always,
               unsigned decays, unsigned trust_clip, const Scaler *scaler) {
  __shared__ double scratch[THREADS];
  if (scaler->skip) return;
  Tensor tensor = tensors[blockIdx.x];
  double weights = 0.0, update = 0.0;
  for (unsigned chunk = threadIdx.x; chunk < tensor.chunks; chunk += THREADS) {
    float2 sums = partial[tensor.first + chunk];
    weights += sums.x;
    update += sums.y;
  }
  weights = sqrt(block_sum(scratch, weights));
  update = sqrt(block_sum(scratch, update));
  if (threadIdx.x > 0) return;
  double ratio = 1.0;
  if (always || (decays && tensor.adapts)) {
    if (weights > 0.0 && update > 0.0) ratio = weights / update;
    if (trust_clip && ratio > 1.0) ratio = 1.0;
  }
  ratios[blockIdx.x] = ratio;
}

// Updates the parameters, writes the copy that matrix products read, and clears the gradient.
extern "C" __global__ void __launch_bounds__(256)
    lamb_apply(const Chunk *chunks, const float *ratios, float *parameter, float *gradient,
               Stored *copy, const float *lr, const Scaler *scaler) {
  Chunk chunk = chunks[blockIdx.x];
  bool skip = scaler->skip;
  float ratio = skip ? 0.0f : ratios[chunk.tensor], rate = *lr;
  const Eight zero = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    if (skip) {
      store_eight(gradient + at, zero);
      continue;
    }
    Eight p = load_eight(parameter + at), d = load_eight(gradient + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) p.at[k] = p.at[k] - rate * (d.at[k] * ratio);
    store_eight(parameter + at, p);
    store_eight(gradient + at, zero);
    store_copy(copy + at, p);
  }
}

// Updates the parameters by SGD and clears the gradient: with Nesterov or classical momentum, or without for a momentum of 0.
// Only clears the gradient if the update is skipped, as does adamw_apply.
extern "C" __global__ void __launch_bounds__(256)
    sgd_apply(const Chunk *chunks, float *parameter, float *gradient, float *buffer, Stored *copy,
              const float *clip, const float *lr, float momentum, unsigned nesterov, float decay,
              const Scaler *scaler) {
  Chunk chunk = chunks[blockIdx.x];
  bool skip = scaler->skip, moves = momentum > 0.0f;
  float divide = *clip, rate = *lr, own_decay = chunk.decays() ? decay : 0.0f;
  const Eight zero = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    if (skip) {
      store_eight(gradient + at, zero);
      continue;
    }
    Eight p = load_eight(parameter + at), d = load_eight(gradient + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) d.at[k] = d.at[k] / divide + own_decay * p.at[k];
    if (moves) {
      Eight b = load_eight(buffer + at);
#pragma unroll
      for (unsigned k = 0; k < 8; ++k) {
        b.at[k] = momentum * b.at[k] + d.at[k];
        d.at[k] = nesterov ? d.at[k] + momentum * b.at[k] : b.at[k];
      }
      store_eight(buffer + at, b);
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) p.at[k] = p.at[k] - rate * d.at[k];
    store_eight(parameter + at, p);
    store_eight(gradient + at, zero);
    store_copy(copy + at, p);
  }
}

// Updates moments and parameters by AdamW and clears the gradient. `corrections` are as in lamb_direction.
extern "C" __global__ void __launch_bounds__(256)
    adamw_apply(const Chunk *chunks, float *parameter, float *gradient, float *exp_avg,
                float *exp_avg_sq, Stored *copy, const float *clip, const float *lr,
                float one_minus_beta1, float beta2, float one_minus_beta2, const float *corrections,
                float eps, float decay, const Scaler *scaler) {
  Chunk chunk = chunks[blockIdx.x];
  bool skip = scaler->skip;
  float divide = *clip, correction2 = corrections[1], step = *lr / corrections[0];
  float keep = 1.0f - *lr * (chunk.decays() ? decay : 0.0f);
  const Eight zero = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  for (unsigned in = threadIdx.x * 8; in < chunk.length; in += THREADS * 8) {
    unsigned at = chunk.start + in;
    if (skip) {
      store_eight(gradient + at, zero);
      continue;
    }
    Eight p = load_eight(parameter + at), g = load_eight(gradient + at);
    Eight m = load_eight(exp_avg + at), s = load_eight(exp_avg_sq + at);
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) {
      float now = g.at[k] / divide;
      m.at[k] = m.at[k] + one_minus_beta1 * (now - m.at[k]);
      s.at[k] = beta2 * s.at[k] + one_minus_beta2 * now * now;
      float root = sqrtf(s.at[k]) / correction2 + eps;
      float moved = p.at[k] * keep - step * m.at[k] / root;
      // The padding stays zero, even if eps is 0 and the quotient NaN.
      p.at[k] = in + k < chunk.length && k < chunk.existing() ? moved : 0.0f;
    }
    store_eight(exp_avg + at, m);
    store_eight(exp_avg_sq + at, s);
    store_eight(parameter + at, p);
    store_eight(gradient + at, zero);
    store_copy(copy + at, p);
  }
}

// Index of the first of this thread's eight values.
__device__ unsigned first_of_eight() { return (blockIdx.x * THREADS + threadIdx.x) * 8; }

// Removes the loss scale from the gradients and limits each value to `limit` on both sides of 0. Does nothing if the update is
// skipped, as clip_outputs. `len` is a multiple of 8, here and below.
extern "C" __global__ void __launch_bounds__(256)
    clip_values(float *gradient, unsigned len, const float *divide, float limit, const Scaler *scaler) {
  unsigned at = first_of_eight();
  if (at >= len || scaler->skip) return;
  float scale = *divide;
  Eight g = load_eight(gradient + at);
#pragma unroll
  for (unsigned k = 0; k < 8; ++k) {
    float value = g.at[k] / scale;
    // Unlike fminf and fmaxf, keeps NaN.
    value = value < -limit ? -limit : value;
    g.at[k] = value > limit ? limit : value;
  }
  store_eight(gradient + at, g);
}

// The weights of one output of a convolution, or a whole tensor.
struct alignas(16) Output {
  unsigned start;   // index of its first value
  unsigned length;  // number of values
  unsigned clips;
  unsigned unused;
};

// Removes the loss scale from the gradients, and limits the norm of each output's gradient to a share of the norm of its weights.
// One output per block.
extern "C" __global__ void __launch_bounds__(256)
    clip_outputs(const Output *outputs, const float *parameter, float *gradient, const float *divide,
                 float share, const Scaler *scaler) {
  __shared__ float scratch[THREADS];
  if (scaler->skip) return;
  Output output = outputs[blockIdx.x];
  float scale = *divide, weights = 0.0f, gradients = 0.0f;
  for (unsigned in = threadIdx.x; in < output.length; in += THREADS) {
    float p = parameter[output.start + in], g = gradient[output.start + in] / scale;
    weights += p * p;
    gradients += g * g;
  }
  weights = sqrtf(block_sum(scratch, weights));
  gradients = sqrtf(block_sum(scratch, gradients));
  float most = (weights < 1e-3f ? 1e-3f : weights) * share, factor = 1.0f;
  if (output.clips && !(gradients < most)) factor = most / (gradients < 1e-6f ? 1e-6f : gradients);
  for (unsigned in = threadIdx.x; in < output.length; in += THREADS) {
    gradient[output.start + in] = gradient[output.start + in] / scale * factor;
  }
}

// The divisor that clips gradients which were clipped before to `max_norm`, as LAMB does. A norm of 0 does not clip.
extern "C" __global__ void __launch_bounds__(256)
    clipped_norm(const float *partial, unsigned parts, float max_norm, float *clip) {
  __shared__ double scratch[THREADS];
  double sum = 0.0;
  for (unsigned part = threadIdx.x; part < parts; part += THREADS) sum += partial[part];
  double ratio = sqrt(block_sum(scratch, sum)) / max_norm;
  if (threadIdx.x == 0) *clip = max_norm > 0.0f && ratio > 1.0 ? ratio : 1.0;
}

// Writes the copy of all parameters.
extern "C" __global__ void __launch_bounds__(256)
    copy_parameters(const float *parameter, Stored *copy, unsigned len) {
  unsigned at = first_of_eight();
  if (at < len) store_copy(copy + at, load_eight(parameter + at));
}

// Adds the gradients of a microbatch to those of the step.
extern "C" __global__ void __launch_bounds__(256)
    add_gradients(const Stored *from, float *gradient, unsigned len) {
  unsigned at = first_of_eight();
  if (at >= len) return;
  Eight sum = load_eight(gradient + at);
#pragma unroll
  for (unsigned part = 0; part < 8 / WIDE; ++part) {
    Pack pack = load16(from + at + part * WIDE);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) sum.at[part * WIDE + k] += pack.at[k];
  }
  store_eight(gradient + at, sum);
}

// Updates a moving average: `weights` are those of the average and of the model.
extern "C" __global__ void __launch_bounds__(256)
    update_ema(float *ema, const float *model, unsigned len, const float *weights) {
  unsigned at = first_of_eight();
  if (at >= len) return;
  float keep = weights[0], take = weights[1];
  Eight old = load_eight(ema + at), now = load_eight(model + at);
#pragma unroll
  for (unsigned k = 0; k < 8; ++k) old.at[k] = old.at[k] * keep + now.at[k] * take;
  store_eight(ema + at, old);
}

// Exchanges two arrays.
extern "C" __global__ void __launch_bounds__(256)
    exchange(float *one, float *other, unsigned len) {
  unsigned at = first_of_eight();
  if (at >= len) return;
  Eight kept = load_eight(one + at);
  store_eight(one + at, load_eight(other + at));
  store_eight(other + at, kept);
}

// Fills an array with zeros.
extern "C" __global__ void __launch_bounds__(256) clear(float *values, unsigned len) {
  unsigned at = first_of_eight();
  const Eight zero = {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}};
  if (at < len) store_eight(values + at, zero);
}

// Stores the first `count` of the values. Kernels read what changes from step to step from memory, so that their launches can be
// captured in a graph once; this one is launched before the graph.
extern "C" __global__ void __launch_bounds__(256)
    store_scalars(float *to, unsigned count, float a, float b, float c, float d, float e) {
  if (threadIdx.x > 0) return;
  if (count > 0) to[0] = a;
  if (count > 1) to[1] = b;
  if (count > 2) to[2] = c;
  if (count > 3) to[3] = d;
  if (count > 4) to[4] = e;
}
