// MixUp, CutMix, normalization, dtype and layout of a batch of u8 pixels, in one pass: every pixel is
// read once and written once. Bit-equal to `mix::cpu::mix` followed by `mix::convert`. The twin in Rust,
// with the same names, is src/mix/twin.rs.
//
// A sample's partner is its mirror in the batch, so a thread takes 16 bytes (NHWC) or 16 pixels (NCHW)
// of samples i and n - 1 - i and writes both. The middle sample of an odd number is not mixed.
//
// A channel has 256 values, so normalization is a lookup in a table that has the bits of the dtype: there
// is no division and no rounding here, and one kernel serves f16 and bf16. If a sample has a multiple of
// 16 pixels, every access is 16 bytes wide; otherwise each value is accessed by itself.

// The mixing of one sample.
struct alignas(16) Mix {
  unsigned kind;
  unsigned top, bottom;   // rows of the box
  unsigned left, right;   // bytes of a row that are in the box
  float weights[2];       // weights of the sample and of its partner
  unsigned unused;
};

constexpr unsigned NONE = 0;
constexpr unsigned MIXUP = 1;

// A batch of n samples.
struct Batch {
  unsigned n;
  unsigned pixels;     // pixels of a sample
  unsigned row_bytes;
};

// 0 to 255 as a float. Exact, and cheaper than a conversion, whose throughput is an eighth.
__device__ float to_float(unsigned byte) {
  return __fsub_rn(__uint_as_float(0x4b000000u | byte), 8388608.0f);
}

// `np.rint(own * weights[0] + partner * weights[1])` in f32, for weights that add up to 1. Adding
// 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
__device__ unsigned blend(unsigned own, unsigned partner, const float *weights) {
  float sum = __fadd_rn(__fmul_rn(to_float(own), weights[0]),
                        __fmul_rn(to_float(partner), weights[1]));
  return __float_as_uint(__fadd_rn(sum, 12582912.0f)) & 255u;
}

// 16 bytes, of which the first `count` are valid.
struct Bytes {
  unsigned words[4];
};

__device__ unsigned byte_of(const Bytes &bytes, unsigned k) {
  return bytes.words[k / 4] >> (8 * (k % 4)) & 255u;
}

__device__ Bytes load(const unsigned char *from, unsigned count, bool wide) {
  if (wide) {
    uint4 words = *reinterpret_cast<const uint4 *>(from);
    return {{words.x, words.y, words.z, words.w}};
  }
  Bytes bytes = {{0, 0, 0, 0}};
#pragma unroll
  for (unsigned k = 0; k < 16; ++k) {
    if (k < count) bytes.words[k / 4] |= static_cast<unsigned>(from[k]) << (8 * (k % 4));
  }
  return bytes;
}

// 16 bytes of a sample, mixed with those of its partner; `at` is the offset of the first one.
__device__ Bytes mix16(const Bytes &own, const Bytes &partner, const Mix &mix, unsigned at,
                       unsigned row_bytes) {
  if (mix.kind == NONE) return own;
  Bytes mixed = {{0, 0, 0, 0}};
  if (mix.kind == MIXUP) {
#pragma unroll
    for (unsigned k = 0; k < 16; ++k) {
      mixed.words[k / 4] |= blend(byte_of(own, k), byte_of(partner, k), mix.weights)
                            << (8 * (k % 4));
    }
    return mixed;
  }
  unsigned row = at / row_bytes, column = at % row_bytes;
#pragma unroll
  for (unsigned k = 0; k < 16; ++k) {
    bool inside = mix.top <= row && row < mix.bottom && mix.left <= column && column < mix.right;
    mixed.words[k / 4] |= (inside ? byte_of(partner, k) : byte_of(own, k)) << (8 * (k % 4));
    if (++column == row_bytes) {
      column = 0;
      ++row;
    }
  }
  return mixed;
}

