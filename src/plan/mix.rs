//! The plan of MixUp and CutMix for a microbatch, drawn as timm's `Mixup` draws it.

use forebay_types::MicrobatchName;

use super::crop::pixels;
use super::random::{Purpose, RandomStream};
use crate::error::Error;
use crate::geometry::{Rect, Size};
use crate::recipe::{Mix, MixMode, Recipe};

/// The plan by which MixUp and CutMix mix a microbatch. The partner of sample i of n is n - 1 - i, as
/// in timm.
#[derive(Clone, Debug, PartialEq)]
pub struct MixPlan {
    /// One entry for each sample.
    pub samples: Vec<MixSample>,
}

impl MixPlan {
    /// Checks that the plan can be applied to samples of a size. Plans that were not drawn here, such as
    /// those of received headers, may have boxes outside of it.
    ///
    /// # Errors
    /// [`Error::Plan`] with the first box outside of the sample, or weights that do not add up to 1.
    pub fn check(&self, size: Size) -> Result<(), Error> {
        let inside = |cut: Rect| {
            let ends = |from: u32, len: u32, side: u32| {
                from.checked_add(len).is_some_and(|end| end <= side)
            };
            ends(cut.top, cut.height, size.height) && ends(cut.left, cut.width, size.width)
        };
        for (slot, MixSample { kind, weights, .. }) in self.samples.iter().enumerate() {
            let what = match *kind {
                MixKind::Cutmix(cut) if !inside(cut) => format!(
                    "its box {cut:?} is not inside of {}x{} pixels",
                    size.height, size.width
                ),
                MixKind::Mixup if !are_weights(*weights) => {
                    format!("its weights {weights:?} do not add up to 1")
                }
                _ => continue,
            };
            return Err(Error::Plan { what: format!("sample {slot}: {what}") });
        }
        Ok(())
    }
}

/// Whether both weights are in `0..=1` and add up to 1, except for rounding.
fn are_weights(weights: [f32; 2]) -> bool {
    weights.iter().all(|weight| (0.0..=1.0).contains(weight))
        && (weights[0] + weights[1] - 1.0).abs() < 1e-6
}

/// The plan by which MixUp and CutMix mix one sample with its partner.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixSample {
    /// The pixels that are taken from the partner.
    pub kind: MixKind,
    /// Weight of the sample's own label, corrected by the clipped box. It has the precision in which timm
    /// computes it (f64 in batch mode, f32 in the other modes).
    pub lambda: f64,
    /// Weights of the sample's pixels and of its partner's pixels.
    pub weights: [f32; 2],
}

/// The pixels that are taken from the partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixKind {
    /// None.
    None,
    /// All, weighted.
    Mixup,
    /// Those in a box, which may be empty.
    Cutmix(Rect),
}

impl MixSample {
    /// A sample that is not mixed.
    pub const UNMIXED: Self = Self { kind: MixKind::None, lambda: 1.0, weights: [1.0, 0.0] };

    /// A sample whose parameters were not drawn here but received, such as in a header.
    pub fn given(kind: MixKind, weights: [f32; 2]) -> Self {
        Self { kind, lambda: f64::from(weights[0]), weights }
    }

    /// Weight of the sample's own label, in the precision of targets.
    #[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
    pub const fn label_weight(&self) -> f32 {
        self.lambda as f32
    }
}

/// Draws the plan of a microbatch of `n` samples. An odd number of samples cannot be paired and is not
/// mixed.
pub fn mix(recipe: &Recipe, name: MicrobatchName, n: usize) -> MixPlan {
    let MicrobatchName { seed, epoch, step, index } = name;
    if !recipe.mix.enabled() || !n.is_multiple_of(2) {
        return MixPlan { samples: vec![MixSample::UNMIXED; n] };
    }
    // The purpose keeps this key apart from those of samples.
    let mut random =
        RandomStream::new([seed, epoch, step << 16 | u64::from(index), Purpose::Mix as u64]);
    let size = Size::square(recipe.image_size);
    let samples = match recipe.mix.mode {
        MixMode::Batch => vec![mix_f64(&mut random, &recipe.mix, size); n],
        MixMode::Pair => {
            let mut half: Vec<MixSample> =
                (0..n / 2).map(|_| mix_f32(&mut random, &recipe.mix, size)).collect();
            half.extend_from_within(..);
            half[n / 2..].reverse();
            half
        }
        MixMode::Elem => (0..n).map(|_| mix_f32(&mut random, &recipe.mix, size)).collect(),
    };
    MixPlan { samples }
}

