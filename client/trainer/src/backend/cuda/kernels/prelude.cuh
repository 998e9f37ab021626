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

// 16 bytes of activations as they are stored, which take half the registers of a Pack in bf16.
struct Packed {
  unsigned words[4];
};

#ifdef FOREBAY_F32

__device__ float to_float(Stored value) { return value; }
__device__ Stored to_stored(float value) { return value; }

__device__ Pack unpack(const Packed &packed) {
  const unsigned *words = packed.words;
  return {{__uint_as_float(words[0]), __uint_as_float(words[1]), __uint_as_float(words[2]),
           __uint_as_float(words[3])}};
}

__device__ Packed pack_up(const Pack &pack) {
  return {{__float_as_uint(pack.at[0]), __float_as_uint(pack.at[1]), __float_as_uint(pack.at[2]),
           __float_as_uint(pack.at[3])}};
}

// The first value, and removing and adding it.
__device__ Stored first_of(const Packed &packed) { return __uint_as_float(packed.words[0]); }
__device__ Packed without_first(const Packed &packed) {
  return {{packed.words[1], packed.words[2], packed.words[3], 0}};
}
__device__ Packed with_first(Stored first, const Packed &packed) {
  return {{__float_as_uint(first), packed.words[0], packed.words[1], packed.words[2]}};
}

// The k-th value. One by one they take fewer registers than a Pack of all.
__device__ float value_of(const Packed &packed, unsigned k) {
  return __uint_as_float(packed.words[k]);
}

// The bits of the k-th value in its word.
__device__ unsigned bits_of(unsigned) { return 0xffffffffu; }

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

__device__ Pack unpack(const Packed &packed) {
  Pack pack;
#pragma unroll
  for (unsigned k = 0; k < 4; ++k) {
    pack.at[2 * k] = low_of(packed.words[k]);
    pack.at[2 * k + 1] = high_of(packed.words[k]);
  }
  return pack;
}

__device__ Packed pack_up(const Pack &pack) {
  return {{two_stored(pack.at[0], pack.at[1]), two_stored(pack.at[2], pack.at[3]),
           two_stored(pack.at[4], pack.at[5]), two_stored(pack.at[6], pack.at[7])}};
}

// The first value, and removing and adding it.
__device__ Stored first_of(const Packed &packed) { return packed.words[0]; }
__device__ Packed without_first(const Packed &packed) {
  const unsigned *words = packed.words;
  return {{words[0] >> 16 | words[1] << 16, words[1] >> 16 | words[2] << 16,
           words[2] >> 16 | words[3] << 16, words[3] >> 16}};
}
__device__ Packed with_first(Stored first, const Packed &packed) {
  const unsigned *words = packed.words;
  return {{first | words[0] << 16, words[0] >> 16 | words[1] << 16,
           words[1] >> 16 | words[2] << 16, words[2] >> 16 | words[3] << 16}};
}

// The k-th value. One by one they take fewer registers than a Pack of all.
__device__ float value_of(const Packed &packed, unsigned k) {
  unsigned word = packed.words[k / 2];
  return k % 2 ? high_of(word) : low_of(word);
}

// The bits of the k-th value in its word.
__device__ unsigned bits_of(unsigned k) { return 0xffffu << 16 * (k % 2); }

#endif

// Loads the first `count` values, and zeros for the rest. `wide` means that all exist and are aligned to 16 bytes. The other way
// is rare, so its loops are not unrolled, which would take registers.
__device__ Packed load_packed(const Stored *from, unsigned count, bool wide) {
  if (wide) {
    uint4 four = *reinterpret_cast<const uint4 *>(from);
    return {{four.x, four.y, four.z, four.w}};
  }
  Packed packed = {{0, 0, 0, 0}};
#pragma unroll 1
  for (unsigned k = count; k > 0; --k) packed = with_first(from[k - 1], packed);
  return packed;
}

__device__ void store_packed(Stored *to, Packed packed, unsigned count, bool wide) {
  if (wide) {
    const unsigned *words = packed.words;
    *reinterpret_cast<uint4 *>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    return;
  }
#pragma unroll 1
  for (unsigned k = 0; k < count; ++k) {
    to[k] = first_of(packed);
    packed = without_first(packed);
  }
}

// The same with values as floats.
__device__ Pack load(const Stored *from, unsigned count, bool wide) {
  return unpack(load_packed(from, count, wide));
}
__device__ Pack load16(const Stored *from) { return load(from, WIDE, true); }
__device__ void store(Stored *to, const Pack &pack, unsigned count, bool wide) {
  store_packed(to, pack_up(pack), count, wide);
}
__device__ void store16(Stored *to, const Pack &pack) { store(to, pack, WIDE, true); }

// Clears the values whose bit in `mask` is 0.
__device__ void keep(Packed &packed, unsigned mask) {
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (!(mask >> k & 1)) packed.words[k * 4 / WIDE] &= ~bits_of(k);
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
