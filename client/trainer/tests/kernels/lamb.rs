//! Tests of lamb.cu.

use half::f16;
use libtest_mimic::Failed;

use crate::data::{numbers, room, stored, with_infinities, words};
use crate::rig::{Case, Format, Rig, Test, args};
use crate::twin::lamb::{
    self as twin, Betas, CHUNK, Chunk, Direction, GROWTH_INTERVAL, State, Tensor, Trust,
};
use crate::twin::{Scaler, THREADS};

pub(crate) const TESTS: &[Test] = &[
    ("square_sums", [square_sums::<u16>, square_sums::<f16>, square_sums::<f32>]),
    ("gradient_norm", [gradient_norm::<u16>, gradient_norm::<f16>, gradient_norm::<f32>]),
    ("lamb_direction", [direction::<u16>, direction::<f16>, direction::<f32>]),
    ("lamb_ratio", [ratio::<u16>, ratio::<f16>, ratio::<f32>]),
    ("lamb_apply", [apply::<u16>, apply::<f16>, apply::<f32>]),
    ("copy_parameters", [copy::<u16>, copy::<f16>, copy::<f32>]),
    ("add_gradients", [add::<u16>, add::<f16>, add::<f32>]),
    ("update_ema", [average::<u16>, average::<f16>, average::<f32>]),
    ("exchange", [exchange::<u16>, exchange::<f16>, exchange::<f32>]),
    ("clear", [clear::<u16>, clear::<f16>, clear::<f32>]),
    ("store_scalars", [scalars::<u16>, scalars::<f16>, scalars::<f32>]),
];

/// Lengths of the tensors: one value, about eight and sixteen, several rounds of a block, several chunks. Of each eight
/// values, as many exist as the second number says: three in the stem, all in others.
const SIZES: [(usize, usize); 11] = [
    (1, 8),
    (7, 8),
    (8, 8),
    (9, 8),
    (16, 8),
    (17, 8),
    (40, 3),
    (3000, 8),
    (CHUNK, 8),
    (2 * CHUNK + 5, 8),
    (CHUNK + 16, 3),
];

/// Consecutive tensors, each at a multiple of 16, their chunks, and the total length.
pub(crate) fn tensors_and_chunks() -> (Vec<Tensor>, Vec<Chunk>, usize) {
    let (mut tensors, mut chunks, mut start) = (Vec::new(), Vec::new(), 0);
    for (tensor, (size, existing)) in SIZES.into_iter().enumerate() {
        let decays = tensor % 3 != 1;
        let first = chunks.len();
        for begin in (0..size).step_by(CHUNK) {
            let length = CHUNK.min(size - begin);
            chunks.push(Chunk { start: start + begin, length, tensor, decays, existing });
        }
        tensors.push(Tensor { first, chunks: chunks.len() - first, adapts: decays });
        start += size.next_multiple_of(16);
    }
    (tensors, chunks, start)
}

/// Values of the tensors, padded with zeros.
pub(crate) fn filled(seed: usize) -> Vec<f32> {
    let (_, chunks, all) = tensors_and_chunks();
    let (numbers, mut filled) = (numbers(all, seed), vec![0.0; all]);
    for chunk in chunks {
        let range = chunk.start..chunk.start + chunk.length;
        filled[range.clone()].copy_from_slice(&numbers[range.clone()]);
        for eight in filled[range].chunks_mut(8).filter(|eight| eight.len() == 8) {
            eight[chunk.existing..].fill(0.0);
        }
    }
    filled
}

/// Chunks as the kernels read them.
pub(crate) fn chunk_words(chunks: &[Chunk]) -> Vec<[u32; 4]> {
    let flags = |chunk: &Chunk| usize::from(chunk.decays) | chunk.existing << 16;
    let words = |chunk: &Chunk| [chunk.start, chunk.length, chunk.tensor, flags(chunk)];
    chunks.iter().map(|chunk| words(chunk).map(|word| u32::try_from(word).unwrap())).collect()
}

