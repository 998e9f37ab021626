// Batch norm with what follows it: stochastic depth, the residual sum, ReLU; forward and backward.
//
// x is a matrix: a row a pixel, a column a channel. A block takes a chunk of rows and a tile of channel groups; a thread one
// group of 16 bytes and each `lanes`-th row, so that a channel's constants stay in registers. Sums go in two stages: the
// chunk's here, those over chunks in norm_finish and norm_slopes, in f64. Twin: backend/cuda/twin/norm.rs.

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// What one thread of a block works on.
struct Part {
  Group group;
  unsigned lane, lanes;
  unsigned begin, end;  // rows
  bool active;
};

__device__ Part part_of(unsigned rows, unsigned channels, unsigned tile, unsigned chunk_rows) {
  unsigned lanes = THREADS / tile, lane = threadIdx.x / tile;
  unsigned group = blockIdx.y * tile + threadIdx.x % tile;
  bool active = lane < lanes && group < groups_of(channels);
  unsigned begin = blockIdx.x * chunk_rows;
  return {group_of(active ? group : 0, channels), lane, lanes, begin, min(rows, begin + chunk_rows),
          active};
}

// Adds up what the lanes have of each channel: `first` to partial[chunk][0], `second` to partial[chunk][1].
__device__ void add_lanes(float *sums, const Part &part, const Pack &first, const Pack &second,
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
    for (unsigned lane = 0; lane < part.lanes; ++lane) {
      sum += sums[k * THREADS + lane * tile + in_tile];
    }
    partial[(blockIdx.x * 2 + k / WIDE) * channels + channel] = sum;
  }
}

// A chunk's sums of the distance to the first row, and of its square.
extern "C" __global__ void __launch_bounds__(256)
    norm_sums(const Stored *x, float *partial, unsigned rows, unsigned channels, unsigned tile,
              unsigned chunk_rows) {
  __shared__ float sums[2 * WIDE * THREADS];
  Part part = part_of(rows, channels, tile, chunk_rows);
  Group group = part.group;
  Pack first = zeros(), second = zeros();
  if (part.active) {
    x += group.first;
    Pack origin = load(x, group.count, group.wide);
    for (unsigned row = part.begin + part.lane; row < part.end; row += part.lanes) {
      Pack numbers = load(x + Offset(row) * channels, group.count, group.wide);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        float distance = numbers.at[k] - origin.at[k];
        first.at[k] += distance;
        second.at[k] += distance * distance;
      }
    }
  }
  add_lanes(sums, part, first, second, channels, tile, partial);
}

// Threads of norm_finish and norm_slopes: 16 channels, and 16 lanes that take each 16th chunk.
constexpr unsigned LANES = 16;

// The sums over chunks of one channel, right in lane 0.
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

// Mean, 1 / deviation, factor and shift of a channel.
__device__ void save(float *saved, unsigned channels, unsigned channel, double mean,
                     double variance, const float *gamma, const float *beta) {
  double inverse = 1.0 / sqrt(variance + EPS);
  double factor = inverse * gamma[channel];
  saved[channel] = mean;
  saved[channels + channel] = inverse;
  saved[2 * channels + channel] = factor;
  saved[3 * channels + channel] = beta[channel] - mean * factor;
}

// Saves the batch's statistics; `statistics` gets means, then unbiased variances: what the running ones follow.
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

// Moves the running statistics of all norms by those of a microbatch.
extern "C" __global__ void __launch_bounds__(256)
    norm_follow(const float *statistics, float *running, unsigned numbers) {
  unsigned number = blockIdx.x * THREADS + threadIdx.x;
  if (number >= numbers) return;
  running[number] = (1.0 - MOMENTUM) * running[number] + MOMENTUM * statistics[number];
}

// Saves the running statistics: for inference.
extern "C" __global__ void __launch_bounds__(256)
    norm_running(const float *running, const float *gamma, const float *beta, float *saved,
                 unsigned channels) {
  unsigned channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  save(saved, channels, channel, running[channel], running[channels + channel], gamma, beta);
}

