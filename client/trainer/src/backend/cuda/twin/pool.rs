//! pool.cu: pools, the parameter-free shortcut, and copying images into the first tensor.

use super::Stored;

/// Input and output sizes of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) channels: usize,
    /// Channels of the output; more than `channels` only for a shortcut.
    pub(crate) out_channels: usize,
}

impl Pool {
    /// Image, row, column and channel of each input value, in memory order.
    fn places(self) -> impl Iterator<Item = [usize; 4]> {
        places([self.images, self.height, self.width, self.channels])
    }

    /// Image, row, column and channel of each output value, in memory order.
    fn out_places(self) -> impl Iterator<Item = [usize; 4]> {
        places([self.images, self.out_height, self.out_width, self.out_channels])
    }

    const fn at(&self, [image, row, column, channel]: [usize; 4]) -> usize {
        ((image * self.height + row) * self.width + column) * self.channels + channel
    }

    const fn out_at(&self, [image, row, column, channel]: [usize; 4]) -> usize {
        let pixel = (image * self.out_height + row) * self.out_width + column;
        pixel * self.out_channels + channel
    }
}

fn places(sizes: [usize; 4]) -> impl Iterator<Item = [usize; 4]> {
    let [images, height, width, channels] = sizes;
    (0..images * height * width * channels).map(move |at| {
        let pixel = at / channels;
        [pixel / width / height, pixel / width % height, pixel % width, at % channels]
    })
}

pub(crate) fn max_pool<S: Stored>(pool: Pool, x: &[S], y: &mut [S], taps: &mut [u8]) {
    for (at, [image, row, column, channel]) in pool.out_places().enumerate() {
        let (mut best, mut best_tap) = (None, 0);
        for tap in 0..9_u8 {
            let down = 2 * row + usize::from(tap) / 3;
            let right = 2 * column + usize::from(tap) % 3;
            if down == 0 || right == 0 || down > pool.height || right > pool.width {
                continue;
            }
            let number = x[pool.at([image, down - 1, right - 1, channel])].to_float();
            if best.is_none_or(|best| number > best) {
                (best, best_tap) = (Some(number), tap);
            }
        }
        y[at] = S::to_stored(best.unwrap_or(0.0));
        taps[at] = best_tap;
    }
}

pub(crate) fn max_pool_backward<S: Stored>(pool: Pool, dy: &[S], taps: &[u8], dx: &mut [S]) {
    for (at, [image, row, column, channel]) in pool.places().enumerate() {
        let mut sum = 0.0;
        for down in (row / 2..=row.div_ceil(2)).filter(|down| *down < pool.out_height) {
            for right in (column / 2..=column.div_ceil(2)).filter(|right| *right < pool.out_width) {
                let tap = (row + 1 - 2 * down) * 3 + column + 1 - 2 * right;
                let from = pool.out_at([image, down, right, channel]);
                if usize::from(taps[from]) == tap {
                    sum += dy[from].to_float();
                }
            }
        }
        dx[at] = S::to_stored(sum);
    }
}

pub(crate) fn mean_pool<S: Stored>(pool: Pool, x: &[S], y: &mut [S]) {
    let (channels, pixels) = (pool.channels, pool.height * pool.width);
    for (at, y) in y.iter_mut().enumerate() {
        let image = &x[at / channels * pixels * channels..][..pixels * channels];
        let numbers = image.iter().skip(at % channels).step_by(channels);
        *y = S::to_stored(numbers.fold(0.0, |sum, x| sum + x.to_float()) / pixels as f32);
    }
}

pub(crate) fn mean_pool_backward<S: Stored>(pool: Pool, dy: &[S], dx: &mut [S]) {
    let pixels = (pool.height * pool.width) as f32;
    for (at, [image, _, _, channel]) in pool.places().enumerate() {
        dx[at] = S::to_stored(dy[image * pool.channels + channel].to_float() / pixels);
    }
}

pub(crate) fn shortcut<S: Stored>(pool: Pool, x: &[S], y: &mut [S]) {
    for (at, [image, row, column, channel]) in pool.out_places().enumerate() {
        let from = [image, 2 * row, 2 * column, channel];
        let number = if channel < pool.channels { x[pool.at(from)].to_float() } else { 0.0 };
        y[at] = S::to_stored(number);
    }
}

pub(crate) fn shortcut_backward<S: Stored>(pool: Pool, dy: &[S], dx: &mut [S]) {
    for (at, [image, row, column, channel]) in pool.places().enumerate() {
        let taken = row % 2 == 0 && column % 2 == 0;
        let from = [image, row / 2, column / 2, channel];
        dx[at] = S::to_stored(if taken { dy[pool.out_at(from)].to_float() } else { 0.0 });
    }
}

/// Channels of the first tensor: three of the images, the rest zeros.
pub(crate) const IMAGE_CHANNELS: usize = 8;

/// Sizes of RGB images before padding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) images: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) pad: usize,
}

impl Entry {
    /// Fills the padded images. `number` returns the value at an index of the unpadded images and a channel.
    fn fill<S: Stored>(self, x: &mut [S], number: impl Fn(usize, usize) -> f32) {
        let pad = self.pad;
        let (height, width) = (self.height + 2 * pad, self.width + 2 * pad);
        for (at, [image, row, column, channel]) in
            places([self.images, height, width, IMAGE_CHANNELS]).enumerate()
        {
            let inside = (pad..pad + self.height).contains(&row)
                && (pad..pad + self.width).contains(&column);
            x[at] = S::to_stored(if inside && channel < 3 {
                let pixel = (image * self.height + row - pad) * self.width + column - pad;
                number(pixel * 3 + channel, channel)
            } else {
                0.0
            });
        }
    }
}

pub(crate) fn images_bytes<S: Stored>(entry: Entry, from: &[u8], table: &[f32], x: &mut [S]) {
    entry.fill(x, |at, channel| table[channel * 256 + usize::from(from[at])]);
}

pub(crate) fn images_floats<S: Stored>(entry: Entry, from: &[f32], x: &mut [S]) {
    entry.fill(x, |at, _| from[at]);
}
