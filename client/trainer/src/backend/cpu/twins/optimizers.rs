//! The twins of the other optimizers and of gradient clipping in lamb.cu.

use super::lamb::{Fixture, RATE, SIZES, fixture, nearest};
use super::near::Near;
use super::twin::Scaler;
use super::twin::lamb::{Betas, CHUNK, gradient_norm, square_sums};
use super::twin::optimizers::{
    AdamWArgs, Output, SgdArgs, Updated, adamw_apply, clip_outputs, clip_values, clipped_norm,
    sgd_apply,
};
use super::{bits, doubles};
use crate::lamb::ChunkSums;
use crate::optimizer::Optimizer;
use crate::optimizer::adamw::AdamW;
use crate::optimizer::clip;
use crate::optimizer::sgd::Sgd;
use crate::optimizer::tensor::{OptimizerTensor, UpdateStep};

fn exact(number: f64) -> Near {
    Near::exact(number).rounded()
}

/// Runs an update of the twin, and gives parameters, first and second moments.
fn twin(before: &[Vec<f32>; 4], update: impl FnOnce(&mut Updated<'_, f32>)) -> [Vec<f32>; 3] {
    let [mut parameter, mut gradient, mut mean, mut square] = before.clone();
    let mut copy = vec![0.0_f32; parameter.len()];
    update(&mut Updated {
        parameter: &mut parameter,
        gradient: &mut gradient,
        mean: &mut mean,
        square: &mut square,
        copy: &mut copy,
    });
    assert!(gradient.iter().all(|gradient| gradient.to_bits() == 0));
    assert_eq!(bits(&copy), bits(&parameter));
    [parameter, mean, square]
}

/// Compares the values of each tensor with those of the CPU. `near` gives the bounds of a value's parameter and moments, from
/// what they and the gradient were before, and whether weight decay applies.
fn compare(
    optimizer: Optimizer,
    number: u64,
    state: &[Vec<f32>; 4],
    found: &[Vec<f32>; 3],
    near: impl Fn([Near; 4], bool) -> [Near; 3],
) {
    let mut end = 0_usize;
    for (tensor, size) in SIZES.into_iter().enumerate() {
        let range = end..end + size;
        end = range.end.next_multiple_of(16);
        let decays = tensor != 1;
        let mut truth = [0, 1, 2, 3].map(|which: usize| doubles(&state[which][range.clone()]));
        let [parameter, gradient, exp_avg, exp_avg_sq] = &mut truth;
        let step = UpdateStep { lr: RATE.into(), update: number, grad_norm: f64::NAN };
        let one = OptimizerTensor { parameter, gradient, exp_avg, exp_avg_sq, decays };
        optimizer.update(&step, one, &mut ChunkSums::new(size));
        for (at, there) in range.enumerate() {
            let before = [0, 1, 2, 3].map(|which: usize| Near::exact(state[which][there]));
            let truths = [truth[0][at], truth[2][at], truth[3][at]];
            for (which, (near, truth)) in near(before, decays).into_iter().zip(truths).enumerate() {
                near.holds(["parameter", "mean", "square"][which], found[which][there], truth);
            }
        }
    }
}

#[test]
fn sgd_matches_the_cpu() {
    let Fixture { chunks, state, .. } = fixture();
    for (momentum, nesterov) in [(0.9, true), (0.9, false), (0.0, true)] {
        let sgd = Sgd { momentum, nesterov, weight_decay: 0.02 };
        let [near_momentum, near_decay] = [momentum, sgd.weight_decay].map(exact);
        let args = SgdArgs {
            clip: 1.0,
            lr: RATE,
            momentum: nearest(momentum),
            nesterov,
            decay: nearest(sgd.weight_decay),
        };
        let found = twin(&state, |values| sgd_apply(&chunks, values, args));
        compare(Optimizer::Sgd(sgd), 1, &state, &found, |[p, g, mut buffer, square], decays| {
            let decay = if decays { near_decay } else { Near::exact(0.0) };
            let mut direction = (g + (decay * p).rounded()).rounded();
            if momentum > 0.0 {
                buffer = ((near_momentum * buffer).rounded() + direction).rounded();
                let moved = (near_momentum * buffer).rounded();
                direction = if nesterov { (direction + moved).rounded() } else { buffer };
            }
            let moved = (Near::exact(RATE) * direction).rounded();
            [(p - moved).rounded(), buffer, square]
        });
    }
}

#[test]
fn adamw_matches_the_cpu() {
    let Fixture { chunks, state, .. } = fixture();
    for number in [1, 7, 1000] {
        let adamw = AdamW { weight_decay: 0.05, ..AdamW::default() };
        let optimizer = Optimizer::AdamW(adamw);
        let corrections = [adamw.betas.0, adamw.betas.1].map(|b| 1.0 - libm::pow(b, number as f64));
        let corrections = [corrections[0], corrections[1].sqrt()];
        let constants = [
            1.0 - adamw.betas.0,
            adamw.betas.1,
            1.0 - adamw.betas.1,
            corrections[0],
            corrections[1],
            adamw.eps,
            adamw.weight_decay,
        ];
        let [one_minus_beta1, beta2, one_minus_beta2, correction1, correction2, eps, decay] =
            constants.map(nearest);
        let args = AdamWArgs {
            clip: 1.0,
            lr: RATE,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            corrections: [correction1, correction2],
            eps,
            decay,
        };
        let found = twin(&state, |values| adamw_apply(&chunks, values, &args));
        let [new1, beta2, new2, correction1, correction2, eps, decay] = constants.map(exact);
        compare(optimizer, number, &state, &found, |[p, g, m, s], decays| {
            let decay = if decays { decay } else { Near::exact(0.0) };
            let lr = Near::exact(RATE);
            let keep = (Near::exact(1.0) - (lr * decay).rounded()).rounded();
            let mean = (m + (new1 * (g - m).rounded()).rounded()).rounded();
            let new = ((new2 * g).rounded() * g).rounded();
            let square = ((beta2 * s).rounded() + new).rounded();
            let root = ((square.root().rounded() / correction2).rounded() + eps).rounded();
            let step = (lr / correction1).rounded();
            let moved = ((step * mean).rounded() / root).rounded();
            [((p * keep).rounded() - moved).rounded(), mean, square]
        });
    }
}

/// The norm of some values, of which each thread of a block adds up `depth`.
fn norm(values: &[f32], depth: usize) -> Near {
    let squares = values.iter().map(|v| (Near::exact(*v) * Near::exact(*v)).rounded());
    Near::sum(squares, depth).root()
}

#[test]
fn the_norm_is_clipped_as_on_the_cpu() {
    let Fixture { state, .. } = fixture();
    let mut squares = vec![0.0; state[1].len().div_ceil(CHUNK)];
    square_sums(&state[1], &mut squares);
    let near = norm(&state[1], CHUNK / 256 + 8);
    let (mut scaler, mut unused) = (Scaler::fixed(4.0), [0.0; 2]);
    let betas = Betas { beta1: 0.0, beta2: 0.0, corrected: false };
    // First to the norm of --clip-grad, then what is left to LAMB's, and the loss scale.
    for (clip_norm, max_norm) in [(0.5, 0.0), (0.5, 0.25), (1e6, 0.25), (0.5, 1.0)] {
        let limits = [clip_norm, max_norm];
        let (_, divisor) = gradient_norm(&squares, limits, &mut scaler, &mut unused, betas);
        let unscaled = near.value / 4.0;
        let factor = clip::norm_factor(clip_norm.into(), unscaled);
        let left = (unscaled * factor / f64::from(max_norm)).max(1.0);
        let left = if max_norm > 0.0 { left } else { 1.0 };
        let truth = left / factor * 4.0;
        let off = (f64::from(divisor) - truth).abs() / truth;
        assert!(off < 2.0 * near.error / near.value + 1e-6, "{limits:?}: {divisor}, {truth}");
    }
    let found = clipped_norm(&squares, 0.25);
    let truth = near.value / 0.25;
    assert!((f64::from(found) - truth).abs() <= truth * 1e-5, "{found}, {truth}");
    assert_eq!(clipped_norm(&squares, 0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(clipped_norm(&squares, 1e6).to_bits(), 1.0_f32.to_bits());
}

#[test]
fn values_are_clipped_as_on_the_cpu() {
    let Fixture { state, .. } = fixture();
    let (mut found, mut truth) = (state[1].clone(), state[1].clone());
    clip_values(&mut found, 1.0, 0.25);
    clip::clip_values(0.25, &mut truth);
    assert_eq!(bits(&found), bits(&truth));
    let mut scaled: Vec<f32> = state[1].iter().map(|value| value * 64.0).collect();
    clip_values(&mut scaled, 64.0, 0.25);
    assert_eq!(bits(&scaled), bits(&truth), "the loss scale is removed");
}

#[test]
fn outputs_are_clipped_as_on_the_cpu() {
    let Fixture { state, .. } = fixture();
    // The first tensor as a convolution of two outputs, of which one has no weights; the others as they are.
    let half = SIZES[0] / 2;
    let mut weights = state[0].clone();
    weights[..half].fill(0.0);
    let rows = [(0, half, true), (half, half, true), (SIZES[0].next_multiple_of(16), 21, true)];
    let outputs: Vec<Output> = rows
        .into_iter()
        .map(|(start, length, clips)| Output { start, length, clips })
        .chain([Output { start: SIZES[0].next_multiple_of(16) + 32, length: 64, clips: false }])
        .collect();
    for share in [0.05, 1e6] {
        let mut found = state[1].clone();
        clip_outputs(&outputs, &weights, &mut found, 1.0, nearest(share));
        for output in &outputs {
            let range = output.start..output.start + output.length;
            let mut truth = doubles(&state[1][range.clone()]);
            let parameter = doubles(&weights[range.clone()]);
            if output.clips {
                clip::clip_outputs(share, &parameter, &mut truth, 1, |_| 0);
            }
            for (found, truth) in found[range].iter().zip(truth) {
                // Two sums of half a chunk, two roots, a quotient and a product.
                assert!(
                    (f64::from(*found) - truth).abs() <= 1e-5 * truth.abs(),
                    "{found}, {truth}"
                );
            }
        }
    }
}
