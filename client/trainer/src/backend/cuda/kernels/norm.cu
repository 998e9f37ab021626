// Batch norm, fused with stochastic depth, the residual sum and ReLU; forward and backward.
//
// x is a matrix with one row per pixel and one column per channel. A block processes a chunk of rows and a tile of groups of
// channels. A thread processes one group of 16 bytes of every `lanes`-th row, so that the constants of a channel stay in
// registers. Sums have two stages: over a chunk in f32, and over chunks in norm_finish and norm_gradients in f64.
// Twin: backend/cuda/twin/norm.rs.

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// The work of one thread.
struct Tile {
  Group group;
  unsigned lane, lanes;
  unsigned begin, end;  // rows
  bool active;
};

__device__ Tile tile_of(unsigned rows, unsigned channels, unsigned tile, unsigned chunk_rows) {
  unsigned lanes = THREADS / tile, lane = threadIdx.x / tile;
  unsigned group = blockIdx.y * tile + threadIdx.x % tile;
  bool active = lane < lanes && group < groups_of(channels);
  unsigned begin = blockIdx.x * chunk_rows;
  return {group_of(active ? group : 0, channels), lane, lanes, begin, min(rows, begin + chunk_rows),
          active};
}

// Sums the lanes' values of each channel: `first` into partial[chunk][0], `second` into partial[chunk][1].
__device__ void add_lanes(float *sums, const Tile &own, const Pack &first, const Pack &second,
                          unsigned channels, unsigned tile, float *partial) {
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    sums[k * THREADS + threadIdx.x] = first.at[k];
    sums[(WIDE + k) * THREADS + threadIdx.x] = second.at[k];
  }
  __syncthreads();
  for (unsigned column = threadIdx.x; column < 2 * WIDE * tile; column += THREADS) {
    unsigned k = column / tile, in_tile = column % tile;
    unsigned channel = (blockIdx.y * tile + in_tile) * WIDE + k % WIDE;
    if (channel >= channels) continue;
    float sum = 0.0f;
    for (unsigned lane = 0; lane < own.lanes; ++lane) {
      sum += sums[k * THREADS + lane * tile + in_tile];
    }
    partial[(blockIdx.x * 2 + k / WIDE) * channels + channel] = sum;
  }
}

// Sums over a chunk of the distance to the first row, and of its square.
extern "C" __global__ void __launch_bounds__(256)
    norm_sums(const Stored *x, float *partial, unsigned rows, unsigned channels, unsigned tile,
              unsigned chunk_rows) {
  __shared__ float sums[2 * WIDE * THREADS];
  Tile own = tile_of(rows, channels, tile, chunk_rows);
  Group group = own.group;
  Pack first = zeros(), second = zeros();
  if (own.active) {
    x += group.first;
    Pack origin = load(x, group.count, group.wide);
    for (unsigned row = own.begin + own.lane; row < own.end; row += own.lanes) {
      Pack values = load(x + Offset(row) * channels, group.count, group.wide);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        float distance = values.at[k] - origin.at[k];
        first.at[k] += distance;
        second.at[k] += distance * distance;
      }
    }
  }
  add_lanes(sums, own, first, second, channels, tile, partial);
}

// A block of norm_finish and norm_gradients has 16 channels, and 16 lanes that take every 16th chunk.
constexpr unsigned LANES = 16;

// Sums over the chunks of one channel. The result is valid in lane 0.
__device__ void add_chunks(double *sums, const float *partial, unsigned chunks, unsigned channels,
                           unsigned channel, unsigned lane, double &first, double &second) {
  first = second = 0.0;
  if (channel < channels) {
    for (unsigned chunk = lane; chunk < chunks; chunk += LANES) {
      first += partial[(chunk * 2) * channels + channel];
      second += partial[(chunk * 2 + 1) * channels + channel];
    }
  }
  sums[threadIdx.x] = first;
  sums[THREADS + threadIdx.x] = second;
  __syncthreads();
  first = second = 0.0;
  for (unsigned other = 0; other < LANES; ++other) {
    first += sums[other * LANES + threadIdx.x % LANES];
    second += sums[THREADS + other * LANES + threadIdx.x % LANES];
  }
}

