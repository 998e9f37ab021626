//! The twin of lamb.cu.

use super::near::Near;
use super::twin::Scaler;
use super::twin::lamb::{
    Betas, CHUNK, Chunk, Direction, State, Tensor, Trust, add_gradients, clear, copy_parameters,
    exchange, gradient_norm, lamb_apply, lamb_direction, lamb_ratio, square_sums, update_ema,
};
use super::{bits, doubles, numbers};
use crate::lamb::{ChunkSums, Coefficients, Lamb};
use crate::optimizer::tensor::{OptimizerTensor, UpdateStep};

/// Lengths of the tensors. All but the second have weight decay.
pub(super) const SIZES: [usize; 3] = [CHUNK + 100, 21, 64];

pub(super) const RATE: f32 = 0.01;

/// Additions in which a square takes part: those of a thread, then those over a block.
const DEPTH: usize = CHUNK / 256 + 8;

/// Parameters, gradients, first and second moments of all tensors.
pub(super) struct Fixture {
    pub(super) chunks: Vec<Chunk>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) state: [Vec<f32>; 4],
}

pub(super) fn fixture() -> Fixture {
    let (mut chunks, mut tensors, mut end) = (Vec::new(), Vec::new(), 0_usize);
    for (tensor, size) in SIZES.into_iter().enumerate() {
        let (start, decays) = (end, tensor != 1);
        tensors.push(Tensor { first: chunks.len(), chunks: size.div_ceil(CHUNK), adapts: decays });
        chunks.extend((0..size).step_by(CHUNK).map(|begin| {
            let length = CHUNK.min(size - begin);
            Chunk { start: start + begin, length, tensor, decays, existing: 8 }
        }));
        end = (start + size).next_multiple_of(16);
    }
    let mut state = [1, 2, 3, 4].map(|seed| {
        let (numbers, mut filled) = (numbers(end, seed), vec![0.0; end]);
        for chunk in &chunks {
            let range = chunk.start..chunk.start + chunk.length;
            filled[range.clone()].copy_from_slice(&numbers[range]);
        }
        filled
    });
    state[3].iter_mut().for_each(|square| *square = square.abs());
    Fixture { chunks, tensors, state }
}

