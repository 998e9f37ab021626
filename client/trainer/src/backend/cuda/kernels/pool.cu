// Pools, the parameter-free shortcut, and copying images into the first tensor. A thread writes 16 bytes, which are a group
// of channels of one pixel. Twin: backend/cuda/twin/pool.rs.

// The pixel of a thread, counted over all images, and its group of channels.
struct Position {
  unsigned pixel;
  Group group;
  bool active;
};

__device__ Position position_of(unsigned pixels, unsigned channels) {
  unsigned groups = groups_of(channels);
  unsigned number = blockIdx.x * THREADS + threadIdx.x;
  unsigned pixel = number / groups;
  return {pixel, group_of(number % groups, channels), number < pixels * groups};
}

// Maximum over 3x3 pixels with stride 2 and padding 1. `taps` gets which tap was the maximum: the first of equal ones.
extern "C" __global__ void __launch_bounds__(256)
    max_pool(const Stored *x, Stored *y, unsigned char *taps, unsigned images, unsigned height,
             unsigned width, unsigned out_height, unsigned out_width, unsigned channels) {
  Position own = position_of(images * out_height * out_width, channels);
  if (!own.active) return;
  Group group = own.group;
  unsigned column = own.pixel % out_width, row = own.pixel / out_width % out_height;
  unsigned image = own.pixel / out_width / out_height;
  Pack best = zeros();
  unsigned best_tap[WIDE];
  bool first = true;
  for (unsigned tap = 0; tap < 9; ++tap) {
    // Coordinates with padding: row and column 0 are padding.
    unsigned down = 2 * row + tap / 3, right = 2 * column + tap % 3;
    if (down == 0 || right == 0 || down > height || right > width) continue;
    Offset pixel = (Offset(image) * height + down - 1) * width + right - 1;
    Pack values = load(x + pixel * channels + group.first, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      bool greater = first || values.at[k] > best.at[k];
      best.at[k] = greater ? values.at[k] : best.at[k];
      best_tap[k] = greater ? tap : best_tap[k];
    }
    first = false;
  }
  Offset at = Offset(own.pixel) * channels + group.first;
  store(y + at, best, group.count, group.wide);
  if (group.wide) {
#pragma unroll
    for (unsigned word = 0; word < WIDE / 4; ++word) {
      reinterpret_cast<unsigned *>(taps + at)[word] =
          best_tap[4 * word] | best_tap[4 * word + 1] << 8 | best_tap[4 * word + 2] << 16 |
          best_tap[4 * word + 3] << 24;
    }
    return;
  }
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (k < group.count) taps[at + k] = best_tap[k];
  }
}

// Loads the taps of a group, four per word.
__device__ void load_taps(const unsigned char *from, unsigned (&taps)[WIDE / 4], const Group &group) {
#pragma unroll
  for (unsigned word = 0; word < WIDE / 4; ++word) {
    if (group.wide) {
      taps[word] = reinterpret_cast<const unsigned *>(from)[word];
      continue;
    }
    taps[word] = 0;
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) {
      if (4 * word + k < group.count) taps[word] |= from[4 * word + k] << (8 * k);
    }
  }
}

// Each input pixel sums the gradients of the windows whose maximum it was.
extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward(const Stored *dy, const unsigned char *taps, Stored *dx, unsigned images,
                      unsigned height, unsigned width, unsigned out_height, unsigned out_width,
                      unsigned channels) {
  Position own = position_of(images * height * width, channels);
  if (!own.active) return;
  Group group = own.group;
  unsigned column = own.pixel % width, row = own.pixel / width % height;
  unsigned image = own.pixel / width / height;
  Pack sum = zeros();
  // An odd row or column belongs to two windows, an even one to one.
#pragma unroll
  for (unsigned below = 0; below < 2; ++below) {
#pragma unroll
    for (unsigned beside = 0; beside < 2; ++beside) {
      unsigned down = row / 2 + below, right = column / 2 + beside;
      if (below > row % 2 || beside > column % 2 || down >= out_height || right >= out_width) continue;
      unsigned tap = (row + 1 - 2 * down) * 3 + column + 1 - 2 * right;
      Offset pixel = (Offset(image) * out_height + down) * out_width + right;
      Offset at = pixel * channels + group.first;
      Pack values = load(dy + at, group.count, group.wide);
      unsigned best[WIDE / 4];
      load_taps(taps + at, best, group);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        if ((best[k / 4] >> 8 * (k % 4) & 255u) == tap) sum.at[k] += values.at[k];
      }
    }
  }
  store(dx + Offset(own.pixel) * channels + group.first, sum, group.count, group.wide);
}

// Mean over all pixels of an image.
extern "C" __global__ void __launch_bounds__(256)
    mean_pool(const Stored *x, Stored *y, unsigned images, unsigned pixels, unsigned channels) {
  Position own = position_of(images, channels);
  if (!own.active) return;
  Group group = own.group;
  Pack sum = zeros();
  for (unsigned pixel = 0; pixel < pixels; ++pixel) {
    Offset row = Offset(own.pixel) * pixels + pixel;
    Pack values = load(x + row * channels + group.first, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) sum.at[k] += values.at[k];
  }
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) sum.at[k] = sum.at[k] / static_cast<float>(pixels);
  store(y + Offset(own.pixel) * channels + group.first, sum, group.count, group.wide);
}

