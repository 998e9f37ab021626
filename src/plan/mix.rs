//! What MixUp and CutMix do to a microbatch, drawn as timm's `Mixup` draws it.

use forebay_types::MicrobatchName;

use super::draws::{Draws, Purpose};
use super::pixels;
use crate::error::Error;
use crate::geometry::{Rect, Size};
use crate::recipe::{Mix, MixMode, Recipe};

/// What MixUp and CutMix do to a microbatch: one entry a sample. The partner of sample i of n is
/// n - 1 - i, as in timm.
#[derive(Clone, Debug, PartialEq)]
pub struct MixPlan {
    /// One entry for each sample.
    pub samples: Vec<MixSample>,
}

impl MixPlan {
    /// Whether it can be applied to samples of a size: one that was not drawn here, such as a header's,
    /// may cut boxes that lie elsewhere.
    ///
    /// # Errors
    /// [`Error::Plan`] with the first box that is not inside, or weights that do not add up to 1.
    pub fn check(&self, size: Size) -> Result<(), Error> {
        let inside = |cut: Rect| {
            let ends = |from: u32, len: u32, side: u32| {
                from.checked_add(len).is_some_and(|end| end <= side)
            };
            ends(cut.top, cut.height, size.height) && ends(cut.left, cut.width, size.width)
        };
        for (slot, MixSample { kind, weights, .. }) in self.samples.iter().enumerate() {
            let what = match *kind {
                MixKind::Cutmix(cut) if !inside(cut) => {
                    format!("its box is {cut:?} of {}x{}", size.height, size.width)
                }
                MixKind::Mixup if !weights_fit(*weights) => format!("its weights are {weights:?}"),
                _ => continue,
            };
            return Err(Error::Plan { what: format!("sample {slot}: {what}") });
        }
        Ok(())
    }
}

/// Whether both are from 0 to 1 and add up to 1, but for rounding.
fn weights_fit(weights: [f32; 2]) -> bool {
    weights.iter().all(|weight| (0.0..=1.0).contains(weight))
        && (weights[0] + weights[1] - 1.0).abs() < 1e-6
}

/// What MixUp and CutMix do to one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixSample {
    /// How the partner comes in.
    pub kind: MixKind,
    /// Weight of the sample's own label, after correction by the clipped box: exact in the precision
    /// in which timm computes it (f64 in batch mode, f32 in the others).
    pub lambda: f64,
    /// Weights of the sample's pixels and of its partner's.
    pub weights: [f32; 2],
}

/// How the partner comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixKind {
    /// Not at all.
    None,
    /// Pixel by pixel, weighted.
    Mixup,
    /// In a box, which may be empty.
    Cutmix(Rect),
}

impl MixSample {
    /// A sample left as it is.
    pub const UNMIXED: Self = Self { kind: MixKind::None, lambda: 1.0, weights: [1.0, 0.0] };

    /// One that was not drawn here, such as a header's: how the partner comes in, and the weights of
    /// the sample's pixels and of its partner's.
    pub fn given(kind: MixKind, weights: [f32; 2]) -> Self {
        Self { kind, lambda: f64::from(weights[0]), weights }
    }

    /// The weight of the sample's own label, as targets hold it.
    #[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
    pub const fn label_weight(&self) -> f32 {
        self.lambda as f32
    }
}

/// Draws the plan of a microbatch of `n` samples. A microbatch that is cut short is not mixed.
pub fn mix(recipe: &Recipe, name: MicrobatchName, n: usize) -> MixPlan {
    let MicrobatchName { seed, epoch, step, index } = name;
    if !recipe.mix.enabled() || !n.is_multiple_of(2) {
        return MixPlan { samples: vec![MixSample::UNMIXED; n] };
    }
    // Purposes of samples and of microbatches are told apart by the purpose itself.
    let mut draws = Draws::new([seed, epoch, step << 16 | u64::from(index), Purpose::Mix as u64]);
    let size = Size::square(recipe.image_size);
    let samples = match recipe.mix.mode {
        MixMode::Batch => vec![mix_f64(&mut draws, &recipe.mix, size); n],
        MixMode::Pair => {
            let mut half: Vec<MixSample> =
                (0..n / 2).map(|_| mix_f32(&mut draws, &recipe.mix, size)).collect();
            half.extend_from_within(..);
            half[n / 2..].reverse();
            half
        }
        MixMode::Elem => (0..n).map(|_| mix_f32(&mut draws, &recipe.mix, size)).collect(),
    };
    MixPlan { samples }
}

