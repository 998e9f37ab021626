// Prepended to each file of kernels: the storage type of activations, and access to 16 bytes of them.
//
// Stored is bf16 or, if FOREBAY_F16 is defined, f16, both as their bits; or f32 if FOREBAY_F32 is defined. All arithmetic is f32. The order of every sum depends on
// sizes only, and nothing is contracted to a fused multiply-add (--fmad=false). So the same input gives the same bits, which
// are also those of the twins in Rust.

#ifdef FOREBAY_F32
typedef float Stored;
#else
typedef unsigned short Stored;
#endif

typedef unsigned long long Offset;

// The loss scale, by which all gradients are multiplied so that small ones do not vanish in f16. It is halved when a gradient is
// not finite, and that update is skipped; it is doubled after 2000 updates in a row, as torch.amp.GradScaler does. In other
// precisions it is always 1. See src/loss_scaler.rs.
struct alignas(16) Scaler {
  unsigned long long updates, skipped;  // numbers of updates that were applied and skipped
  float scale;
  unsigned growth;   // updates since the scale last changed
  unsigned dynamic;  // whether the scale changes and updates are skipped
  unsigned skip;     // whether the update in progress is skipped
};

// Threads per block of all kernels.
constexpr unsigned THREADS = 256;

// Values in 16 bytes.
constexpr unsigned WIDE = 16 / sizeof(Stored);

struct Pack {
  float at[WIDE];
};

__device__ Pack zeros() {
  Pack pack;
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) pack.at[k] = 0.0f;
  return pack;
}

#ifdef FOREBAY_F32

__device__ float to_float(Stored value) { return value; }
__device__ Stored to_stored(float value) { return value; }

__device__ Pack load16(const Stored *from) {
  float4 four = *reinterpret_cast<const float4 *>(from);
  return {{four.x, four.y, four.z, four.w}};
}

__device__ void store16(Stored *to, const Pack &pack) {
  *reinterpret_cast<float4 *>(to) = make_float4(pack.at[0], pack.at[1], pack.at[2], pack.at[3]);
}

#else

#ifdef FOREBAY_F16

__device__ float to_float(Stored value) {
  float exact;
  asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(value));
  return exact;
}

// Rounds to nearest, ties to even. Values beyond 65504 become infinite.
__device__ Stored to_stored(float value) {
  Stored bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ unsigned two_stored(float low, float high) {
  unsigned bits;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

__device__ float low_of(unsigned word) { return to_float(static_cast<Stored>(word)); }
__device__ float high_of(unsigned word) { return to_float(static_cast<Stored>(word >> 16)); }

#else

__device__ float to_float(Stored value) {
  return __uint_as_float(static_cast<unsigned>(value) << 16);
}

// Rounds to nearest, ties to even.
__device__ Stored to_stored(float value) {
  Stored bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ unsigned two_stored(float low, float high) {
  unsigned bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

__device__ float low_of(unsigned word) { return __uint_as_float(word << 16); }
__device__ float high_of(unsigned word) { return __uint_as_float(word & 0xffff0000u); }

#endif

__device__ Pack load16(const Stored *from) {
  uint4 four = *reinterpret_cast<const uint4 *>(from);
  const unsigned words[4] = {four.x, four.y, four.z, four.w};
  Pack pack;
#pragma unroll
  for (unsigned k = 0; k < 4; ++k) {
    pack.at[2 * k] = low_of(words[k]);
    pack.at[2 * k + 1] = high_of(words[k]);
  }
  return pack;
}

__device__ void store16(Stored *to, const Pack &pack) {
  *reinterpret_cast<uint4 *>(to) =
      make_uint4(two_stored(pack.at[0], pack.at[1]), two_stored(pack.at[2], pack.at[3]),
                 two_stored(pack.at[4], pack.at[5]), two_stored(pack.at[6], pack.at[7]));
}

#endif

// Loads the first `count` values, and zeros for the rest. `wide` means that all exist and are aligned to 16 bytes.
__device__ Pack load(const Stored *from, unsigned count, bool wide) {
  if (wide) return load16(from);
  Pack pack = zeros();
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (k < count) pack.at[k] = to_float(from[k]);
  }
  return pack;
}

__device__ void store(Stored *to, const Pack &pack, unsigned count, bool wide) {
  if (wide) return store16(to, pack);
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (k < count) to[k] = to_stored(pack.at[k]);
  }
}

// Loads values that are always f32.
__device__ Pack load_f32(const float *from, unsigned count) {
  Pack pack = zeros();
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (k < count) pack.at[k] = from[k];
  }
  return pack;
}

// The channels of a pixel are divided into groups of WIDE. This is the group of one thread.
struct Group {
  unsigned first;  // first channel
  unsigned count;  // number of channels that exist
  bool wide;
};

__device__ unsigned groups_of(unsigned channels) { return (channels + WIDE - 1) / WIDE; }

__device__ Group group_of(unsigned group, unsigned channels) {
  unsigned first = group * WIDE;
  return {first, min(WIDE, channels - first), channels % WIDE == 0};
}
