// Pools, the shortcut without parameters, and the way of the images into the first tensor. A thread writes 16 bytes: a group
// of a pixel's channels. Twin: backend/cuda/twin/pool.rs.

// A thread's pixel of all images, and its group of that pixel's channels.
struct Place {
  unsigned pixel;
  Group group;
  bool active;
};

__device__ Place place_of(unsigned pixels, unsigned channels) {
  unsigned groups = groups_of(channels);
  unsigned number = blockIdx.x * THREADS + threadIdx.x;
  unsigned pixel = number / groups;
  return {pixel, group_of(number % groups, channels), number < pixels * groups};
}

// Maximum over 3x3, stride 2, padding 1; `taps` takes which tap it was, the first of equal ones.
extern "C" __global__ void __launch_bounds__(256)
    max_pool(const Stored *x, Stored *y, unsigned char *taps, unsigned images, unsigned height,
             unsigned width, unsigned out_height, unsigned out_width, unsigned channels) {
  Place place = place_of(images * out_height * out_width, channels);
  if (!place.active) return;
  Group group = place.group;
  unsigned column = place.pixel % out_width, row = place.pixel / out_width % out_height;
  unsigned image = place.pixel / out_width / out_height;
  Pack best = zeros();
  unsigned best_tap[WIDE];
  bool first = true;
  for (unsigned tap = 0; tap < 9; ++tap) {
    // One more than the place: the padding is 0.
    unsigned down = 2 * row + tap / 3, right = 2 * column + tap % 3;
    if (down == 0 || right == 0 || down > height || right > width) continue;
    Offset pixel = (Offset(image) * height + down - 1) * width + right - 1;
    Pack numbers = load(x + pixel * channels + group.first, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) {
      bool more = first || numbers.at[k] > best.at[k];
      best.at[k] = more ? numbers.at[k] : best.at[k];
      best_tap[k] = more ? tap : best_tap[k];
    }
    first = false;
  }
  Offset at = Offset(place.pixel) * channels + group.first;
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

// The taps of a group, four in a word.
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

// Each pixel of the source gathers from the windows whose maximum it was.
extern "C" __global__ void __launch_bounds__(256)
    max_pool_backward(const Stored *dy, const unsigned char *taps, Stored *dx, unsigned images,
                      unsigned height, unsigned width, unsigned out_height, unsigned out_width,
                      unsigned channels) {
  Place place = place_of(images * height * width, channels);
  if (!place.active) return;
  Group group = place.group;
  unsigned column = place.pixel % width, row = place.pixel / width % height;
  unsigned image = place.pixel / width / height;
  Pack sum = zeros();
  for (unsigned down = row / 2; down <= (row + 1) / 2 && down < out_height; ++down) {
    for (unsigned right = column / 2; right <= (column + 1) / 2 && right < out_width; ++right) {
      unsigned tap = (row + 1 - 2 * down) * 3 + column + 1 - 2 * right;
      Offset pixel = (Offset(image) * out_height + down) * out_width + right;
      Offset at = pixel * channels + group.first;
      Pack numbers = load(dy + at, group.count, group.wide);
      unsigned best[WIDE / 4];
      load_taps(taps + at, best, group);
#pragma unroll
      for (unsigned k = 0; k < WIDE; ++k) {
        if ((best[k / 4] >> 8 * (k % 4) & 255u) == tap) sum.at[k] += numbers.at[k];
      }
    }
  }
  store(dx + Offset(place.pixel) * channels + group.first, sum, group.count, group.wide);
}

// Mean over all pixels of an image.
extern "C" __global__ void __launch_bounds__(256)
    mean_pool(const Stored *x, Stored *y, unsigned images, unsigned pixels, unsigned channels) {
  Place place = place_of(images, channels);
  if (!place.active) return;
  Group group = place.group;
  Pack sum = zeros();
  for (unsigned pixel = 0; pixel < pixels; ++pixel) {
    Offset row = Offset(place.pixel) * pixels + pixel;
    Pack numbers = load(x + row * channels + group.first, group.count, group.wide);
#pragma unroll
    for (unsigned k = 0; k < WIDE; ++k) sum.at[k] += numbers.at[k];
  }
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) sum.at[k] = sum.at[k] / static_cast<float>(pixels);
  store(y + Offset(place.pixel) * channels + group.first, sum, group.count, group.wide);
}