// The normalized value of a channel's value. u8 is not normalized.
__device__ unsigned char lookup(const unsigned char *, unsigned value) { return value; }
__device__ unsigned short lookup(const unsigned short *table, unsigned value) {
  return table[value];
}
__device__ unsigned lookup(const unsigned *table, unsigned value) { return table[value]; }

// Writes the first `count` of 16 values.
template <typename T>
__device__ void store(T *to, const T (&values)[16], unsigned count, bool wide) {
  constexpr unsigned bits = 8 * sizeof(T), in_word = 4 / sizeof(T);
  if (wide) {
#pragma unroll
    for (unsigned quad = 0; quad < sizeof(T); ++quad) {
      unsigned words[4] = {0, 0, 0, 0};
#pragma unroll
      for (unsigned k = 0; k < 4 * in_word; ++k) {
        words[k / in_word] |= static_cast<unsigned>(values[quad * 4 * in_word + k])
                              << (bits * (k % in_word));
      }
      reinterpret_cast<uint4 *>(to)[quad] = make_uint4(words[0], words[1], words[2], words[3]);
    }
    return;
  }
#pragma unroll
  for (unsigned k = 0; k < 16; ++k) {
    if (k < count) to[k] = values[k];
  }
}

// Writes 16 bytes of a sample at the offset `at` that they were read from.
template <typename T>
__device__ void write_nhwc(T *to, const Bytes &mixed, const T *table, unsigned at, unsigned count,
                           bool wide) {
  const T *channels[3];
#pragma unroll
  for (unsigned k = 0; k < 3; ++k) channels[k] = table + 256 * ((at + k) % 3);
  T values[16];
#pragma unroll
  for (unsigned k = 0; k < 16; ++k) values[k] = lookup(channels[k % 3], byte_of(mixed, k));
  store(to + at, values, count, wide);
}

// Writes 16 pixels of a sample to its three planes; `at` is the index of the first one.
template <typename T>
__device__ void write_nchw(T *to, const Bytes (&mixed)[3], const T *table, unsigned at,
                           unsigned pixels, unsigned count, bool wide) {
#pragma unroll
  for (unsigned channel = 0; channel < 3; ++channel) {
    T values[16];
#pragma unroll
    for (unsigned k = 0; k < 16; ++k) {
      unsigned byte = 3 * k + channel;
      values[k] = lookup(table + 256 * channel, byte_of(mixed[byte / 16], byte % 16));
    }
    store(to + static_cast<size_t>(channel) * pixels + at, values, count, wide);
  }
}

// Samples i and j, which are each other's partners or the same, and their mixing.
struct Pair {
  size_t first, second;   // offsets of the samples
  Mix mix_first, mix_second;
  bool same;
};

__device__ Pair pair_of(unsigned i, const Mix *mixes, const Batch &batch) {
  const unsigned j = batch.n - 1 - i;
  const size_t sample = 3 * static_cast<size_t>(batch.pixels);
  Pair pair = {i * sample, j * sample, mixes[i], mixes[j], i == j};
  if (pair.same) pair.mix_first.kind = NONE;
  return pair;
}

template <typename T>
__device__ void mix_nhwc(const unsigned char *pixels, T *out, const Mix *mixes, const T *table,
                         Batch batch) {
  const unsigned sample = 3 * batch.pixels;
  const bool wide = batch.pixels % 16 == 0;
  for (unsigned i = blockIdx.y; i < (batch.n + 1) / 2; i += gridDim.y) {
    const Pair pair = pair_of(i, mixes, batch);
    for (unsigned chunk = blockIdx.x * blockDim.x + threadIdx.x; chunk < (sample + 15) / 16;
         chunk += gridDim.x * blockDim.x) {
      const unsigned at = 16 * chunk, count = min(sample - at, 16u);
      const Bytes a = load(pixels + pair.first + at, count, wide);
      const Bytes b = load(pixels + pair.second + at, count, wide);
      const Bytes first = mix16(a, b, pair.mix_first, at, batch.row_bytes);
      write_nhwc(out + pair.first, first, table, at, count, wide);
      if (pair.same) continue;
      const Bytes second = mix16(b, a, pair.mix_second, at, batch.row_bytes);
      write_nhwc(out + pair.second, second, table, at, count, wide);
    }
  }
}