fn square_sums<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in [8, 16, 2040, 2048, 2056, CHUNK, CHUNK + 8, 3 * CHUNK - 16] {
        let values = numbers(count, 1);
        let mut partial = room(count.div_ceil(CHUNK));
        twin::square_sums(&values, &mut partial);
        let mut case = Case::default();
        let (values, partial) = (case.kept(&values), case.written(&partial));
        let args = args![values, partial, count];
        rig.run::<S>(&case, |k| &k.square_sums, [count.div_ceil(CHUNK), 1], args)?;
    }
    Ok(())
}

fn gradient_norm<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for parts in [1, 2, 255, 256, 257, 3000] {
        let partial: Vec<f32> = numbers(parts, 1).into_iter().map(f32::abs).collect();
        // Clips never, rarely and always, each by the norm of --clip-grad and by LAMB's.
        for limits in [[0.0, 0.0], [0.0, 1e6], [0.0, 0.01], [1e6, 0.0], [0.01, 0.0], [0.02, 0.01]] {
            norm_of::<S>(rig, &partial, limits, Scaler::fixed(1.0))?;
        }
    }
    // A loss scale that stays, that is doubled, that is too large to be doubled, and that is halved for a gradient that is not
    // finite; the first update and a later one.
    let scaler = |scale, growth, updates| Scaler {
        growth,
        updates,
        skipped: 5,
        dynamic: true,
        skip: true,
        ..Scaler::fixed(scale)
    };
    let last = GROWTH_INTERVAL - 1;
    for scaler in [scaler(65536.0, 7, 0), scaler(1024.0, last, 12_345), scaler(1e38, last, 1)] {
        for part in [1.0, f32::INFINITY, f32::NAN] {
            norm_of::<S>(rig, &[2.0, part, 3.0], [0.02, 0.01], scaler)?;
        }
    }
    Ok(())
}

fn norm_of<S: Format>(
    rig: &Rig,
    partial: &[f32],
    limits: [f32; 2],
    before: Scaler,
) -> Result<(), Failed> {
    for corrected in [false, true] {
        let (mut scaler, kept) = (before, [0.25, 0.5]);
        let mut corrections = kept;
        let betas = Betas { beta1: 0.9, beta2: 0.999, corrected };
        let (norm, clip) =
            twin::gradient_norm(partial, limits, &mut scaler, &mut corrections, betas);
        let mut case = Case::default();
        let args = args![
            case.kept(partial),
            partial.len(),
            limits[0],
            limits[1],
            case.written(&[norm]),
            case.written(&[clip]),
            case.changed(&words(before), &words(scaler)),
            case.changed(&kept, &corrections),
            betas.beta1,
            betas.beta2,
            corrected
        ];
        rig.run::<S>(&case, |k| &k.gradient_norm, [1, 1], args)?;
    }
    Ok(())
}

fn direction<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    skipped::<S>(rig)?;
    let (_, chunks, _) = tensors_and_chunks();
    let [beta1, beta2] = [0.9, 0.999];
    let parameter = filled(1);
    let [gradient, mean] = [2, 3].map(filled);
    let square: Vec<f32> = filled(4).into_iter().map(f32::abs).collect();
    // The first update and a later one. With an eps of 0 the padding would become NaN if the kernel did not
    // keep it at zero.
    for (correction1, correction2, eps, clip) in
        [(0.1, 0.031_622_78, 1e-6, 1.0), (0.9, 0.5, 1e-6, 3.7), (1.0, 1.0, 0.0, 1.0)]
    {
        let (beta3, one_minus_beta2, decay) = (1.0 - beta1, 1.0 - beta2, 0.02);
        let args = Direction {
            beta1,
            beta3,
            beta2,
            one_minus_beta2,
            correction1,
            correction2,
            eps,
            decay,
        };
        let mut after = [gradient.clone(), mean.clone(), square.clone()];
        let [to_gradient, to_mean, to_square] = &mut after;
        let mut state = State {
            parameter: &parameter,
            gradient: to_gradient,
            mean: to_mean,
            square: to_square,
        };
        let mut partial = vec![[f32::NAN; 2]; chunks.len()];
        twin::lamb_direction(&chunks, &mut state, &mut partial, clip, &args);
        let mut case = Case::default();
        let (table, parameter) = (case.kept(&chunk_words(&chunks)), case.kept(&parameter));
        let gradient = case.changed(&gradient, &after[0]);
        let mean = case.changed(&mean, &after[1]);
        let square = case.changed(&square, &after[2]);
        let (partial, clip) = (case.written(&partial), case.kept(&[clip]));
        let args = args![
            table,
            parameter,
            gradient,
            mean,
            square,
            partial,
            clip,
            beta1,
            beta3,
            beta2,
            one_minus_beta2,
            case.kept(&[correction1, correction2]),
            eps,
            decay,
            case.kept(&words(Scaler::fixed(64.0)))
        ];
        rig.run::<S>(&case, |k| &k.lamb_direction, [chunks.len(), 1], args)?;
    }
    Ok(())
}

