//! Tests of norm.cu.

use half::f16;
use libtest_mimic::Failed;

use crate::data::{noise, numbers, room, stored, with_infinities};
use crate::rig::{Case, Format, Rig, Test, args};
use crate::twin::THREADS;
use crate::twin::norm::{self as twin, Given, Norm};

pub(crate) const TESTS: &[Test] = &[
    ("norm_sums", [sums::<u16>, sums::<f16>, sums::<f32>]),
    ("norm_finish", [finish::<u16>, finish::<f16>, finish::<f32>]),
    ("norm_update_running", [follow::<u16>, follow::<f16>, follow::<f32>]),
    ("norm_running", [running::<u16>, running::<f16>, running::<f32>]),
    ("norm_apply", [apply::<u16>, apply::<f16>, apply::<f32>]),
    ("norm_reduce", [reduce::<u16>, reduce::<f16>, reduce::<f32>]),
    (
        "norm_reduce_residual",
        [reduce_residual::<u16>, reduce_residual::<f16>, reduce_residual::<f32>],
    ),
    ("norm_gradients", [slopes::<u16>, slopes::<f16>, slopes::<f32>]),
    ("norm_backward", [backward::<u16>, backward::<f16>, backward::<f32>]),
    ("norm_statistics", [statistics::<u16>, statistics::<f16>, statistics::<f32>]),
    ("norm_weights", [weights::<u16>, weights::<f16>, weights::<f32>]),
];

/// Rows, channels, tile, chunks and rows per sample. They cover one of each; fewer, as many and more channels than a
/// group has in either precision; several tiles with a partial last one; lanes with no row, with one, and with an even and an odd
/// number of several; tiles that do not divide a block; and more chunks than lanes, some without rows.
const SHAPES: [[usize; 5]; 18] = [
    [1, 1, 1, 1, 1],
    [2, 3, 1, 1, 1],
    [5, 4, 1, 2, 5],
    [12, 5, 2, 1, 4],
    [9, 7, 3, 3, 3],
    [30, 8, 1, 1, 10],
    [33, 9, 2, 5, 11],
    [270, 16, 2, 2, 35],
    [21, 24, 5, 3, 7],
    [40, 40, 3, 3, 20],
    [26, 64, 8, 26, 13],
    [18, 100, 4, 4, 9],
    [37, 260, 32, 2, 7],
    [3, 2056, 256, 2, 3],
    [300, 64, 8, 3, 100],
    [530, 3, 1, 3, 53],
    [50, 12, 33, 2, 25],
    [530, 3, 1, 530, 53],
];

/// Arguments without `ReLU` and residual.
fn norms() -> impl Iterator<Item = Norm> {
    SHAPES.into_iter().map(|[rows, channels, tile, chunks, pixels]| Norm {
        rows,
        channels,
        tile,
        chunks,
        pixels,
        relu: false,
        has_residual: false,
    })
}

/// All combinations of `ReLU`, residual and stochastic depth.
fn all_norms() -> impl Iterator<Item = (Norm, bool)> {
    let flags = |bits: usize| [1, 2, 4].map(|bit| bits & bit != 0);
    norms().flat_map(move |norm| {
        (0..8)
            .map(flags)
            .map(move |[relu, has_residual, scaled]| (Norm { relu, has_residual, ..norm }, scaled))
    })
}

fn blocks<S: Format>(norm: &Norm) -> [usize; 2] {
    [norm.chunks, norm.channels.div_ceil(S::WIDE).div_ceil(norm.tile)]
}

/// Factors of stochastic depth, of which some are zero.
fn scales(norm: &Norm) -> Vec<f32> {
    let mut noise = noise(norm.rows);
    (0..norm.rows.div_ceil(norm.pixels)).map(|_| [0.0, 1.25][noise() as usize % 2]).collect()
}

fn about(norm: Norm) -> impl Fn(Failed) -> Failed {
    move |failed| format!("{norm:?}: {}", failed.message().unwrap_or("failed")).into()
}

