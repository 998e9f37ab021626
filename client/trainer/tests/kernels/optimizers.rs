//! Tests of SGD, `AdamW` and gradient clipping in lamb.cu.

use half::f16;
use libtest_mimic::Failed;

use crate::data::{numbers, stored, with_infinities, words};
use crate::lamb::{COUNTS, blocks, chunk_words, filled, tensors_and_chunks};
use crate::rig::{Case, Format, Part, Rig, Test, args};
use crate::twin::Scaler;
use crate::twin::optimizers::{self as twin, AdamWArgs, Output, SgdArgs, Updated};

pub(crate) const TESTS: &[Test] = &[
    ("sgd_apply", [sgd::<u16>, sgd::<f16>, sgd::<f32>]),
    ("adamw_apply", [adamw::<u16>, adamw::<f16>, adamw::<f32>]),
    ("clip_values", [values::<u16>, values::<f16>, values::<f32>]),
    ("clip_outputs", [outputs::<u16>, outputs::<f16>, outputs::<f32>]),
    ("clipped_norm", [norm::<u16>, norm::<f16>, norm::<f32>]),
];

/// What an update changes.
#[derive(Clone)]
struct State<S> {
    parameter: Vec<f32>,
    gradient: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
    copy: Vec<S>,
}

impl<S: Format + 'static> State<S> {
    fn new() -> Self {
        let [parameter, gradient, mean] = [1, 2, 3].map(filled);
        let square = filled(4).into_iter().map(f32::abs).collect();
        Self { parameter, gradient, mean, square, copy: stored::<S>(&filled(5)) }
    }

    /// What is left by an update: by the twin, or by one that is skipped.
    fn after(&self, skip: bool, update: impl FnOnce(&mut Updated<'_, S>)) -> Self {
        let mut after = self.clone();
        if skip {
            after.gradient.fill(0.0);
        } else {
            update(&mut Updated {
                parameter: &mut after.parameter,
                gradient: &mut after.gradient,
                mean: &mut after.mean,
                square: &mut after.square,
                copy: &mut after.copy,
            });
        }
        after
    }

    /// Parameters, gradients, both moments and the copy.
    fn parts(&self, after: &Self, case: &mut Case) -> [Part; 5] {
        [
            case.changed(&self.parameter, &after.parameter),
            case.changed(&self.gradient, &after.gradient),
            case.changed(&self.mean, &after.mean),
            case.changed(&self.square, &after.square),
            case.changed(&self.copy, &after.copy),
        ]
    }
}

fn sgd<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    let (_, chunks, _) = tensors_and_chunks();
    let (before, lr, decay) = (State::<S>::new(), 0.05, 0.02);
    for (momentum, nesterov, clip, skip) in [
        (0.9, true, 1.0, false),
        (0.9, false, 3.7, false),
        (0.0, true, 1.0, false),
        (0.9, true, 1.0, true),
    ] {
        let coefficients = SgdArgs { clip, lr, momentum, nesterov, decay };
        let after = before.after(skip, |values| twin::sgd_apply(&chunks, values, coefficients));
        let mut case = Case::default();
        let [parameter, gradient, buffer, _, copy] = before.parts(&after, &mut case);
        let args = args![
            case.kept(&chunk_words(&chunks)),
            parameter,
            gradient,
            buffer,
            copy,
            case.kept(&[clip]),
            case.kept(&[lr]),
            momentum,
            nesterov,
            decay,
            case.kept(&words(Scaler { skip, ..Scaler::fixed(64.0) }))
        ];
        rig.run::<S>(&case, |k| &k.sgd_apply, [chunks.len(), 1], args)?;
    }
    Ok(())
}