/// A skipped update changes nothing, and clears the gradient.
fn skipped<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    let (tensors, chunks, _) = tensors_and_chunks();
    let scaler = words(Scaler { skip: true, ..Scaler::fixed(1.0) });
    let (values, copy) = (filled(1), stored::<S>(&filled(4)));
    let mut case = Case::default();
    let [partial, clip, corrections] = [(); 3].map(|()| case.kept(&[7.0_f32; 64]));
    let table = case.kept(&chunk_words(&chunks));
    let [parameter, gradient, mean, square] = [(); 4].map(|()| case.kept(&values));
    let args = args![
        table,
        parameter,
        gradient,
        mean,
        square,
        partial,
        clip,
        0.9_f32,
        0.1_f32,
        0.999_f32,
        0.001_f32,
        corrections,
        1e-6_f32,
        0.02_f32,
        case.kept(&scaler)
    ];
    rig.run::<S>(&case, |k| &k.lamb_direction, [chunks.len(), 1], args)?;
    let mut case = Case::default();
    let (table, partial) = (case.kept(&[[0_u32, 1, 1, 0]]), case.kept(&[[1.0_f32, 2.0]]));
    let args = args![table, partial, case.kept(&[3.0_f32]), true, true, true, case.kept(&scaler)];
    rig.run::<S>(&case, |k| &k.lamb_ratio, [1, 1], args)?;
    let cleared = vec![0.0_f32; values.len()];
    let mut case = Case::default();
    let args = args![
        case.kept(&chunk_words(&chunks)),
        case.kept(&vec![2.0_f32; tensors.len()]),
        case.kept(&values),
        case.changed(&values, &cleared),
        case.kept(&copy),
        case.kept(&[0.005_f32]),
        case.kept(&scaler)
    ];
    rig.run::<S>(&case, |k| &k.lamb_apply, [chunks.len(), 1], args)
}

fn ratio<S: Format>(rig: &Rig) -> Result<(), Failed> {
    // More chunks than threads, and sums that are zero.
    let mut tensors = tensors_and_chunks().0;
    let first = tensors.last().map_or(0, |last| last.first + last.chunks);
    tensors.push(Tensor { first, chunks: 300, adapts: true });
    let mut partial: Vec<[f32; 2]> =
        numbers(2 * (first + 300), 1).chunks(2).map(|two| [two[0].abs(), two[1].abs()]).collect();
    partial[2][0] = 0.0;
    partial[3][1] = 0.0;
    let table: Vec<[u32; 4]> = tensors
        .iter()
        .map(|tensor| [tensor.first, tensor.chunks, tensor.adapts.into(), 0])
        .map(|words| words.map(|word| u32::try_from(word).unwrap()))
        .collect();
    for bits in 0..8 {
        let [always, decays, clip] = [1, 2, 4].map(|bit| bits & bit != 0);
        let mut ratios = room(tensors.len());
        twin::lamb_ratio(&tensors, &partial, &mut ratios, Trust { always, decays, clip });
        let mut case = Case::default();
        let (table, partial) = (case.kept(&table), case.kept(&partial));
        let scaler = case.kept(&words(Scaler::fixed(1.0)));
        let args = args![table, partial, case.written(&ratios), always, decays, clip, scaler];
        rig.run::<S>(&case, |k| &k.lamb_ratio, [tensors.len(), 1], args)?;
    }
    Ok(())
}