fn sums<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for norm in norms() {
        let x = stored::<S>(&numbers(norm.rows * norm.channels, norm.rows));
        let mut partial = room(norm.chunks * 2 * norm.channels);
        twin::norm_sums(norm, &x, &mut partial);
        let mut case = Case::default();
        let (x, partial) = (case.kept(&x), case.written(&partial));
        let args = args![x, partial, norm.rows, norm.channels, norm.tile];
        rig.run::<S>(&case, |k| &k.norm_sums, blocks::<S>(&norm), args).map_err(about(norm))?;
    }
    Ok(())
}

fn finish<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for norm in norms() {
        let (channels, chunks) = (norm.channels, norm.chunks);
        let x = stored::<S>(&numbers(channels, 1));
        // The sum of squares can be smaller than the mean implies, by rounding. The variance is then clamped to 0.
        let partial: Vec<f32> = numbers(chunks * 2 * channels, 2)
            .into_iter()
            .enumerate()
            .map(|(at, number)| if at / channels % 2 == 1 { number.abs() } else { number })
            .collect();
        let [gamma, beta] = [3, 4].map(|seed| numbers(channels, seed));
        let (mut statistics, mut saved) = (room(2 * channels), room(4 * channels));
        let line = [&gamma[..], &beta[..]];
        twin::norm_finish(norm, &x, &partial, line, &mut statistics, &mut saved);
        let mut case = Case::default();
        let (x, partial) = (case.kept(&x), case.kept(&partial));
        let (gamma, beta) = (case.kept(&gamma), case.kept(&beta));
        let (statistics, saved) = (case.written(&statistics), case.written(&saved));
        let args = args![x, partial, gamma, beta, statistics, saved, chunks, norm.rows, channels];
        rig.run::<S>(&case, |k| &k.norm_finish, [channels.div_ceil(16), 1], args)
            .map_err(about(norm))?;
    }
    Ok(())
}

