// Binary cross-entropy and cross-entropy on sparse mixed targets, and the classifier's bias. See src/loss.rs.
//
// Each block computes one sample. exp and log are polynomials defined here, so that the twin in Rust gives the same bits.
// exp is within 0.99 ulp of the exact result, and log within 1.97. Twin: backend/cuda/twin/loss.rs.

// Adding this to a number below 2^22 leaves the nearest integer in the low bits.
constexpr float MAGIC = 12582912.0f;

// e^x for x <= 0, and NaN for NaN. Below -87 it is 0.
__device__ float exp_of(float x) {
  if (x < -87.0f) return 0.0f;
  float shifted = x * 1.44269504f + MAGIC, k = shifted - MAGIC;
  float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^k is built from bits, because a NaN cannot be converted to an integer. If x is NaN, so are p and the result.
  return p * __uint_as_float((__float_as_uint(shifted) + 127) << 23);
}

// 2 atanh(s) for |s| <= 1/3: log((1 + s) / (1 - s)).
__device__ float twice_atanh(float s) {
  float z = s * s;
  float p = 1.0f / 15.0f;
  p = p * z + 1.0f / 13.0f;
  p = p * z + 1.0f / 11.0f;
  p = p * z + 1.0f / 9.0f;
  p = p * z + 1.0f / 7.0f;
  p = p * z + 1.0f / 5.0f;
  p = p * z + 1.0f / 3.0f;
  return 2.0f * s + 2.0f * s * z * p;
}

// log(1 + x) for 0 <= x <= 1.
__device__ float log1p_of(float x) { return twice_atanh(x / (2.0f + x)); }

// log(x) for x >= 1.
__device__ float log_of(float x) {
  unsigned bits = __float_as_uint(x);
  int exponent = static_cast<int>(bits >> 23) - 127;
  float mantissa = __uint_as_float((bits & 0x7fffffu) | 0x3f800000u);
  if (mantissa > 1.41421356f) {
    mantissa = mantissa * 0.5f;
    exponent += 1;
  }
  float log = twice_atanh((mantissa - 1.0f) / (mantissa + 1.0f));
  return static_cast<float>(exponent) * 0.693147181f + log;
}

// Sums a value of each thread. The result is valid in every thread.
__device__ float block_sum(float *scratch, float own) {
  __syncthreads();
  scratch[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    __syncthreads();
  }
  return scratch[0];
}

// Maximum of a value of each thread. The result is valid in every thread.
__device__ float block_max(float *scratch, float own) {
  __syncthreads();
  scratch[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      float other = scratch[threadIdx.x + half];
      if (other > scratch[threadIdx.x]) scratch[threadIdx.x] = other;
    }
    __syncthreads();
  }
  return scratch[0];
}

// The target of a sample: class a with weight `first`, class b with weight `second`, both smoothed.
struct Target {
  unsigned a, b;
  float first, second, on, off;
};

__device__ float target_of(const Target &t, unsigned c) {
  return (c == t.a ? t.on : t.off) * t.first + (c == t.b ? t.on : t.off) * t.second;
}

// Binary cross-entropy, summed over classes. With `thresholded`, targets above `threshold` become 1, all others 0. Gradients
// are multiplied by `*scale` and the loss scale, which are read from memory so that a captured launch can be repeated.
extern "C" __global__ void __launch_bounds__(256)
    binary_cross_entropy(const float *logits, const unsigned *labels_a, const unsigned *labels_b,
                         const float *lambda, Stored *gradient, float *losses, unsigned classes,
                         float on, float off, unsigned thresholded, float threshold, const float *scale,
                         const Scaler *scaler) {
  __shared__ float scratch[THREADS];
  unsigned sample = blockIdx.x;
  float share = lambda[sample], factor = *scale * scaler->scale;
  Target target = {labels_a[sample], labels_b[sample], share, 1.0f - share, on, off};
  float loss = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    float x = logits[sample * classes + c], y = target_of(target, c);
    if (thresholded) y = y > threshold ? 1.0f : 0.0f;
    // exp(-|x|) never overflows.
    float small = exp_of(x > 0.0f ? -x : x);
    loss += (x > 0.0f ? x : 0.0f) - x * y + log1p_of(small);
    float sigmoid = (x >= 0.0f ? 1.0f : small) / (1.0f + small);
    gradient[sample * classes + c] = to_stored((sigmoid - y) * factor);
  }
  float sum = block_sum(scratch, loss);
  if (threadIdx.x == 0) losses[sample] = sum;
}

// Cross-entropy of the softmax.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy(const float *logits, const unsigned *labels_a, const unsigned *labels_b,
                  const float *lambda, Stored *gradient, float *losses, unsigned classes, float on,
                  float off, const float *scale, const Scaler *scaler) {
  __shared__ float scratch[THREADS];
  unsigned sample = blockIdx.x;
  const float *row = logits + sample * classes;
  float share = lambda[sample], factor = *scale * scaler->scale;
  Target target = {labels_a[sample], labels_b[sample], share, 1.0f - share, on, off};
  float own = row[0];
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) own = row[c] > own ? row[c] : own;
  float max = block_max(scratch, own), part = 0.0f, part_of_targets = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    part += exp_of(row[c] - max);
    part_of_targets += target_of(target, c);
  }
  float sum = block_sum(scratch, part), target_sum = block_sum(scratch, part_of_targets);
  float log_sum = log_of(sum), loss = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    float x = row[c] - max, y = target_of(target, c);
    loss -= y * (x - log_sum);
    gradient[sample * classes + c] = to_stored((exp_of(x) / sum * target_sum - y) * factor);
  }
  float all = block_sum(scratch, loss);
  if (threadIdx.x == 0) losses[sample] = all;
}

// Adds the classifier's bias to the logits.
extern "C" __global__ void __launch_bounds__(256)
    bias_add(float *logits, const float *bias, unsigned samples, unsigned classes) {
  unsigned index = blockIdx.x * THREADS + threadIdx.x;
  if (index < samples * classes) logits[index] += bias[index % classes];
}

// Adds the sum over samples to the gradient of the bias. A block has 16 classes, and 16 lanes that take every 16th sample.
extern "C" __global__ void __launch_bounds__(256)
    bias_gradient(const Stored *dlogits, float *gradient, unsigned samples, unsigned classes) {
  __shared__ float sums[THREADS];
  unsigned c = blockIdx.x * 16 + threadIdx.x % 16, lane = threadIdx.x / 16;
  float sum = 0.0f;
  if (c < classes) {
    for (unsigned sample = lane; sample < samples; sample += 16) {
      sum += to_float(dlogits[sample * classes + c]);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0 || c >= classes) return;
  sum = 0.0f;
  for (unsigned other = 0; other < 16; ++other) sum += sums[other * 16 + threadIdx.x];
  gradient[c] += sum;
}