fn adamw<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    let (_, chunks, _) = tensors_and_chunks();
    let (before, lr, decay) = (State::<S>::new(), 0.005, 0.05);
    let (one_minus_beta1, beta2, one_minus_beta2) = (0.1, 0.999, 0.001);
    // The first update and a later one. With an eps of 0 the padding would become NaN if the kernel did not
    // keep it at zero.
    for (corrections, eps, clip, skip) in [
        ([0.1, 0.031_622_78], 1e-8, 1.0, false),
        ([0.9, 0.5], 1e-8, 3.7, false),
        ([1.0, 1.0], 0.0, 1.0, false),
        ([0.9, 0.5], 1e-8, 1.0, true),
    ] {
        let coefficients = AdamWArgs {
            clip,
            lr,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            corrections,
            eps,
            decay,
        };
        let after = before.after(skip, |values| twin::adamw_apply(&chunks, values, &coefficients));
        let mut case = Case::default();
        let [parameter, gradient, mean, square, copy] = before.parts(&after, &mut case);
        let args = args![
            case.kept(&chunk_words(&chunks)),
            parameter,
            gradient,
            mean,
            square,
            copy,
            case.kept(&[clip]),
            case.kept(&[lr]),
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            case.kept(&corrections),
            eps,
            decay,
            case.kept(&words(Scaler { skip, ..Scaler::fixed(64.0) }))
        ];
        rig.run::<S>(&case, |k| &k.adamw_apply, [chunks.len(), 1], args)?;
    }
    Ok(())
}

fn values<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for count in COUNTS {
        let mut before = with_infinities(count, 1);
        before[3] = f32::NAN;
        for (divide, limit, skip) in [(1.0, 0.5, false), (64.0, 0.01, false), (1.0, 0.5, true)] {
            let mut after = before.clone();
            if !skip {
                twin::clip_values(&mut after, divide, limit);
            }
            let mut case = Case::default();
            let (gradient, divide) = (case.changed(&before, &after), case.kept(&[divide]));
            let scaler = case.kept(&words(Scaler { skip, ..Scaler::fixed(64.0) }));
            let args = args![gradient, count, divide, limit, scaler];
            rig.run::<S>(&case, |k| &k.clip_values, blocks(count), args)?;
        }
    }
    Ok(())
}

fn outputs<S: Format>(rig: &Rig) -> Result<(), Failed> {
    // One value, fewer than threads, one more than threads, many; not aligned; without weights; not clipped.
    let lengths = [1, 27, 256, 257, 4608, 100, 64];
    let mut outputs = Vec::new();
    let mut start = 0;
    for (number, length) in lengths.into_iter().enumerate() {
        outputs.push(Output { start, length, clips: number != 6 });
        start += length;
    }
    let mut parameter = numbers(start, 1);
    parameter[outputs[5].start..][..100].fill(0.0);
    let mut gradient = numbers(start, 2);
    let table: Vec<[u32; 4]> = outputs
        .iter()
        .map(|output| [output.start, output.length, output.clips.into(), 0])
        .map(|words| words.map(|word| u32::try_from(word).unwrap()))
        .collect();
    for (divide, share, skip) in [(1.0, 0.01, false), (64.0, 1e6, false), (1.0, 0.01, true)] {
        if share > 1.0 {
            gradient[1] = f32::NAN;
        }
        let mut after = gradient.clone();
        if !skip {
            twin::clip_outputs(&outputs, &parameter, &mut after, divide, share);
        }
        let mut case = Case::default();
        let args = args![
            case.kept(&table),
            case.kept(&parameter),
            case.changed(&gradient, &after),
            case.kept(&[divide]),
            share,
            case.kept(&words(Scaler { skip, ..Scaler::fixed(64.0) }))
        ];
        rig.run::<S>(&case, |k| &k.clip_outputs, [outputs.len(), 1], args)?;
    }
    Ok(())
}

fn norm<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for parts in [1, 257, 3000] {
        let partial: Vec<f32> = numbers(parts, 1).into_iter().map(f32::abs).collect();
        for max_norm in [0.0, 1e6, 0.01] {
            let mut case = Case::default();
            let clip = twin::clipped_norm(&partial, max_norm);
            let args = args![case.kept(&partial), parts, max_norm, case.written(&[clip])];
            rig.run::<S>(&case, |k| &k.clipped_norm, [1, 1], args)?;
        }
    }
    Ok(())
}