fn follow<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in [1, 255, 256, 257, 1000] {
        let (statistics, before) = (numbers(count, 1), numbers(count, 2));
        let mut running = before.clone();
        twin::norm_update_running(&statistics, &mut running);
        let mut case = Case::default();
        let (statistics, running) = (case.kept(&statistics), case.changed(&before, &running));
        let args = args![statistics, running, count];
        rig.run::<S>(&case, |k| &k.norm_update_running, [count.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}

fn running<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for channels in [1, 7, 256, 300] {
        let mut running = numbers(2 * channels, 1);
        running[channels..].iter_mut().for_each(|variance| *variance = variance.abs());
        let [gamma, beta] = [2, 3].map(|seed| numbers(channels, seed));
        let mut saved = room(4 * channels);
        twin::norm_running(&running, [&gamma, &beta], &mut saved);
        let mut case = Case::default();
        let (running, gamma) = (case.kept(&running), case.kept(&gamma));
        let (beta, saved) = (case.kept(&beta), case.written(&saved));
        let args = args![running, gamma, beta, saved, channels];
        rig.run::<S>(&case, |k| &k.norm_running, [channels.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}

fn apply<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for (norm, scaled) in all_norms() {
        let count = norm.rows * norm.channels;
        let x = stored::<S>(&with_infinities(count, 1));
        let residual = norm.has_residual.then(|| stored::<S>(&with_infinities(count, 2)));
        let scales = scaled.then(|| scales(&norm));
        let saved = numbers(4 * norm.channels, 3);
        let mut y = room::<S>(count);
        // Only training keeps a mask, and only with a residual.
        let mut mask = (norm.has_residual && norm.rows % 2 == 0).then(|| unmasked::<S>(&norm));
        let before = mask.clone();
        let given = Given { x: &x, scales: scales.as_deref(), saved: &saved };
        twin::norm_apply(norm, given, residual.as_deref(), &mut y, mask.as_deref_mut());
        let mut case = Case::default();
        let mask = before.zip(mask).map(|(before, mask)| case.changed(&before, &mask));
        let (x, residual) = (case.kept(&x), residual.map(|residual| case.kept(&residual)));
        let scales = scales.map(|scales| case.kept(&scales));
        let (saved, y) = (case.kept(&saved), case.written(&y));
        let Norm { rows, channels, tile, pixels, relu, .. } = norm;
        let args = args![x, residual, scales, saved, y, mask, rows, channels, tile, pixels, relu];
        rig.run::<S>(&case, |k| &k.norm_apply, blocks::<S>(&norm), args).map_err(about(norm))?;
    }
    Ok(())
}

/// The bytes of a mask before the kernel, which must overwrite all of them.
fn unmasked<S: Format>(norm: &Norm) -> Vec<u8> {
    let mut noise = noise(norm.rows);
    (0..norm.mask_len::<S>()).map(|_| noise().to_le_bytes()[3]).collect()
}

fn reduce<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for norm in norms().flat_map(|norm| [false, true].map(|relu| Norm { relu, ..norm })) {
        let count = norm.rows * norm.channels;
        let [x, dy] = [1, 2].map(|seed| stored::<S>(&numbers(count, seed)));
        let saved = numbers(4 * norm.channels, 3);
        let mut partial = room(norm.chunks * 2 * norm.channels);
        let given = Given { x: &x, scales: None, saved: &saved };
        twin::norm_reduce(norm, given, &dy, &mut partial);
        let mut case = Case::default();
        let (x, dy, saved) = (case.kept(&x), case.kept(&dy), case.kept(&saved));
        let partial = case.written(&partial);
        let Norm { rows, channels, tile, relu, .. } = norm;
        let args = args![x, dy, saved, partial, rows, channels, tile, relu];
        rig.run::<S>(&case, |k| &k.norm_reduce, blocks::<S>(&norm), args).map_err(about(norm))?;
    }
    Ok(())
}

fn reduce_residual<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for (norm, scaled) in all_norms().filter(|(norm, _)| norm.has_residual) {
        let count = norm.rows * norm.channels;
        let [x, before] = [1, 2].map(|seed| stored::<S>(&numbers(count, seed)));
        let (scales, mask) = (scaled.then(|| scales(&norm)), unmasked::<S>(&norm));
        let saved = numbers(4 * norm.channels, 3);
        let (mut dy, mut partial) = (before.clone(), room(norm.chunks * 2 * norm.channels));
        let given = Given { x: &x, scales: scales.as_deref(), saved: &saved };
        twin::norm_reduce_residual(norm, given, &mask, &mut dy, &mut partial);
        let mut case = Case::default();
        let (x, mask, dy) = (case.kept(&x), case.kept(&mask), case.changed(&before, &dy));
        let scales = scales.map(|scales| case.kept(&scales));
        let (saved, partial) = (case.kept(&saved), case.written(&partial));
        let Norm { rows, channels, tile, pixels, relu, .. } = norm;
        let args = args![x, mask, dy, scales, saved, partial, rows, channels, tile, pixels, relu];
        rig.run::<S>(&case, |k| &k.norm_reduce_residual, blocks::<S>(&norm), args)
            .map_err(about(norm))?;
    }
    Ok(())
}

fn slopes<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for norm in norms() {
        let (channels, chunks) = (norm.channels, norm.chunks);
        let (partial, saved) = (numbers(chunks * 2 * channels, 1), numbers(4 * channels, 2));
        let before = [3, 4].map(|seed| numbers(channels, seed));
        let [mut dgamma, mut dbeta] = before.clone();
        let mut terms = room(2 * channels);
        twin::norm_gradients(norm, &partial, &saved, &mut dgamma, &mut dbeta, &mut terms);
        let mut case = Case::default();
        let (partial, saved) = (case.kept(&partial), case.kept(&saved));
        let dgamma = case.changed(&before[0], &dgamma);
        let dbeta = case.changed(&before[1], &dbeta);
        let terms = case.written(&terms);
        let args = args![partial, saved, dgamma, dbeta, terms, chunks, norm.rows, channels];
        rig.run::<S>(&case, |k| &k.norm_gradients, [channels.div_ceil(16), 1], args)
            .map_err(about(norm))?;
    }
    Ok(())
}