fn apply<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    let (tensors, chunks, _) = tensors_and_chunks();
    let ratios: Vec<f32> = numbers(tensors.len(), 1).into_iter().map(f32::abs).collect();
    let before = [filled(2), filled(3)];
    let [mut parameter, mut gradient] = before.clone();
    // The contents of the padding do not matter.
    let old = stored::<S>(&filled(4));
    let (mut copy, rate) = (old.clone(), 0.005);
    twin::lamb_apply(&chunks, &ratios, &mut parameter, &mut gradient, &mut copy, rate);
    let mut case = Case::default();
    let (table, ratios) = (case.kept(&chunk_words(&chunks)), case.kept(&ratios));
    let parameter = case.changed(&before[0], &parameter);
    let gradient = case.changed(&before[1], &gradient);
    let (copy, rate) = (case.changed(&old, &copy), case.kept(&[rate]));
    let scaler = case.kept(&words(Scaler::fixed(1.0)));
    let args = args![table, ratios, parameter, gradient, copy, rate, scaler];
    rig.run::<S>(&case, |k| &k.lamb_apply, [chunks.len(), 1], args)
}

/// Multiples of 8 around the number of values of a block.
pub(crate) const COUNTS: [usize; 6] = [8, 16, 2040, 2048, 2056, 6000];

/// Blocks whose threads process eight values each.
pub(crate) const fn blocks(count: usize) -> [usize; 2] {
    [count.div_ceil(8 * THREADS), 1]
}

fn copy<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let parameter = with_infinities(count, 1);
        let mut copy = room::<S>(count);
        twin::copy_parameters(&parameter, &mut copy);
        let mut case = Case::default();
        let (parameter, copy) = (case.kept(&parameter), case.written(&copy));
        let args = args![parameter, copy, count];
        rig.run::<S>(&case, |k| &k.copy_parameters, blocks(count), args)?;
    }
    Ok(())
}

fn add<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let (from, before) = (stored::<S>(&with_infinities(count, 1)), with_infinities(count, 2));
        let mut gradient = before.clone();
        twin::add_gradients(&from, &mut gradient);
        let mut case = Case::default();
        let (from, gradient) = (case.kept(&from), case.changed(&before, &gradient));
        let args = args![from, gradient, count];
        rig.run::<S>(&case, |k| &k.add_gradients, blocks(count), args)?;
    }
    Ok(())
}

fn average<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let (before, model) = (numbers(count, 1), numbers(count, 2));
        let (mut average, keep, take) = (before.clone(), 0.999_9, 0.000_1);
        twin::update_ema(&mut average, &model, keep, take);
        let mut case = Case::default();
        let (average, model) = (case.changed(&before, &average), case.kept(&model));
        let args = args![average, model, count, case.kept(&[keep, take])];
        rig.run::<S>(&case, |k| &k.update_ema, blocks(count), args)?;
    }
    Ok(())
}

fn exchange<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let before = [numbers(count, 1), with_infinities(count, 2)];
        let [mut one, mut other] = before.clone();
        twin::exchange(&mut one, &mut other);
        let mut case = Case::default();
        let (one, other) = (case.changed(&before[0], &one), case.changed(&before[1], &other));
        rig.run::<S>(&case, |k| &k.exchange, blocks(count), args![one, other, count])?;
    }
    Ok(())
}

fn clear<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let mut values = room(count);
        twin::clear(&mut values);
        let mut case = Case::default();
        let values = case.written(&values);
        rig.run::<S>(&case, |k| &k.clear, blocks(count), args![values, count])?;
    }
    Ok(())
}

fn scalars<S: Format>(rig: &Rig) -> Result<(), Failed> {
    let values = [1.5_f32, -2.0, 0.0, 1e-30, f32::INFINITY];
    for count in 1..=values.len() {
        let mut case = Case::default();
        let [a, b, c, d, e] = values;
        let args = args![case.written(&values[..count]), count, a, b, c, d, e];
        rig.run::<S>(&case, |k| &k.store_scalars, [1, 1], args)?;
    }
    Ok(())
}
