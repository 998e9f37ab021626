// Batch norm, fused with stochastic depth, the residual sum and ReLU; forward and backward.
//
// x is a matrix with one row per pixel and one column per channel. A thread processes one group of 16 bytes of
// channels, so that the constants of a channel stay in registers. A block has a tile of groups, and a number of lanes,
// each with a thread for every group. A row belongs to one lane of one block. All lanes of all blocks together take
// consecutive rows, then the next ones, and so on. The rows of a block are its chunk. Sums have two stages: over a
// chunk in f32, and over chunks in norm_finish and norm_gradients in f64.
//
// These kernels wait for memory, so a thread loads up to ROWS rows before it computes, and the registers of a
// multiprocessor suffice for four blocks. launch/norm.rs chooses a number of blocks that all run at once, so that all
// walk through the tensor together. When the first pass over it ends, the L2 cache still holds its end. So the second
// pass, norm_apply or norm_backward, goes from the end to the beginning, where the convolution that comes next finds
// its input in the cache.
// Twin: backend/cuda/twin/norm.rs.

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// Rows that a thread loads at once.
constexpr unsigned ROWS = 2;

// The work of one thread.
struct Tile {
  Group group;
  unsigned lanes;
  unsigned first, step, rows;  // its first row, the distance to the next one, and the rows of the matrix
};

__device__ Tile tile_of(unsigned rows, unsigned channels, unsigned tile) {
  unsigned lanes = THREADS / tile, lane = threadIdx.x / tile;
  unsigned group = blockIdx.y * tile + threadIdx.x % tile;
  // Threads that are left over have no row.
  bool active = lane < lanes && group < groups_of(channels);
  unsigned first = active ? blockIdx.x * lanes + lane : rows;
  return {group_of(active ? group : 0, channels), lanes, first, gridDim.x * lanes, rows};
}

// The number of a group of a row, counted over the whole matrix. There are fewer than 2^32.
__device__ unsigned cell_of(unsigned row, const Group &group, unsigned channels) {
  return row * groups_of(channels) + group.first / WIDE;
}

__device__ Packed load_cell(const Stored *from, unsigned row, const Group &group, unsigned channels) {
  if (group.wide) return load_packed(from + Offset(cell_of(row, group, channels)) * WIDE, WIDE, true);
  return load_packed(from + Offset(row) * channels + group.first, group.count, false);
}

__device__ void store_cell(Stored *to, const Packed &packed, unsigned row, const Group &group,
                           unsigned channels) {
  if (group.wide) {
    return store_packed(to + Offset(cell_of(row, group, channels)) * WIDE, packed, WIDE, true);
  }
  store_packed(to + Offset(row) * channels + group.first, packed, group.count, false);
}