template <typename T>
__device__ void mix_nchw(const unsigned char *pixels, T *out, const Mix *mixes, const T *table,
                         Batch batch) {
  const unsigned sample = 3 * batch.pixels;
  const bool wide = batch.pixels % 16 == 0;
  for (unsigned i = blockIdx.y; i < (batch.n + 1) / 2; i += gridDim.y) {
    const Pair pair = pair_of(i, mixes, batch);
    for (unsigned chunk = blockIdx.x * blockDim.x + threadIdx.x; chunk < (batch.pixels + 15) / 16;
         chunk += gridDim.x * blockDim.x) {
      const unsigned at = 16 * chunk, count = min(batch.pixels - at, 16u);
      Bytes first[3], second[3];
#pragma unroll
      for (unsigned k = 0; k < 3; ++k) {
        const unsigned byte = 3 * at + 16 * k;
        const unsigned valid = min(max(sample, byte) - byte, 16u);
        const Bytes a = load(pixels + pair.first + byte, valid, wide);
        const Bytes b = load(pixels + pair.second + byte, valid, wide);
        first[k] = mix16(a, b, pair.mix_first, byte, batch.row_bytes);
        second[k] = mix16(b, a, pair.mix_second, byte, batch.row_bytes);
      }
      write_nchw(out + pair.first, first, table, at, batch.pixels, count, wide);
      if (!pair.same) write_nchw(out + pair.second, second, table, at, batch.pixels, count, wide);
    }
  }
}

// Copies the tables of the three channels to shared memory, which is fast to read at random.
template <typename T>
__device__ void fill(T *table, const T *from) {
  for (unsigned k = threadIdx.x; k < 768; k += blockDim.x) table[k] = from[k];
  __syncthreads();
}

extern "C" __global__ void mix_u8_nhwc(const unsigned char *pixels, unsigned char *out,
                                       const Mix *mixes, const unsigned char *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  mix_nhwc(pixels, out, mixes, tables, Batch{n, sample_pixels, row_bytes});
}

extern "C" __global__ void mix_u8_nchw(const unsigned char *pixels, unsigned char *out,
                                       const Mix *mixes, const unsigned char *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  mix_nchw(pixels, out, mixes, tables, Batch{n, sample_pixels, row_bytes});
}

extern "C" __global__ void mix_16_nhwc(const unsigned char *pixels, unsigned short *out,
                                       const Mix *mixes, const unsigned short *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  __shared__ unsigned short table[768];
  fill(table, tables);
  mix_nhwc(pixels, out, mixes, table, Batch{n, sample_pixels, row_bytes});
}

extern "C" __global__ void mix_16_nchw(const unsigned char *pixels, unsigned short *out,
                                       const Mix *mixes, const unsigned short *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  __shared__ unsigned short table[768];
  fill(table, tables);
  mix_nchw(pixels, out, mixes, table, Batch{n, sample_pixels, row_bytes});
}

extern "C" __global__ void mix_32_nhwc(const unsigned char *pixels, unsigned *out,
                                       const Mix *mixes, const unsigned *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  __shared__ unsigned table[768];
  fill(table, tables);
  mix_nhwc(pixels, out, mixes, table, Batch{n, sample_pixels, row_bytes});
}

extern "C" __global__ void mix_32_nchw(const unsigned char *pixels, unsigned *out,
                                       const Mix *mixes, const unsigned *tables,
                                       unsigned n, unsigned sample_pixels, unsigned row_bytes) {
  __shared__ unsigned table[768];
  fill(table, tables);
  mix_nchw(pixels, out, mixes, table, Batch{n, sample_pixels, row_bytes});
}