/// timm's `Mixup._params_per_batch`: lambda is a Python float.
fn mix_f64(random: &mut RandomStream, mix: &Mix, size: Size) -> MixSample {
    match draw_mix(random, mix, size) {
        (_, None, _) => MixSample::UNMIXED,
        (false, Some(lambda), _) => mixup_f64(lambda),
        (true, Some(lambda), center) => cutmix_f64(lambda, center, size),
    }
}

/// timm's `Mixup._params_per_elem`: lambda is `np.float32`.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what timm stores")]
fn mix_f32(random: &mut RandomStream, mix: &Mix, size: Size) -> MixSample {
    match draw_mix(random, mix, size) {
        (_, None, _) => MixSample::UNMIXED,
        (false, Some(lambda), _) => mixup_f32(lambda as f32),
        (true, Some(lambda), center) => cutmix_f32(lambda as f32, center, size),
    }
}

/// Draws whether to use CutMix, lambda (`None`: not mixed), and the center of the box.
fn draw_mix(random: &mut RandomStream, mix: &Mix, size: Size) -> (bool, Option<f64>, (u32, u32)) {
    let applied = random.unit() < mix.probability;
    let switched = random.unit() < mix.switch;
    let cutmix = mix.cutmix > 0.0 && (mix.mixup == 0.0 || switched);
    let lambda = random.beta(if cutmix { mix.cutmix } else { mix.mixup });
    let center = (random.below(size.height), random.below(size.width));
    (cutmix, applied.then_some(lambda), center)
}

/// MixUp with a lambda that is a Python float in timm: NumPy casts both weights to f32. A lambda of 1
/// does not mix.
#[expect(clippy::cast_possible_truncation, reason = "NumPy casts too")]
pub fn mixup_f64(lambda: f64) -> MixSample {
    let kind = if lambda >= 1.0 { MixKind::None } else { MixKind::Mixup };
    MixSample { kind, lambda, weights: [lambda as f32, (1.0 - lambda) as f32] }
}

/// MixUp with a lambda that is `np.float32` in timm, as is the partner's weight then.
pub fn mixup_f32(lambda: f32) -> MixSample {
    MixSample { weights: [lambda, 1.0 - lambda], ..mixup_f64(f64::from(lambda)) }
}

/// CutMix with a lambda that is a Python float in timm: the box is that of timm 1.0.31's `rand_bbox`,
/// clipped at the borders, and lambda is corrected to the part of the image outside of it.
pub fn cutmix_f64(lambda: f64, center: (u32, u32), size: Size) -> MixSample {
    let ratio = (1.0 - lambda).sqrt();
    let cut = |side: u32| pixels(f64::from(side) * ratio);
    let cut = clipped(size, (cut(size.height), cut(size.width)), center);
    let kept = kept(cut, size);
    MixSample { kind: MixKind::Cutmix(cut), ..mixup_f64(kept) }
}

/// CutMix with a lambda that is `np.float32` in timm, as are the root and the products then.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what timm stores")]
pub fn cutmix_f32(lambda: f32, center: (u32, u32), size: Size) -> MixSample {
    let ratio = (1.0 - lambda).sqrt();
    let cut = |side: u32| pixels(f64::from(side as f32 * ratio));
    let cut = clipped(size, (cut(size.height), cut(size.width)), center);
    let kept = kept(cut, size) as f32;
    MixSample { kind: MixKind::Cutmix(cut), ..mixup_f32(kept) }
}

/// Fraction of an image outside of a box.
fn kept(cut: Rect, size: Size) -> f64 {
    let area = f64::from(cut.height) * f64::from(cut.width);
    1.0 - area / (f64::from(size.height) * f64::from(size.width))
}

/// The box of a size around a center, clipped at the borders.
fn clipped(size: Size, cut: (u32, u32), center: (u32, u32)) -> Rect {
    let range = |center: u32, cut: u32, side: u32| {
        (center.saturating_sub(cut / 2), (center + cut.div_ceil(2)).min(side))
    };
    let (top, bottom) = range(center.0, cut.0, size.height);
    let (left, right) = range(center.1, cut.1, size.width);
    Rect { top, left, height: bottom - top, width: right - left }
}
