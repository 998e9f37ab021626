// Binary cross-entropy and cross-entropy on sparse mixed targets, and the classifier's bias. See src/loss.rs.
//
// A block a sample. exp and log are polynomials of our own, so that the twin in Rust has the same bits: exp within 0.99 ulp
// of the truth, log within 1.97. Twin: backend/cuda/twin/loss.rs.

// Added to a number of less than 2^22, it leaves the nearest integer in the low bits.
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
  // From the bits, for a NaN becomes no integer: it stays NaN by p.
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

// The sum of what the threads have, in every thread.
__device__ float block_sum(float *room, float own) {
  __syncthreads();
  room[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    __syncthreads();
  }
  return room[0];
}

__device__ float block_most(float *room, float own) {
  __syncthreads();
  room[threadIdx.x] = own;
  __syncthreads();
  for (unsigned half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      float other = room[threadIdx.x + half];
      if (other > room[threadIdx.x]) room[threadIdx.x] = other;
    }
    __syncthreads();
  }
  return room[0];
}

// A sample's target: lambda of class a and the rest of class b, both smoothed.
struct Target {
  unsigned a, b;
  float first, second, on, off;
};

__device__ float target_of(const Target &t, unsigned c) {
  return (c == t.a ? t.on : t.off) * t.first + (c == t.b ? t.on : t.off) * t.second;
}

// Binary cross-entropy of each class. `thresholded`: targets above `threshold` are 1, others 0. The losses are sums over the
// classes; gradients are multiplied by `scale`.
extern "C" __global__ void __launch_bounds__(256)
    binary_cross_entropy(const float *logits, const unsigned *labels_a, const unsigned *labels_b,
                         const float *lambda, Stored *slope, float *losses, unsigned classes,
                         float on, float off, unsigned thresholded, float threshold, float scale) {
  __shared__ float room[THREADS];
  unsigned sample = blockIdx.x;
  float share = lambda[sample];
  Target target = {labels_a[sample], labels_b[sample], share, 1.0f - share, on, off};
  float loss = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    float x = logits[sample * classes + c], y = target_of(target, c);
    if (thresholded) y = y > threshold ? 1.0f : 0.0f;
    // exp(-|x|) never overflows.
    float small = exp_of(x > 0.0f ? -x : x);
    loss += (x > 0.0f ? x : 0.0f) - x * y + log1p_of(small);
    float sigmoid = (x >= 0.0f ? 1.0f : small) / (1.0f + small);
    slope[sample * classes + c] = to_stored((sigmoid - y) * scale);
  }
  float sum = block_sum(room, loss);
  if (threadIdx.x == 0) losses[sample] = sum;
}

// Cross-entropy of the softmax.
extern "C" __global__ void __launch_bounds__(256)
    cross_entropy(const float *logits, const unsigned *labels_a, const unsigned *labels_b,
                  const float *lambda, Stored *slope, float *losses, unsigned classes, float on,
                  float off, float scale) {
  __shared__ float room[THREADS];
  unsigned sample = blockIdx.x;
  const float *row = logits + sample * classes;
  float share = lambda[sample];
  Target target = {labels_a[sample], labels_b[sample], share, 1.0f - share, on, off};
  float own = row[0];
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) own = row[c] > own ? row[c] : own;
  float most = block_most(room, own), part = 0.0f, part_of_targets = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    part += exp_of(row[c] - most);
    part_of_targets += target_of(target, c);
  }
  float sum = block_sum(room, part), whole = block_sum(room, part_of_targets);
  float log = log_of(sum), loss = 0.0f;
  for (unsigned c = threadIdx.x; c < classes; c += THREADS) {
    float x = row[c] - most, y = target_of(target, c);
    loss -= y * (x - log);
    slope[sample * classes + c] = to_stored((exp_of(x) / sum * whole - y) * scale);
  }
  float all = block_sum(room, loss);
  if (threadIdx.x == 0) losses[sample] = all;
}

// The classifier's bias, onto the logits.
extern "C" __global__ void __launch_bounds__(256)
    bias_add(float *logits, const float *bias, unsigned samples, unsigned classes) {
  unsigned number = blockIdx.x * THREADS + threadIdx.x;
  if (number < samples * classes) logits[number] += bias[number % classes];
}

// Adds the sum over samples to the bias's gradient. 16 classes a block, and 16 lanes that take each 16th sample.
extern "C" __global__ void __launch_bounds__(256)
    bias_gradient(const Stored *slope, float *gradient, unsigned samples, unsigned classes) {
  __shared__ float sums[THREADS];
  unsigned c = blockIdx.x * 16 + threadIdx.x % 16, lane = threadIdx.x / 16;
  float sum = 0.0f;
  if (c < classes) {
    for (unsigned sample = lane; sample < samples; sample += 16) {
      sum += to_float(slope[sample * classes + c]);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (lane > 0 || c >= classes) return;
  sum = 0.0f;
  for (unsigned other = 0; other < 16; ++other) sum += sums[other * 16 + threadIdx.x];
  gradient[c] += sum;
}