// Calls `load` for COUNT rows of the thread, or as many as are left, and then `use` for the same rows; and so on. Both get the
// number of the row among these, and the row, which with FROM_END is counted from the end of the matrix.
template <unsigned COUNT, bool FROM_END, typename Load, typename Use>
__device__ void each_row(const Tile &own, Load load, Use use) {
  for (unsigned first = own.first; first < own.rows; first += COUNT * own.step) {
#pragma unroll
    for (unsigned k = 0; k < COUNT; ++k) {
      unsigned row = first + k * own.step;
      if (row < own.rows) load(k, FROM_END ? own.rows - 1 - row : row);
    }
#pragma unroll
    for (unsigned k = 0; k < COUNT; ++k) {
      unsigned row = first + k * own.step;
      if (row < own.rows) use(k, FROM_END ? own.rows - 1 - row : row);
    }
  }
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
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_sums(const Stored *__restrict__ x, float *__restrict__ partial, unsigned rows,
              unsigned channels, unsigned tile) {
  __shared__ float sums[2 * WIDE * THREADS];
  Tile own = tile_of(rows, channels, tile);
  Group group = own.group;
  Pack first = zeros(), second = zeros();
  Pack origin = unpack(load_cell(x, 0, group, channels));
  Packed loaded[ROWS];
  each_row<ROWS, false>(
      own,
      [&](unsigned k, unsigned row) {
        loaded[k] = load_cell(x, row, group, channels);
      },
      [&](unsigned k, unsigned) {
        Pack values = unpack(loaded[k]);
#pragma unroll
        for (unsigned i = 0; i < WIDE; ++i) {
          float distance = values.at[i] - origin.at[i];
          first.at[i] += distance;
          second.at[i] += distance * distance;
        }
      });
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

// y = relu(residual + scale * (x * factor + shift)). The scale is used only with a residual, and is 1 without scales. With a
// residual, `mask` gets which values ReLU passed, unless it is null.
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_apply(const Stored *__restrict__ x, const Stored *__restrict__ residual,
               const float *__restrict__ scales, const float *__restrict__ saved,
               Stored *__restrict__ y, unsigned char *__restrict__ mask, unsigned rows,
               unsigned channels, unsigned tile, unsigned pixels, unsigned relu) {
  Tile own = tile_of(rows, channels, tile);
  Group group = own.group;
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  Packed loaded[ROWS], added[ROWS];
  each_row<ROWS, true>(
      own,
      [&](unsigned k, unsigned row) {
        loaded[k] = load_cell(x, row, group, channels);
        if (residual != nullptr) added[k] = load_cell(residual, row, group, channels);
      },
      [&](unsigned k, unsigned row) {
        Pack values = unpack(loaded[k]);
#pragma unroll
        for (unsigned i = 0; i < WIDE; ++i) {
          values.at[i] = values.at[i] * factor.at[i] + shift.at[i];
        }
        if (residual != nullptr) {
          float scale = scales != nullptr ? scales[row / pixels] : 1.0f;
          Pack other = unpack(added[k]);
#pragma unroll
          for (unsigned i = 0; i < WIDE; ++i) {
            values.at[i] = other.at[i] + scale * values.at[i];
          }
        }
        if (relu) {
          unsigned passed = 0;
#pragma unroll
          for (unsigned i = 0; i < WIDE; ++i) {
            if (values.at[i] > 0.0f) passed |= 1u << i;
            if (values.at[i] < 0.0f) values.at[i] = 0.0f;
          }
          if (mask != nullptr) mask[cell_of(row, group, channels)] = passed;
        }
        store_cell(y, pack_up(values), row, group, channels);
      });
}

// Sums over a chunk of the gradient before ReLU, and of this gradient times the distance to the mean. The input of ReLU is
// computed again from x.
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_reduce(const Stored *__restrict__ x, const Stored *__restrict__ dy,
                const float *__restrict__ saved, float *__restrict__ partial, unsigned rows,
                unsigned channels, unsigned tile, unsigned relu) {
  __shared__ float sums[2 * WIDE * THREADS];
  Tile own = tile_of(rows, channels, tile);
  Group group = own.group;
  Pack first = zeros(), second = zeros();
  Pack mean = load_f32(saved + group.first, group.count);
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  Packed loaded, slopes;
  // Registers do not suffice for a second row.
  each_row<1, false>(
      own,
      [&](unsigned, unsigned row) {
        loaded = load_cell(x, row, group, channels);
        slopes = load_cell(dy, row, group, channels);
      },
      [&](unsigned, unsigned) {
        Pack values = unpack(loaded);
        unsigned passed = 0;
#pragma unroll
        for (unsigned i = 0; i < WIDE; ++i) {
          if (values.at[i] * factor.at[i] + shift.at[i] > 0.0f) passed |= 1u << i;
        }
        if (relu) keep(slopes, passed);
        Pack gradient = unpack(slopes);
#pragma unroll
        for (unsigned i = 0; i < WIDE; ++i) {
          first.at[i] += gradient.at[i];
          second.at[i] += gradient.at[i] * (values.at[i] - mean.at[i]);
        }
      });
  add_lanes(sums, own, first, second, channels, tile, partial);
}

// The same for a norm with a residual, also before stochastic depth. `mask` is that of norm_apply. dy becomes the gradient before
// ReLU, which is that of the residual.
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_reduce_residual(const Stored *__restrict__ x, const unsigned char *__restrict__ mask,
                         Stored *__restrict__ dy, const float *__restrict__ scales,
                         const float *__restrict__ saved, float *__restrict__ partial, unsigned rows,
                         unsigned channels, unsigned tile, unsigned pixels,
                         unsigned relu) {
  __shared__ float sums[2 * WIDE * THREADS];
  Tile own = tile_of(rows, channels, tile);
  Group group = own.group;
  Pack first = zeros(), second = zeros();
  Pack mean = load_f32(saved + group.first, group.count);
  Packed loaded[ROWS], slopes[ROWS];
  unsigned passed[ROWS];
  each_row<ROWS, false>(
      own,
      [&](unsigned k, unsigned row) {
        loaded[k] = load_cell(x, row, group, channels);
        slopes[k] = load_cell(dy, row, group, channels);
        if (relu) passed[k] = mask[cell_of(row, group, channels)];
      },
      [&](unsigned k, unsigned row) {
        if (relu) {
          keep(slopes[k], passed[k]);
          store_cell(dy, slopes[k], row, group, channels);
        }
        float scale = scales != nullptr ? scales[row / pixels] : 1.0f;
#pragma unroll
        for (unsigned i = 0; i < WIDE; ++i) {
          float scaled = value_of(slopes[k], i) * scale;
          first.at[i] += scaled;
          second.at[i] += scaled * (value_of(loaded[k], i) - mean.at[i]);
        }
      });
  add_lanes(sums, own, first, second, channels, tile, partial);
}

// Adds to the gradients of gamma and beta. Writes to `terms` two values per channel, by which norm_backward computes
// factor * (gradient - mean gradient - distance to the mean * mean of (gradient * distance) / variance) as
// factor * gradient + (x * terms[0] + terms[1]).
extern "C" __global__ void __launch_bounds__(256)
    norm_gradients(const float *partial, const float *saved, float *dgamma, float *dbeta,
                   float *terms, unsigned chunks, unsigned rows, unsigned channels) {
  __shared__ double sums[2 * THREADS];
  unsigned channel = blockIdx.x * LANES + threadIdx.x % LANES, lane = threadIdx.x / LANES;
  double sum, product, count = rows;
  add_chunks(sums, partial, chunks, channels, channel, lane, sum, product);
  if (lane > 0 || channel >= channels) return;
  double inverse = saved[channels + channel];
  dbeta[channel] += static_cast<float>(sum);
  dgamma[channel] += static_cast<float>(product * inverse);
  double factor = saved[2 * channels + channel], slope = product * inverse * inverse / count;
  terms[channel] = -factor * slope;
  terms[channels + channel] = factor * (saved[channel] * slope - sum / count);
}

// The gradient of x. With a residual, dy is the gradient before ReLU. Without one, dy is the gradient of the output, and dx
// may be the same array.
extern "C" __global__ void __launch_bounds__(256, 4)
    norm_backward(const Stored *__restrict__ x, const Stored *dy, const float *__restrict__ scales,
                  const float *__restrict__ saved, const float *__restrict__ terms, Stored *dx,
                  unsigned rows, unsigned channels, unsigned tile,
                  unsigned pixels, unsigned relu, unsigned has_residual) {
  Tile own = tile_of(rows, channels, tile);
  Group group = own.group;
  Pack factor = load_f32(saved + 2 * channels + group.first, group.count);
  Pack slope = load_f32(terms + group.first, group.count);
  Pack rest = load_f32(terms + channels + group.first, group.count);
  Packed loaded[ROWS], slopes[ROWS];
  auto load_row = [&](unsigned k, unsigned row) {
    loaded[k] = load_cell(x, row, group, channels);
    slopes[k] = load_cell(dy, row, group, channels);
  };
  // The gradient of one value.
  auto finish = [&](unsigned i, float gradient, float value) {
    return factor.at[i] * gradient + (value * slope.at[i] + rest.at[i]);
  };
  if (has_residual) {
    each_row<ROWS, true>(own, load_row, [&](unsigned k, unsigned row) {
      Pack values = unpack(loaded[k]), gradient = unpack(slopes[k]);
      float scale = scales != nullptr ? scales[row / pixels] : 1.0f;
#pragma unroll
      for (unsigned i = 0; i < WIDE; ++i) {
        gradient.at[i] = finish(i, gradient.at[i] * scale, values.at[i]);
      }
      store_cell(dx, pack_up(gradient), row, group, channels);
    });
    return;
  }
  Pack shift = load_f32(saved + 3 * channels + group.first, group.count);
  each_row<1, true>(own, load_row, [&](unsigned k, unsigned row) {
    Pack values = unpack(loaded[k]), gradient = unpack(slopes[k]);
#pragma unroll
    for (unsigned i = 0; i < WIDE; ++i) {
      bool on = values.at[i] * factor.at[i] + shift.at[i] > 0.0f;
      gradient.at[i] = finish(i, relu && !on ? 0.0f : gradient.at[i], values.at[i]);
    }
    store_cell(dx, pack_up(gradient), row, group, channels);
  });
}

// As norm_finish, from the sums of x and of its squares, which the convolution before computed. Also writes to `line` the scale and
// the bias by which the next convolution applies the norm. With the rounded scale the bias is such that the mean of the result
// is beta.
extern "C" __global__ void __launch_bounds__(256)
    norm_statistics(const float *sums, const float *gamma, const float *beta, float *statistics,
                    float *saved, Stored *line, unsigned rows, unsigned channels) {
  unsigned channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  double count = rows, mean = sums[channel] / count;
  double square = sums[channels + channel] - sums[channel] * mean;
  if (square < 0.0) square = 0.0;
  save(saved, channels, channel, mean, square / count, gamma, beta);
  statistics[channel] = mean;
  statistics[channels + channel] = square / (rows > 1 ? count - 1.0 : 1.0);
  Stored scale = to_stored(saved[2 * channels + channel]);
  line[channel] = scale;
  line[channels + channel] = to_stored(static_cast<float>(beta[channel] - mean * to_float(scale)));
}

// As norm_gradients, from the gradients of gamma and beta of one microbatch, which the convolution after it computed.
extern "C" __global__ void __launch_bounds__(256)
    norm_weights(const float *gradients, const float *saved, float *dgamma, float *dbeta,
                 float *terms, unsigned rows, unsigned channels) {
  unsigned channel = blockIdx.x * THREADS + threadIdx.x;
  if (channel >= channels) return;
  double count = rows, product = gradients[channel], sum = gradients[channels + channel];
  dgamma[channel] += gradients[channel];
  dbeta[channel] += gradients[channels + channel];
  double factor = saved[2 * channels + channel];
  double slope = product * saved[channels + channel] / count;
  terms[channel] = -factor * slope;
  terms[channels + channel] = factor * (saved[channel] * slope - sum / count);
}