fn backward<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for (norm, scaled) in all_norms() {
        let count = norm.rows * norm.channels;
        let [x, dy] = [1, 2].map(|seed| stored::<S>(&with_infinities(count, seed)));
        let scales = scaled.then(|| scales(&norm));
        let (saved, terms) = (numbers(4 * norm.channels, 3), numbers(2 * norm.channels, 4));
        let mut dx = room::<S>(count);
        let given = Given { x: &x, scales: scales.as_deref(), saved: &saved };
        twin::norm_backward(norm, given, &dy, &terms, &mut dx);
        let mut case = Case::default();
        let x = case.kept(&x);
        // Without a residual, the kernel works in place.
        let (dy, dx) = if norm.has_residual {
            (case.kept(&dy), case.written(&dx))
        } else {
            let both = case.changed(&dy, &dx);
            (both, both)
        };
        let scales = scales.map(|scales| case.kept(&scales));
        let (saved, terms) = (case.kept(&saved), case.kept(&terms));
        let Norm { rows, channels, tile, pixels, relu, has_residual, .. } = norm;
        let args = args![
            x,
            dy,
            scales,
            saved,
            terms,
            dx,
            rows,
            channels,
            tile,
            pixels,
            relu,
            has_residual
        ];
        rig.run::<S>(&case, |k| &k.norm_backward, blocks::<S>(&norm), args).map_err(about(norm))?;
    }
    Ok(())
}

/// Rows and channels where a thread has one channel.
const WIDTHS: [[usize; 2]; 5] = [[1, 1], [3, 8], [100, 255], [12_544, 256], [7, 300]];

fn statistics<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for [rows, channels] in WIDTHS {
        // Some sums of squares are smaller than the mean implies, by rounding. The variance is then clamped to 0.
        let mut sums = numbers(2 * channels, rows);
        sums[channels..].iter_mut().for_each(|square| *square = square.abs());
        let [gamma, beta] = [2, 3].map(|seed| numbers(channels, seed));
        let (mut statistics, mut saved) = (room(2 * channels), room(4 * channels));
        let mut line = room::<S>(2 * channels);
        let given = [&gamma[..], &beta[..]];
        twin::norm_statistics(rows, &sums, given, &mut statistics, &mut saved, &mut line);
        let mut case = Case::default();
        let (sums, gamma, beta) = (case.kept(&sums), case.kept(&gamma), case.kept(&beta));
        let (statistics, saved) = (case.written(&statistics), case.written(&saved));
        let line = case.written(&line);
        let args = args![sums, gamma, beta, statistics, saved, line, rows, channels];
        rig.run::<S>(&case, |k| &k.norm_statistics, [channels.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}

fn weights<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for [rows, channels] in WIDTHS {
        let (gradients, saved) = (numbers(2 * channels, 1), numbers(4 * channels, 2));
        let before = [3, 4].map(|seed| numbers(channels, seed));
        let [mut dgamma, mut dbeta] = before.clone();
        let mut terms = room(2 * channels);
        twin::norm_weights(rows, &gradients, &saved, &mut dgamma, &mut dbeta, &mut terms);
        let mut case = Case::default();
        let (gradients, saved) = (case.kept(&gradients), case.kept(&saved));
        let dgamma = case.changed(&before[0], &dgamma);
        let dbeta = case.changed(&before[1], &dbeta);
        let terms = case.written(&terms);
        let args = args![gradients, saved, dgamma, dbeta, terms, rows, channels];
        rig.run::<S>(&case, |k| &k.norm_weights, [channels.div_ceil(THREADS), 1], args)?;
    }
    Ok(())
}