// y = relu(residual + scale * (x * factor + shift)). Without a residual there is no scale; without scales it is 1.
extern "C" __global__ void __launch_bounds__(256)
    norm_apply(const Stored *x, const Stored *residual, const float *scales, const float *saved,
               Stored *y, unsigned rows, unsigned channels, unsigned tile, unsigned chunk_rows,
               unsigned pixels, unsigned relu) {
  Part part = part_of(rows, channels, tile, chunk_rows);
  if (!part.active) return;
  Group group = part.group;
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  for (unsigned row = part.begin + part.lane; row < part.end; row += part.lanes) {
    Offset at = Offset(row) * channels + group.first;
    Pack numbers = load(x + at, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      numbers.at[k] = numbers.at[k] * factor.at[k] + shift.at[k];
    }
    if (residual != nullptr) {
      float scale = scales != nullptr ? scales[row / pixels] : 1.0f;
      Pack other = load(residual + at, group.count, group.wide);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        numbers.at[k] = other.at[k] + scale * numbers.at[k];
      }
    }
    if (relu) {
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        if (numbers.at[k] < 0.0f) numbers.at[k] = 0.0f;
      }
    }
    store(y + at, numbers, group.count, group.wide);
  }
}

// A chunk's sums of the gradient behind ReLU and depth, and of it times the distance to the mean. With a residual, y is the
// result, and dy becomes the gradient behind ReLU: the residual's. Else y is nothing, and ReLU is decided again.
extern "C" __global__ void __launch_bounds__(256)
    norm_reduce(const Stored *x, const Stored *y, Stored *dy, const float *scales,
                const float *saved, float *partial, unsigned rows, unsigned channels, unsigned tile,
                unsigned chunk_rows, unsigned pixels, unsigned relu) {
  __shared__ float sums[2 * WIDE * THREADS];
  Part part = part_of(rows, channels, tile, chunk_rows);
  Group group = part.group;
  Pack first = zeros(), second = zeros();
  if (part.active) {
    Pack mean = load_f32(saved + group.first, group.count);
    Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
    Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
    for (unsigned row = part.begin + part.lane; row < part.end; row += part.lanes) {
      Offset at = Offset(row) * channels + group.first;
      Pack numbers = load(x + at, group.count, group.wide);
      Pack slope = load(dy + at, group.count, group.wide);
      float scale = 1.0f;
      if (y != nullptr) {
        Pack result = load(y + at, group.count, group.wide);
#pragma unroll
        for (unsigned k = 0; k < WIDE; ++k) {
          if (relu && !(result.at[k] > 0.0f)) slope.at[k] = 0.0f;
        }
        if (relu) store(dy + at, slope, group.count, group.wide);
        if (scales != nullptr) scale = scales[row / pixels];
      } else {
#pragma unroll
        for (unsigned k = 0; k < WIDE; ++k) {
          bool on = numbers.at[k] * factor.at[k] + shift.at[k] > 0.0f;
          if (relu && !on) slope.at[k] = 0.0f;
        }
      }
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        float scaled = slope.at[k] * scale;
        first.at[k] += scaled;
        second.at[k] += scaled * (numbers.at[k] - mean.at[k]);
      }
    }
  }
  add_lanes(sums, part, first, second, channels, tile, partial);
}

// Adds to the gradients of gamma and beta. `means`: the mean gradient, and that of gradient times deviation over the variance.
extern "C" __global__ void __launch_bounds__(256)
    norm_slopes(const float *partial, const float *saved, float *dgamma, float *dbeta, float *means,
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

// The gradient of x. With a residual (`behind`), dy is the gradient behind ReLU; else it is that of the result. dx may be dy.
extern "C" __global__ void __launch_bounds__(256)
    norm_backward(const Stored *x, const Stored *dy, const float *scales, const float *saved,
                  const float *means, Stored *dx, unsigned rows, unsigned channels, unsigned tile,
                  unsigned chunk_rows, unsigned pixels, unsigned relu, unsigned behind) {
  Part part = part_of(rows, channels, tile, chunk_rows);
  if (!part.active) return;
  Group group = part.group;
  Pack mean = load_f32(saved + group.first, group.count);
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  Pack slope = load_f32(means + group.first, group.count);
  Pack product = load_f32(means + channels + group.first, group.count);
  for (unsigned row = part.begin + part.lane; row < part.end; row += part.lanes) {
    Offset at = Offset(row) * channels + group.first;
    Pack numbers = load(x + at, group.count, group.wide);
    Pack even = load(dy + at, group.count, group.wide);
    float scale = behind && scales != nullptr ? scales[row / pixels] : 1.0f;
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      bool on = numbers.at[k] * factor.at[k] + shift.at[k] > 0.0f;
      if (relu && !behind && !on) even.at[k] = 0.0f;
      float rest = even.at[k] * scale - slope.at[k];
      even.at[k] = factor.at[k] * (rest - (numbers.at[k] - mean.at[k]) * product.at[k]);
    }
    store(dx + at, even, group.count, group.wide);
  }
}
