//! The twin of pool.cu.

use super::twin::pool::{
    Entry, IMAGE_CHANNELS, Pool, images_bytes, images_floats, max_pool, max_pool_backward,
    mean_pool, mean_pool_backward, shortcut, shortcut_backward,
};
use super::{bits, numbers};
use crate::backend::cpu::pool as cpu;
use crate::model::Shape;

/// Images, height, width and channels.
const SHAPES: [[usize; 4]; 4] = [[1, 1, 1, 1], [3, 7, 4, 5], [2, 8, 9, 16], [2, 2, 1, 3]];

/// A pool that halves height and width, its input and output shapes, an input and an output gradient.
fn pools(wider: usize) -> impl Iterator<Item = (Pool, Shape, Shape, Vec<f32>, Vec<f32>)> {
    SHAPES.into_iter().map(move |[images, height, width, channels]| {
        let from = Shape { height, width, channels };
        let (out_height, out_width) = (height.div_ceil(2), width.div_ceil(2));
        let to = Shape { height: out_height, width: out_width, channels: channels + wider };
        let out_channels = to.channels;
        let pool = Pool { images, height, width, out_height, out_width, channels, out_channels };
        let [x, dy] = [(1, from), (2, to)].map(|(seed, of)| numbers(images * of.elements(), seed));
        (pool, from, to, x, dy)
    })
}

/// Compares the result of the twin with that of the CPU.
fn both(count: usize, twin: impl FnOnce(&mut [f32]), cpu: impl FnOnce(&mut [f32])) {
    let [mut one, mut other] = [vec![9.0; count], vec![8.0; count]];
    twin(&mut one);
    cpu(&mut other);
    assert_eq!(bits(&one), bits(&other));
}

#[test]
fn max_pools_match_the_cpu() {
    for (pool, from, to, x, dy) in pools(0) {
        // Many equal values, as after a ReLU.
        let x: Vec<f32> = x.into_iter().map(|x| x.max(0.0)).collect();
        let [mut taps, mut true_taps] = [vec![9; dy.len()], vec![8; dy.len()]];
        both(
            dy.len(),
            |y| max_pool(pool, &x, y, &mut taps),
            |y| cpu::max(from, to, &x, y, &mut true_taps),
        );
        assert_eq!(taps, true_taps);
        both(
            x.len(),
            |dx| max_pool_backward(pool, &dy, &taps, dx),
            |dx| cpu::max_backward(from, to, &dy, &taps, dx),
        );
    }
}

#[test]
fn mean_pools_match_the_cpu() {
    for (pool, from, _, x, _) in pools(0) {
        let dy = numbers(pool.images * pool.channels, 3);
        both(dy.len(), |y| mean_pool(pool, &x, y), |y| cpu::mean(from, &x, y));
        both(
            x.len(),
            |dx| mean_pool_backward(pool, &dy, dx),
            |dx| cpu::mean_backward(from, &dy, dx),
        );
    }
}

#[test]
fn shortcuts_match_the_cpu() {
    for (pool, from, to, x, dy) in pools(0).chain(pools(3)) {
        both(dy.len(), |y| shortcut(pool, &x, y), |y| cpu::shortcut(from, to, &x, y));
        both(
            x.len(),
            |dx| shortcut_backward(pool, &dy, dx),
            |dx| cpu::shortcut_backward(from, to, &dy, dx),
        );
    }
}

/// Computes images as the twin stores them, and takes their three channels. All others must be zero.
fn rgb(x: &mut [f32], twin: impl FnOnce(&mut [f32])) {
    let mut wide = vec![9.0; x.len() / 3 * IMAGE_CHANNELS];
    twin(&mut wide);
    for (x, wide) in x.chunks_mut(3).zip(wide.chunks(IMAGE_CHANNELS)) {
        x.copy_from_slice(&wide[..3]);
        assert_eq!(wide[3..], [0.0; IMAGE_CHANNELS - 3]);
    }
}

#[test]
fn copied_images_match_the_cpu() {
    let table = numbers(3 * 256, 1);
    for (images, height, width, pad) in [(1, 1, 1, 0), (2, 3, 5, 3), (2, 4, 4, 1)] {
        let entry = Entry { images, height, width, pad };
        let padded = Shape { height: height + 2 * pad, width: width + 2 * pad, channels: 3 };
        let floats = numbers(images * height * width * 3, 2);
        let bytes: Vec<u8> = floats.iter().map(|x| x.to_le_bytes()[1]).collect();
        let count = images * padded.elements();
        both(
            count,
            |x| rgb(x, |wide| images_bytes(entry, &bytes, &table, wide)),
            |x| {
                let number = |byte: u8, channel: usize| table[channel * 256 + usize::from(byte)];
                cpu::images(padded, pad, &bytes, number, x);
            },
        );
        both(
            count,
            |x| rgb(x, |wide| images_floats(entry, &floats, wide)),
            |x| cpu::images(padded, pad, &floats, |x, _| x, x),
        );
    }
}