/// The coefficients that the kernel takes, rounded to f32.
fn near_args(lamb: &Lamb, number: u64) -> [Near; 8] {
    let Coefficients { beta1, beta3, beta2, one_minus_beta2, correction1, correction2 } =
        Coefficients::new(lamb, number);
    [beta1, beta3, beta2, one_minus_beta2, correction1, correction2, lamb.eps, lamb.weight_decay]
        .map(|number| Near::exact(number).rounded())
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
pub(super) const fn nearest(number: f64) -> f32 {
    number as f32
}

/// The norm of all gradients, and the divisor that clips it.
fn clip_of(gradient: &[f32], max: Option<f64>) -> [Near; 2] {
    let squares = gradient.iter().map(|g| (Near::exact(*g) * Near::exact(*g)).rounded());
    let norm = Near::sum(squares, DEPTH).root();
    let ratio = max.map_or(1.0, |max| (norm.value / max).max(1.0));
    [norm, Near { value: ratio, error: norm.error / max.unwrap_or(1.0) }.rounded()]
}

#[test]
fn an_update_matches_the_cpu() {
    let plain = Lamb::default();
    let lambs = [
        (1, plain),
        (7, Lamb { max_grad_norm: None, trust_clip: true, ..plain }),
        (100, Lamb { bias_correction: false, grad_averaging: false, always_adapt: true, ..plain }),
        (3, Lamb { weight_decay: 0.0, max_grad_norm: Some(1e6), ..plain }),
    ];
    for (number, lamb) in lambs {
        update(&lamb, number);
    }
}

fn update(lamb: &Lamb, number: u64) {
    let Fixture { chunks, tensors, state } = fixture();
    let near_args = near_args(lamb, number);
    let [beta1, beta3, beta2, one_minus_beta2, correction1, correction2, eps, decay] =
        near_args.map(|near| nearest(near.value));
    let args =
        Direction { beta1, beta3, beta2, one_minus_beta2, correction1, correction2, eps, decay };
    let [mut parameter, mut gradient, mut mean, mut square] = state.clone();
    let mut squares = vec![0.0; gradient.len().div_ceil(CHUNK)];
    square_sums(&gradient, &mut squares);
    let max_norm = nearest(lamb.max_grad_norm.unwrap_or(0.0));
    let betas = Betas { beta1: lamb.betas.0, beta2: lamb.betas.1, corrected: lamb.bias_correction };
    let (mut scaler, mut unused) = (Scaler::fixed(1.0), [0.0; 2]);
    let (norm, clip) = gradient_norm(&squares, [0.0, max_norm], &mut scaler, &mut unused, betas);
    let mut sums = vec![[0.0; 2]; chunks.len()];
    let mut twin = State {
        parameter: &parameter,
        gradient: &mut gradient,
        mean: &mut mean,
        square: &mut square,
    };
    lamb_direction(&chunks, &mut twin, &mut sums, clip, &args);
    let mut ratios = vec![0.0; tensors.len()];
    let trust = Trust {
        always: lamb.always_adapt,
        decays: lamb.weight_decay != 0.0,
        clip: lamb.trust_clip,
    };
    lamb_ratio(&tensors, &sums, &mut ratios, trust);
    let mut copy = vec![0.0_f32; parameter.len()];
    lamb_apply(&chunks, &ratios, &mut parameter, &mut gradient, &mut copy, RATE);
    assert!(gradient.iter().all(|gradient| gradient.to_bits() == 0));
    assert_eq!(bits(&copy), bits(&parameter));

    let [near_norm, near_clip] = clip_of(&state[1], lamb.max_grad_norm);
    let true_norm = ChunkSums::new(state[1].len()).norm(&doubles(&state[1]));
    near_norm.holds("norm", nearest(norm), true_norm);
    near_clip.holds("clip", clip, near_clip.value);
    let mut end = 0_usize;
    for (tensor, size) in SIZES.into_iter().enumerate() {
        let range = end..end + size;
        end = range.end.next_multiple_of(16);
        let mut truth = [0, 1, 2, 3].map(|which: usize| doubles(&state[which][range.clone()]));
        let [true_parameter, true_gradient, true_mean, true_square] = &mut truth;
        let decays = tensors[tensor].adapts;
        let one = OptimizerTensor {
            parameter: true_parameter,
            gradient: true_gradient,
            exp_avg: true_mean,
            exp_avg_sq: true_square,
            decays,
        };
        let step = UpdateStep { lr: RATE.into(), update: number, grad_norm: true_norm };
        lamb.update(&step, one, &mut ChunkSums::new(size));

        let before = [0, 1, 2, 3].map(|which: usize| &state[which][range.clone()]);
        let near = directions(before, near_args, near_clip, decays);
        let ratio = ratio(lamb, decays, before[0], &near);
        for (at, [near_mean, near_square, direction]) in near.into_iter().enumerate() {
            let there = range.start + at;
            near_mean.holds("mean", mean[there], truth[2][at]);
            near_square.holds("square", square[there], truth[3][at]);
            let scaled = (direction * ratio).rounded();
            let moved = (Near::exact(RATE) * scaled).rounded();
            let near = (Near::exact(before[0][at]) - moved).rounded();
            near.holds("parameter", parameter[there], truth[0][at]);
        }
    }
}

/// First moment, second moment and direction of each value of a tensor.
fn directions(before: [&[f32]; 4], args: [Near; 8], clip: Near, decays: bool) -> Vec<[Near; 3]> {
    let [beta1, beta3, beta2, one_minus_beta2, correction1, correction2, eps, decay] = args;
    let decay = if decays { decay } else { Near::exact(0.0) };
    let each = |at: usize| {
        let [p, g, m, s] = before.map(|numbers| Near::exact(numbers[at]));
        let now = (g / clip).rounded();
        let mean = ((beta1 * m).rounded() + (beta3 * now).rounded()).rounded();
        let new = ((one_minus_beta2 * now).rounded() * now).rounded();
        let square = ((beta2 * s).rounded() + new).rounded();
        let root = ((square.root().rounded() / correction2).rounded() + eps).rounded();
        let adam = ((mean / correction1).rounded() / root).rounded();
        [mean, square, (adam + (decay * p).rounded()).rounded()]
    };
    (0..before[0].len()).map(each).collect()
}

/// The trust ratio of a tensor.
fn ratio(lamb: &Lamb, decays: bool, parameter: &[f32], near: &[[Near; 3]]) -> Near {
    if !(lamb.always_adapt || decays && lamb.weight_decay != 0.0) {
        return Near::exact(1.0);
    }
    let norm = |numbers: &mut dyn Iterator<Item = Near>| {
        Near::sum(numbers.map(|number| (number * number).rounded()), DEPTH).root()
    };
    let weights = norm(&mut parameter.iter().map(|p| Near::exact(*p)));
    let update = norm(&mut near.iter().map(|[.., direction]| *direction));
    let ratio = (weights / update).rounded();
    if lamb.trust_clip { ratio.map(1.0, |ratio| ratio.min(1.0)) } else { ratio }
}

#[test]
fn elementwise_kernels_match_the_cpu() {
    let [one, other] = [1, 2].map(|seed| numbers(40, seed));
    let (mut sum, mut average) = (one.clone(), one.clone());
    add_gradients(&other, &mut sum);
    update_ema(&mut average, &other, 0.75, 0.25);
    for at in 0..one.len() {
        let [a, b] = [&one, &other].map(|numbers| Near::exact(numbers[at]));
        (a + b).rounded().holds("sum", sum[at], (a + b).value);
        let near = (a * Near::exact(0.75)).rounded() + (b * Near::exact(0.25)).rounded();
        near.rounded().holds("average", average[at], near.value);
    }
    let [mut left, mut right] = [one.clone(), other.clone()];
    exchange(&mut left, &mut right);
    assert_eq!([bits(&left), bits(&right)], [bits(&other), bits(&one)]);
    let mut copy = vec![0.0; one.len()];
    copy_parameters(&one, &mut copy);
    assert_eq!(bits(&copy), bits(&one));
    clear(&mut copy);
    assert!(copy.iter().all(|number| number.to_bits() == 0));
}