// Each pixel gets its share.
extern "C" __global__ void __launch_bounds__(256)
    mean_pool_backward(const Stored *dy, Stored *dx, unsigned images, unsigned pixels,
                       unsigned channels) {
  Place place = place_of(images * pixels, channels);
  if (!place.active) return;
  Group group = place.group;
  Pack numbers = load(dy + Offset(place.pixel / pixels) * channels + group.first, group.count,
                      group.wide);
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) numbers.at[k] = numbers.at[k] / static_cast<float>(pixels);
  store(dx + Offset(place.pixel) * channels + group.first, numbers, group.count, group.wide);
}

// Every second pixel, further channels zero.
extern "C" __global__ void __launch_bounds__(256)
    shortcut(const Stored *x, Stored *y, unsigned images, unsigned height, unsigned width,
             unsigned channels, unsigned out_height, unsigned out_width, unsigned out_channels) {
  Place place = place_of(images * out_height * out_width, out_channels);
  if (!place.active) return;
  Group group = place.group;
  unsigned column = place.pixel % out_width, row = place.pixel / out_width % out_height;
  unsigned image = place.pixel / out_width / out_height;
  Offset pixel = (Offset(image) * height + 2 * row) * width + 2 * column;
  unsigned there = group.first < channels ? min(group.count, channels - group.first) : 0;
  bool wide = group.wide && channels % WIDE == 0 && there > 0;
  Pack numbers = load(x + pixel * channels + group.first, there, wide);
  store(y + Offset(place.pixel) * out_channels + group.first, numbers, group.count, group.wide);
}

// The pixels taken get the gradient, the others none.
extern "C" __global__ void __launch_bounds__(256)
    shortcut_backward(const Stored *dy, Stored *dx, unsigned images, unsigned height,
                      unsigned width, unsigned channels, unsigned out_height, unsigned out_width,
                      unsigned out_channels) {
  Place place = place_of(images * height * width, channels);
  if (!place.active) return;
  Group group = place.group;
  unsigned column = place.pixel % width, row = place.pixel / width % height;
  unsigned image = place.pixel / width / height;
  Pack numbers = zeros();
  if (row % 2 == 0 && column % 2 == 0) {
    Offset pixel = (Offset(image) * out_height + row / 2) * out_width + column / 2;
    numbers = load(dy + pixel * out_channels + group.first, group.count,
                   group.wide && out_channels % WIDE == 0);
  }
  store(dx + Offset(place.pixel) * channels + group.first, numbers, group.count, group.wide);
}

// Walks the numbers of padded RGB images.
struct Walk {
  unsigned rows, row_numbers, pad;  // with padding; the padding of a row in numbers
  unsigned height, width;           // without: rows, numbers of a row
  unsigned image, row, column;      // where it is

  __device__ Walk(unsigned height, unsigned width, unsigned pad, unsigned number)
      : rows(height + 2 * pad), row_numbers((width + 2 * pad) * 3), pad(pad), height(height),
        width(width * 3) {
    column = number % row_numbers;
    row = number / row_numbers % rows;
    image = number / row_numbers / rows;
  }

  __device__ bool inside() const { return row - pad < height && column - pad * 3 < width; }

  __device__ unsigned source() const {
    return (image * height + row - pad) * width + column - pad * 3;
  }

  __device__ void step() {
    if (++column < row_numbers) return;
    column = 0;
    if (++row < rows) return;
    row = 0;
    ++image;
  }
};

// Bytes into the first tensor, with zeros around; `table` has what each byte of each channel becomes, `all` counts the
// numbers of all images.
extern "C" __global__ void __launch_bounds__(256)
    images_bytes(const unsigned char *from, const float *table, Stored *x, unsigned height,
                 unsigned width, unsigned pad, unsigned all) {
  unsigned first = (blockIdx.x * THREADS + threadIdx.x) * WIDE;
  if (first >= all) return;
  Walk walk(height, width, pad, first);
  Pack numbers = zeros();
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (first + k < all && walk.inside()) {
      numbers.at[k] = table[walk.column % 3 * 256 + from[walk.source()]];
    }
    walk.step();
  }
  store(x + first, numbers, min(WIDE, all - first), all - first >= WIDE);
}

// Normalised numbers into the first tensor, with zeros around.
extern "C" __global__ void __launch_bounds__(256)
    images_floats(const float *from, Stored *x, unsigned height, unsigned width, unsigned pad,
                  unsigned all) {
  unsigned first = (blockIdx.x * THREADS + threadIdx.x) * WIDE;
  if (first >= all) return;
  Walk walk(height, width, pad, first);
  Pack numbers = zeros();
#pragma unroll
  for (unsigned k = 0; k < WIDE; ++k) {
    if (first + k < all && walk.inside()) numbers.at[k] = from[walk.source()];
    walk.step();
  }
  store(x + first, numbers, min(WIDE, all - first), all - first >= WIDE);
}