// Saves mean, 1 / standard deviation, factor and shift of a channel.
__device__ void save(float *saved, unsigned channels, unsigned channel, double mean,
                     double variance, const float *gamma, const float *beta) {
  double inverse = 1.0 / sqrt(variance + EPS);
  double factor = inverse * gamma[channel];
  saved[channel] = mean;
  saved[channels + channel] = inverse;
  saved[2 * channels + channel] = factor;
  saved[3 * channels + channel] = beta[channel] - mean * factor;
}

// Saves the statistics of the batch. Writes to `statistics` the means, then the unbiased variances, by which
// norm_update_running updates the running statistics.
extern "C" __global__ void __launch_bounds__(256)
    norm_finish(const Stored *x, const float *partial, const float *gamma, const float *beta,
                float *statistics, float *saved, unsigned chunks, unsigned rows, unsigned channels) {
  __shared__ double sums[2 * THREADS];
  unsigned channel = blockIdx.x * LANES + threadIdx.x % LANES, lane = threadIdx.x / LANES;
  double first, second, count = rows;
  add_chunks(sums, partial, chunks, channels, channel, lane, first, second);
  if (lane > 0 || channel >= channels) return;
  double mean = to_float(x[channel]) + first / count;
  double square = second - first * first / count;
  if (square < 0.0) square = 0.0;
  save(saved, channels, channel, mean, square / count, gamma, beta);
  statistics[channel] = mean;
  statistics[channels + channel] = square / (rows > 1 ? count - 1.0 : 1.0);
}

// Updates the running statistics of all batch norms by those of a microbatch.
extern "C" __global__ void __launch_bounds__(256)
    norm_update_running(const float *statistics, float *running, unsigned len) {
  unsigned index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= len) return;
  running[index] = (1.0 - MOMENTUM) * running[index] + MOMENTUM * statistics[index];
}

// Saves mean, 1 / standard deviation, factor and shift of the running statistics, for inference.
extern "C" __global__ void __launch_bounds__(256)
    norm_running(const float *running, const float *gamma, const float *beta, float *saved,
                 unsigned channels) {
  unsigned channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  save(saved, channels, channel, running[channel], running[channels + channel], gamma, beta);
}

// y = relu(residual + scale * (x * factor + shift)). The scale is used only with a residual, and is 1 without scales.
extern "C" __global__ void __launch_bounds__(256)
    norm_apply(const Stored *x, const Stored *residual, const float *scales, const float *saved,
               Stored *y, unsigned rows, unsigned channels, unsigned tile, unsigned chunk_rows,
               unsigned pixels, unsigned relu) {
  Tile own = tile_of(rows, channels, tile, chunk_rows);
  if (!own.active) return;
  Group group = own.group;
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  for (unsigned row = own.begin + own.lane; row < own.end; row += own.lanes) {
    Offset at = Offset(row) * channels + group.first;
    Pack values = load(x + at, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      values.at[k] = values.at[k] * factor.at[k] + shift.at[k];
    }
    if (residual != nullptr) {
      float scale = scales != nullptr ? scales[row / pixels] : 1.0f;
      Pack other = load(residual + at, group.count, group.wide);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        values.at[k] = other.at[k] + scale * values.at[k];
      }
    }
    if (relu) {
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        if (values.at[k] < 0.0f) values.at[k] = 0.0f;
      }
    }
    store(y + at, values, group.count, group.wide);
  }
}

