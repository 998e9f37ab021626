//! Tests of pool.cu.

use half::f16;
use libtest_mimic::Failed;

use crate::data::{noise, numbers, room, stored, with_infinities};
use crate::rig::{Case, Format, Rig, Test, args};
use crate::twin::THREADS;
use crate::twin::pool::{self as twin, Entry, IMAGE_CHANNELS, Pool};

pub(crate) const TESTS: &[Test] = &[
    ("max_pool", [max::<u16>, max::<f16>, max::<f32>]),
    ("max_pool_backward", [max_backward::<u16>, max_backward::<f16>, max_backward::<f32>]),
    ("mean_pool", [mean::<u16>, mean::<f16>, mean::<f32>]),
    ("mean_pool_backward", [mean_backward::<u16>, mean_backward::<f16>, mean_backward::<f32>]),
    ("shortcut", [shortcut::<u16>, shortcut::<f16>, shortcut::<f32>]),
    (
        "shortcut_backward",
        [shortcut_backward::<u16>, shortcut_backward::<f16>, shortcut_backward::<f32>],
    ),
    ("images_bytes", [bytes::<u16>, bytes::<f16>, bytes::<f32>]),
    ("images_floats", [floats::<u16>, floats::<f16>, floats::<f32>]),
];

/// Images, height, width, channels, and channels of a shortcut's output. They cover one pixel, odd sides, several blocks, and
/// fewer, as many and more channels than a group has in either precision.
const SHAPES: [[usize; 5]; 11] = [
    [1, 1, 1, 1, 1],
    [2, 1, 2, 3, 6],
    [1, 3, 2, 4, 10],
    [3, 5, 4, 5, 11],
    [2, 3, 5, 6, 12],
    [2, 4, 7, 8, 16],
    [1, 8, 8, 9, 9],
    [2, 6, 5, 12, 24],
    [2, 9, 9, 16, 20],
    [1, 7, 6, 20, 64],
    [3, 16, 16, 64, 128],
];

/// Sizes of a max pool, which halves height and width.
fn pools() -> impl Iterator<Item = Pool> {
    SHAPES.into_iter().map(|[images, height, width, channels, _]| Pool {
        images,
        height,
        width,
        out_height: height.div_ceil(2),
        out_width: width.div_ceil(2),
        channels,
        out_channels: channels,
    })
}

fn widened() -> impl Iterator<Item = Pool> {
    pools().zip(SHAPES).map(|(pool, [.., out_channels])| Pool { out_channels, ..pool })
}

const fn source(pool: &Pool) -> usize {
    pool.images * pool.height * pool.width * pool.channels
}

const fn result(pool: &Pool) -> usize {
    pool.images * pool.out_height * pool.out_width * pool.out_channels
}

/// Blocks for a number of pixels.
fn blocks<S: Format>(pixels: usize, channels: usize) -> [usize; 2] {
    [(pixels * channels.div_ceil(S::WIDE)).div_ceil(THREADS), 1]
}

fn about(pool: Pool) -> impl Fn(Failed) -> Failed {
    move |failed| format!("{pool:?}: {}", failed.message().unwrap_or("failed")).into()
}

fn max<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in pools() {
        let Pool { images, height, width, out_height, out_width, channels, .. } = pool;
        // After a ReLU many values are equal, and there are zeros of both signs.
        let mut x = with_infinities(source(&pool), 1);
        x.iter_mut().step_by(3).for_each(|number| *number = number.clamp(-0.5, 0.0));
        let x = stored::<S>(&x);
        let (mut y, mut taps) = (room::<S>(result(&pool)), vec![0; result(&pool)]);
        twin::max_pool(pool, &x, &mut y, &mut taps);
        let mut case = Case::default();
        let (x, y, taps) = (case.kept(&x), case.written(&y), case.written(&taps));
        let args = args![x, y, taps, images, height, width, out_height, out_width, channels];
        let blocks = blocks::<S>(images * out_height * out_width, channels);
        rig.run::<S>(&case, |k| &k.max_pool, blocks, args).map_err(about(pool))?;
    }
    Ok(())
}

fn max_backward<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in pools() {
        let Pool { images, height, width, out_height, out_width, channels, .. } = pool;
        let x = stored::<S>(&numbers(source(&pool), 1));
        let dy = stored::<S>(&with_infinities(result(&pool), 2));
        let (mut y, mut taps) = (room::<S>(result(&pool)), vec![0; result(&pool)]);
        twin::max_pool(pool, &x, &mut y, &mut taps);
        let mut dx = room::<S>(source(&pool));
        twin::max_pool_backward(pool, &dy, &taps, &mut dx);
        let mut case = Case::default();
        let (dy, taps, dx) = (case.kept(&dy), case.kept(&taps), case.written(&dx));
        let args = args![dy, taps, dx, images, height, width, out_height, out_width, channels];
        let blocks = blocks::<S>(images * height * width, channels);
        rig.run::<S>(&case, |k| &k.max_pool_backward, blocks, args).map_err(about(pool))?;
    }
    Ok(())
}