/// timm's `Mixup._params_per_batch`: lambda is a Python float.
fn mix_f64(draws: &mut Draws, mix: &Mix, size: Size) -> MixSample {
    match draw_mix(draws, mix, size) {
        (_, None, _) => MixSample::UNMIXED,
        (false, Some(lambda), _) => mixup_f64(lambda),
        (true, Some(lambda), center) => cutmix_f64(lambda, center, size),
    }
}

/// timm's `Mixup._params_per_elem`: lambda is `np.float32`.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what timm stores")]
fn mix_f32(draws: &mut Draws, mix: &Mix, size: Size) -> MixSample {
    match draw_mix(draws, mix, size) {
        (_, None, _) => MixSample::UNMIXED,
        (false, Some(lambda), _) => mixup_f32(lambda as f32),
        (true, Some(lambda), center) => cutmix_f32(lambda as f32, center, size),
    }
}

/// Whether it is CutMix, lambda (`None`: not mixed), and the centre of the box.
fn draw_mix(draws: &mut Draws, mix: &Mix, size: Size) -> (bool, Option<f64>, (u32, u32)) {
    let applied = draws.unit() < mix.probability;
    let switched = draws.unit() < mix.switch;
    let cutmix = mix.cutmix > 0.0 && (mix.mixup == 0.0 || switched);
    let lambda = draws.beta(if cutmix { mix.cutmix } else { mix.mixup });
    let center = (draws.below(size.height), draws.below(size.width));
    (cutmix, applied.then_some(lambda), center)
}

/// MixUp where lambda is a Python float: NumPy casts both weights to f32. A lambda of 1 leaves the
/// sample untouched.
#[expect(clippy::cast_possible_truncation, reason = "that cast")]
pub fn mixup_f64(lambda: f64) -> MixSample {
    let kind = if lambda >= 1.0 { MixKind::None } else { MixKind::Mixup };
    MixSample { kind, lambda, weights: [lambda as f32, (1.0 - lambda) as f32] }
}

/// MixUp where lambda is `np.float32`, and so is the partner's weight.
pub fn mixup_f32(lambda: f32) -> MixSample {
    MixSample { weights: [lambda, 1.0 - lambda], ..mixup_f64(f64::from(lambda)) }
}

/// CutMix where lambda is a Python float: timm 1.0.31's `rand_bbox`, clipped at the borders, and
/// lambda corrected to the part of the picture that stays.
pub fn cutmix_f64(lambda: f64, center: (u32, u32), size: Size) -> MixSample {
    let ratio = (1.0 - lambda).sqrt();
    let cut = |side: u32| pixels(f64::from(side) * ratio);
    let cut = clipped(size, (cut(size.height), cut(size.width)), center);
    let kept = kept(cut, size);
    MixSample { kind: MixKind::Cutmix(cut), ..mixup_f64(kept) }
}

/// CutMix where lambda is `np.float32`: root and products are f32 too.
#[expect(clippy::cast_possible_truncation, reason = "f32 is what timm stores")]
pub fn cutmix_f32(lambda: f32, center: (u32, u32), size: Size) -> MixSample {
    let ratio = (1.0 - lambda).sqrt();
    let cut = |side: u32| pixels(f64::from(side as f32 * ratio));
    let cut = clipped(size, (cut(size.height), cut(size.width)), center);
    let kept = kept(cut, size) as f32;
    MixSample { kind: MixKind::Cutmix(cut), ..mixup_f32(kept) }
}

/// The part of the picture outside a box.
fn kept(cut: Rect, size: Size) -> f64 {
    let area = f64::from(cut.height) * f64::from(cut.width);
    1.0 - area / (f64::from(size.height) * f64::from(size.width))
}

fn clipped(size: Size, cut: (u32, u32), center: (u32, u32)) -> Rect {
    let range = |center: u32, cut: u32, side: u32| {
        (center.saturating_sub(cut / 2), (center + cut.div_ceil(2)).min(side))
    };
    let (top, bottom) = range(center.0, cut.0, size.height);
    let (left, right) = range(center.1, cut.1, size.width);
    Rect { top, left, height: bottom - top, width: right - left }
}