// Spreads the gradient evenly over all pixels.
extern "C" __global__ void __launch_bounds__(256)
    mean_pool_backward(const Stored *dy, Stored *dx, unsigned images, unsigned pixels,
                       unsigned channels) {
  Position own = position_of(images * pixels, channels);
  if (!own.active) return;
  Group group = own.group;
  Pack values = load(dy + Offset(own.pixel / pixels) * channels + group.first, group.count,
                      group.wide);
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) values.at[k] = values.at[k] / static_cast<float>(pixels);
  store(dx + Offset(own.pixel) * channels + group.first, values, group.count, group.wide);
}

// Every second pixel; added channels are zero.
extern "C" __global__ void __launch_bounds__(256)
    shortcut(const Stored *x, Stored *y, unsigned images, unsigned height, unsigned width,
             unsigned channels, unsigned out_height, unsigned out_width, unsigned out_channels) {
  Position own = position_of(images * out_height * out_width, out_channels);
  if (!own.active) return;
  Group group = own.group;
  unsigned column = own.pixel % out_width, row = own.pixel / out_width % out_height;
  unsigned image = own.pixel / out_width / out_height;
  Offset pixel = (Offset(image) * height + 2 * row) * width + 2 * column;
  unsigned existing = group.first < channels ? min(group.count, channels - group.first) : 0;
  bool wide = group.wide && channels % WIDE == 0 && existing > 0;
  Pack values = load(x + pixel * channels + group.first, existing, wide);
  store(y + Offset(own.pixel) * out_channels + group.first, values, group.count, group.wide);
}

// Passes the gradient to the pixels that forward took; all others get zero.
extern "C" __global__ void __launch_bounds__(256)
    shortcut_backward(const Stored *dy, Stored *dx, unsigned images, unsigned height,
                      unsigned width, unsigned channels, unsigned out_height, unsigned out_width,
                      unsigned out_channels) {
  Position own = position_of(images * height * width, channels);
  if (!own.active) return;
  Group group = own.group;
  unsigned column = own.pixel % width, row = own.pixel / width % height;
  unsigned image = own.pixel / width / height;
  Pack values = zeros();
  if (row % 2 == 0 && column % 2 == 0) {
    Offset pixel = (Offset(image) * out_height + row / 2) * out_width + column / 2;
    values = load(dy + pixel * out_channels + group.first, group.count,
                   group.wide && out_channels % WIDE == 0);
  }
  store(dx + Offset(own.pixel) * channels + group.first, values, group.count, group.wide);
}

// Channels of the first tensor: three of the images, the rest zeros. See backend/cuda/stem.rs.
constexpr unsigned IMAGE_CHANNELS = 8;

// The index of the unpadded pixel at a padded one, counted over all images; or NONE in the padding.
constexpr unsigned NONE = ~0u;

__device__ unsigned unpadded(unsigned pixel, unsigned height, unsigned width, unsigned pad) {
  unsigned padded_width = width + 2 * pad, padded_height = height + 2 * pad;
  // In the padding on the left or above, these wrap around.
  unsigned column = pixel % padded_width - pad, row = pixel / padded_width % padded_height - pad;
  unsigned image = pixel / padded_width / padded_height;
  return row < height && column < width ? (image * height + row) * width + column : NONE;
}

// Stores all channels of a pixel, of which `rgb` has the first.
__device__ void store_pixel(Stored *x, unsigned pixel, const Pack &rgb) {
  x += Offset(pixel) * IMAGE_CHANNELS;
  store16(x, rgb);
#pragma unroll
  for (unsigned k = WIDE; k < IMAGE_CHANNELS; k += WIDE) store16(x + k, zeros());
}

// Copies bytes into the first tensor, padded with zeros. `table` has the value of each byte of each channel, and `pixels` is the
// number of padded pixels of all images.
extern "C" __global__ void __launch_bounds__(256)
    images_bytes(const unsigned char *__restrict__ from, const float *__restrict__ table,
                 Stored *__restrict__ x, unsigned height, unsigned width, unsigned pad,
                 unsigned pixels) {
  unsigned pixel = blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  unsigned source = unpadded(pixel, height, width, pad);
  Pack rgb = zeros();
#pragma unroll
  for (unsigned k = 0; k < 3; ++k) {
    if (source != NONE) rgb.at[k] = table[k * 256 + from[Offset(source) * 3 + k]];
  }
  store_pixel(x, pixel, rgb);
}

// Copies normalized values into the first tensor, padded with zeros.
extern "C" __global__ void __launch_bounds__(256)
    images_floats(const float *__restrict__ from, Stored *__restrict__ x, unsigned height,
                  unsigned width, unsigned pad, unsigned pixels) {
  unsigned pixel = blockIdx.x * THREADS + threadIdx.x;
  if (pixel >= pixels) return;
  unsigned source = unpadded(pixel, height, width, pad);
  Pack rgb = zeros();
#pragma unroll
  for (unsigned k = 0; k < 3; ++k) {
    if (source != NONE) rgb.at[k] = from[Offset(source) * 3 + k];
  }
  store_pixel(x, pixel, rgb);
}