fn mean<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in pools() {
        let Pool { images, height, width, channels, .. } = pool;
        let x = stored::<S>(&with_infinities(source(&pool), 1));
        let mut y = room::<S>(images * channels);
        twin::mean_pool(pool, &x, &mut y);
        let mut case = Case::default();
        let (x, y) = (case.kept(&x), case.written(&y));
        let args = args![x, y, images, height * width, channels];
        rig.run::<S>(&case, |k| &k.mean_pool, blocks::<S>(images, channels), args)
            .map_err(about(pool))?;
    }
    Ok(())
}

fn mean_backward<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in pools() {
        let Pool { images, height, width, channels, .. } = pool;
        let dy = stored::<S>(&with_infinities(images * channels, 1));
        let mut dx = room::<S>(source(&pool));
        twin::mean_pool_backward(pool, &dy, &mut dx);
        let mut case = Case::default();
        let (dy, dx) = (case.kept(&dy), case.written(&dx));
        let args = args![dy, dx, images, height * width, channels];
        let blocks = blocks::<S>(images * height * width, channels);
        rig.run::<S>(&case, |k| &k.mean_pool_backward, blocks, args).map_err(about(pool))?;
    }
    Ok(())
}

fn shortcut<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in widened() {
        let Pool { images, height, width, out_height, out_width, channels, out_channels } = pool;
        let x = stored::<S>(&with_infinities(source(&pool), 1));
        let mut y = room::<S>(result(&pool));
        twin::shortcut(pool, &x, &mut y);
        let mut case = Case::default();
        let (x, y) = (case.kept(&x), case.written(&y));
        let args =
            args![x, y, images, height, width, channels, out_height, out_width, out_channels];
        let blocks = blocks::<S>(images * out_height * out_width, out_channels);
        rig.run::<S>(&case, |k| &k.shortcut, blocks, args).map_err(about(pool))?;
    }
    Ok(())
}

fn shortcut_backward<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for pool in widened() {
        let Pool { images, height, width, out_height, out_width, channels, out_channels } = pool;
        let dy = stored::<S>(&with_infinities(result(&pool), 1));
        let mut dx = room::<S>(source(&pool));
        twin::shortcut_backward(pool, &dy, &mut dx);
        let mut case = Case::default();
        let (dy, dx) = (case.kept(&dy), case.written(&dx));
        let args =
            args![dy, dx, images, height, width, channels, out_height, out_width, out_channels];
        let blocks = blocks::<S>(images * height * width, channels);
        rig.run::<S>(&case, |k| &k.shortcut_backward, blocks, args).map_err(about(pool))?;
    }
    Ok(())
}

/// Sizes of images with their padding, and the number of padded pixels.
fn entries() -> impl Iterator<Item = (Entry, usize)> {
    [[1, 1, 1, 0], [1, 1, 1, 1], [2, 2, 3, 3], [3, 4, 4, 0], [1, 7, 5, 1], [2, 11, 16, 3]]
        .into_iter()
        .map(|[images, height, width, pad]| {
            let pixels = images * (height + 2 * pad) * (width + 2 * pad);
            (Entry { images, height, width, pad }, pixels)
        })
}

fn bytes<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    let table = numbers(3 * 256, 1);
    for (entry, pixels) in entries() {
        let mut noise = noise(2);
        let count = entry.images * entry.height * entry.width * 3;
        let from: Vec<u8> = (0..count).map(|_| noise().to_le_bytes()[3]).collect();
        let mut x = room::<S>(pixels * IMAGE_CHANNELS);
        twin::images_bytes(entry, &from, &table, &mut x);
        let mut case = Case::default();
        let (from, table, x) = (case.kept(&from), case.kept(&table), case.written(&x));
        let args = args![from, table, x, entry.height, entry.width, entry.pad, pixels];
        rig.run::<S>(&case, |k| &k.images_bytes, [pixels.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}

fn floats<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for (entry, pixels) in entries() {
        let from = with_infinities(entry.images * entry.height * entry.width * 3, 1);
        let mut x = room::<S>(pixels * IMAGE_CHANNELS);
        twin::images_floats(entry, &from, &mut x);
        let mut case = Case::default();
        let (from, x) = (case.kept(&from), case.written(&x));
        let args = args![from, x, entry.height, entry.width, entry.pad, pixels];
        rig.run::<S>(&case, |k| &k.images_floats, [pixels.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}