// Sums over a chunk of the gradient before ReLU and stochastic depth, and of this gradient times the distance to the mean.
// With a residual, y is the output, and dy becomes the gradient before ReLU, which is that of the residual. Without one, y
// is null, and the input of ReLU is computed again from x.
extern "C" __global__ void __launch_bounds__(256)
    norm_reduce(const Stored *x, const Stored *y, Stored *dy, const float *scales,
                const float *saved, float *partial, unsigned rows, unsigned channels, unsigned tile,
                unsigned chunk_rows, unsigned pixels, unsigned relu) {
  __shared__ float sums[2 * WIDE * THREADS];
  Tile own = tile_of(rows, channels, tile, chunk_rows);
  Group group = own.group;
  Pack first = zeros(), second = zeros();
  if (own.active) {
    Pack mean = load_f32(saved + group.first, group.count);
    Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
    Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
    for (unsigned row = own.begin + own.lane; row < own.end; row += own.lanes) {
      Offset at = Offset(row) * channels + group.first;
      Pack values = load(x + at, group.count, group.wide);
      Pack gradient = load(dy + at, group.count, group.wide);
      float scale = 1.0f;
      if (y != nullptr) {
        Pack output = load(y + at, group.count, group.wide);
#pragma unroll
        for (unsigned k = 0; k < WIDE; ++k) {
          if (relu && !(output.at[k] > 0.0f)) gradient.at[k] = 0.0f;
        }
        if (relu) store(dy + at, gradient, group.count, group.wide);
        if (scales != nullptr) scale = scales[row / pixels];
      } else {
#pragma unroll
        for (unsigned k = 0; k < WIDE; ++k) {
          bool on = values.at[k] * factor.at[k] + shift.at[k] > 0.0f;
          if (relu && !on) gradient.at[k] = 0.0f;
        }
      }
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        float scaled = gradient.at[k] * scale;
        first.at[k] += scaled;
        second.at[k] += scaled * (values.at[k] - mean.at[k]);
      }
    }
  }
  add_lanes(sums, own, first, second, channels, tile, partial);
}

// Adds to the gradients of gamma and beta. Writes to `means` two values per channel, which norm_backward needs: the mean
// gradient, and the mean of (gradient times distance to the mean) divided by the variance.
extern "C" __global__ void __launch_bounds__(256)
    norm_gradients(const float *partial, const float *saved, float *dgamma, float *dbeta, float *means,
                unsigned chunks, unsigned rows, unsigned channels) {
  __shared__ double sums[2 * THREADS];
  unsigned channel = blockIdx.x * LANES + threadIdx.x % LANES, lane = threadIdx.x / LANES;
  double sum, product, count = rows;
  add_chunks(sums, partial, chunks, channels, channel, lane, sum, product);
  if (lane > 0 || channel >= channels) return;
  double inverse = saved[channels + channel];
  dbeta[channel] += static_cast<float>(sum);
  dgamma[channel] += static_cast<float>(product * inverse);
  means[channel] = sum / count;
  means[channels + channel] = product * inverse * inverse / count;
}

// The gradient of x. With a residual, dy is the gradient before ReLU. Without one, dy is the gradient of the output, and dx
// may be the same array.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward(const Stored *x, const Stored *dy, const float *scales, const float *saved,
                  const float *means, Stored *dx, unsigned rows, unsigned channels, unsigned tile,
                  unsigned chunk_rows, unsigned pixels, unsigned relu, unsigned has_residual) {
  Tile own = tile_of(rows, channels, tile, chunk_rows);
  if (!own.active) return;
  Group group = own.group;
  Pack mean = load_f32(saved + group.first, group.count);
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  Pack mean_gradient = load_f32(means + group.first, group.count);
  Pack mean_product = load_f32(means + channels + group.first, group.count);
  for (unsigned row = own.begin + own.lane; row < own.end; row += own.lanes) {
    Offset at = Offset(row) * channels + group.first;
    Pack values = load(x + at, group.count, group.wide);
    Pack gradient = load(dy + at, group.count, group.wide);
    float scale = has_residual && scales != nullptr ? scales[row / pixels] : 1.0f;
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      bool on = values.at[k] * factor.at[k] + shift.at[k] > 0.0f;
      if (relu && !has_residual && !on) gradient.at[k] = 0.0f;
      float centered = gradient.at[k] * scale - mean_gradient.at[k];
      gradient.at[k] = factor.at[k] * (centered - (values.at[k] - mean.at[k]) * mean_product.at[k]);
    }
    store(dx + at, gradient, group.count, group.wide);
  }
}
