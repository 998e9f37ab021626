//! The random choices for one sample and for one microbatch, drawn once, as plain values.
//!
//! Each choice has a stream of its own, keyed by what it decides: a new purpose cannot shift another's
//! numbers, and nothing here remembers anything. Distributions are those of timm 1.0.31
//! (`timm/data/transforms.py`, `auto_augment.py`, `mixup.py`); exponentials and logarithms are
//! `libm`'s, so that every platform draws the same bits.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::op::{MAX_MAGNITUDE, NAMES, Op};
use crate::recipe::{Crop, Filter, Mix, MixMode, Recipe};
use crate::sample::{Interpolation, Rect, Size};

/// What happens to one sample. Geometry is in pixels of the stored image and of the resized one.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePlan {
    /// The part of the stored image that is used.
    pub source: Rect,
    /// The size that `source` is resized to.
    pub resized: Size,
    /// The part of the resized picture that is kept: the whole, or the centre in evaluation.
    pub window: Rect,
    /// Filter of the resize.
    pub filter: Interpolation,
    /// Whether left and right are exchanged after the resize.
    pub flip: bool,
    /// Operations, in the order in which they are applied.
    pub ops: Vec<Op>,
}

/// What MixUp and CutMix do to a microbatch: one entry a sample. The partner of sample i of n is
/// n - 1 - i, as in timm.
#[derive(Clone, Debug, PartialEq)]
pub struct MixPlan {
    /// One entry for each sample.
    pub samples: Vec<MixSample>,
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

    /// The weight of the sample's own label, as targets hold it.
    #[expect(clippy::cast_possible_truncation, reason = "targets are f32")]
    pub const fn label_weight(&self) -> f32 {
        self.lambda as f32
    }
}

/// What a stream of random numbers decides. The numbers are part of the recipe's semantics.
#[derive(Clone, Copy)]
enum Purpose {
    Crop = 1,
    Flip = 2,
    Augment = 3,
    Mix = 4,
}

/// Draws the plan of the sample at a position, whose stored image has the given size.
pub fn sample(recipe: &Recipe, seed: u64, epoch: u64, position: u64, image: Size) -> SamplePlan {
    let draws = |purpose: Purpose| Draws::new([seed, epoch, position, purpose as u64]);
    let (source, resized, window, filter) = match recipe.crop {
        Crop::RandomResized { scale, ratio } => {
            let mut draws = draws(Purpose::Crop);
            let filter = draws.filter(recipe.interpolation);
            let square = Size::square(recipe.image_size);
            (random_box(&mut draws, image, scale, ratio), square, square.whole(), filter)
        }
        Crop::Center { resize } => {
            let (resized, window) = center(image, resize, recipe.image_size);
            let filter = draws(Purpose::Crop).filter(recipe.interpolation);
            (image.whole(), resized, window, filter)
        }
    };
    let flip = draws(Purpose::Flip).unit() < recipe.flip;
    let ops = rand_augment(&mut draws(Purpose::Augment), recipe);
    SamplePlan { source, resized, window, filter, flip, ops }
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

/// Which microbatch, of a recipe and a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicrobatchName {
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Microbatch of the step, from 0.
    pub index: u32,
}

/// timm's `RandomResizedCropAndInterpolation.get_params`.
fn random_box(draws: &mut Draws, image: Size, scale: [f64; 2], ratio: [f64; 2]) -> Rect {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let log_ratio = ratio.map(libm::log);
    for _ in 0..10 {
        let area = draws.uniform(scale) * (width * height);
        let aspect = libm::exp(draws.uniform(log_ratio));
        let target_width = f64::sqrt(area * aspect).round_ties_even();
        let target_height = f64::sqrt(area / aspect).round_ties_even();
        // timm does not ask for at least one pixel: it would fail on the empty crop instead.
        if (1.0..=width).contains(&target_width) && (1.0..=height).contains(&target_height) {
            let (target_height, target_width) = (pixels(target_height), pixels(target_width));
            let top = draws.below(image.height - target_height + 1);
            let left = draws.below(image.width - target_width + 1);
            return Rect { top, left, height: target_height, width: target_width };
        }
    }
    let aspect = width / height;
    let (target_height, target_width) = if aspect < ratio[0] {
        (pixels((width / ratio[0]).round_ties_even()).clamp(1, image.height), image.width)
    } else if aspect > ratio[1] {
        (image.height, pixels((height * ratio[1]).round_ties_even()).clamp(1, image.width))
    } else {
        (image.height, image.width)
    };
    Rect {
        top: (image.height - target_height) / 2,
        left: (image.width - target_width) / 2,
        height: target_height,
        width: target_width,
    }
}

/// torchvision's `Resize(short)` and `CenterCrop(side)`, as timm's evaluation has them.
fn center(image: Size, short: u32, side: u32) -> (Size, Rect) {
    let long = |long: u32, of_short: u32| {
        let pixels = u64::from(short) * u64::from(long) / u64::from(of_short);
        u32::try_from(pixels).unwrap_or(u32::MAX)
    };
    let resized = if image.width <= image.height {
        Size { height: long(image.height, image.width), width: short }
    } else {
        Size { height: short, width: long(image.width, image.height) }
    };
    // Half of an odd number rounds to even, as Python's `round` does.
    let margin = |of: u32| {
        let (half, odd) = ((of - side) / 2, (of - side) % 2 == 1);
        half + u32::from(odd && half % 2 == 1)
    };
    let (top, left) = (margin(resized.height), margin(resized.width));
    (resized, Rect { top, left, height: side, width: side })
}

/// timm's `RandAugment` over `_RAND_INCREASING_TRANSFORMS`.
fn rand_augment(draws: &mut Draws, recipe: &Recipe) -> Vec<Op> {
    let augment = &recipe.randaugment;
    let mut ops = Vec::with_capacity(augment.ops as usize);
    for _ in 0..augment.ops {
        // All is drawn whether it is used or not, so that the next operation's numbers are its own.
        let index = draws.below(u32::try_from(NAMES.len()).expect("15"));
        let applied = draws.unit() <= augment.probability;
        let magnitude = augment.magnitude + augment.std * draws.normal();
        let negative = draws.unit() > 0.5;
        let filter = draws.filter(recipe.interpolation);
        if applied {
            let magnitude = magnitude.clamp(0.0, MAX_MAGNITUDE);
            ops.push(Op::at(index as usize, magnitude, negative, filter));
        }
    }
    ops
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

/// Whole pixels of a number known to be in range; Python's `int()`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..2^32")]
fn pixels(value: f64) -> u32 {
    debug_assert!((0.0..4_294_967_296.0).contains(&value));
    value as u32
}

/// A stream of random numbers: `ChaCha8` keyed by the name of the decision.
struct Draws(ChaCha8Rng);

impl Draws {
    fn new(name: [u64; 4]) -> Self {
        let mut key = [0; 32];
        for (bytes, part) in key.as_chunks_mut::<8>().0.iter_mut().zip(name) {
            *bytes = part.to_le_bytes();
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `0..1`, 53 bits.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `low..high`, as Python's `random.uniform`.
    fn uniform(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A whole number below n. The bias of the multiplication is under 2^-32.
    #[expect(clippy::cast_possible_truncation, reason = "the high half is below n")]
    fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u32
    }

    fn filter(&mut self, filter: Filter) -> Interpolation {
        let bilinear = self.unit() < 0.5;
        filter.fixed().unwrap_or(if bilinear {
            Interpolation::Bilinear
        } else {
            Interpolation::Bicubic
        })
    }

    /// Standard normal, by Box and Muller; one number of the pair is used.
    fn normal(&mut self) -> f64 {
        let radius = f64::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Beta(alpha, alpha) as NumPy draws it: by Jöhnk for alpha up to 1, else from two gammas.
    fn beta(&mut self, alpha: f64) -> f64 {
        if alpha > 1.0 {
            let (x, y) = (self.gamma(alpha), self.gamma(alpha));
            return x / (x + y);
        }
        if alpha <= 0.0 {
            return 1.0;
        }
        loop {
            let (u, v) = (self.unit(), self.unit());
            let (x, y) = (libm::pow(u, 1.0 / alpha), libm::pow(v, 1.0 / alpha));
            if x + y > 1.0 || u + v == 0.0 {
                continue;
            }
            if x + y > 0.0 {
                return x / (x + y);
            }
            // Both powers underflowed: the same in logarithms.
            let (log_x, log_y) = (libm::log(u) / alpha, libm::log(v) / alpha);
            let most = log_x.max(log_y);
            let (x, y) = (libm::exp(log_x - most), libm::exp(log_y - most));
            return x / (x + y);
        }
    }

    /// Gamma(shape, 1) for a shape of at least 1 (Marsaglia and Tsang, 2000).
    fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / f64::sqrt(9.0 * d);
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            if libm::log(1.0 - self.unit()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::RecipeSpec;

    proptest! {
        #[test]
        fn a_plan_lies_inside_its_image(
            height in 1_u32..700, width in 1_u32..700, seed: u64, position in 0_u64..1000, eval: bool,
        ) {
            let recipe = RecipeSpec::preset(if eval { "eval" } else { "a2" }).resolve().unwrap();
            let image = Size { height, width };
            let plan = sample(&recipe, seed, 0, position, image);
            prop_assert!(plan.source.fits(image), "{:?}", plan);
            prop_assert!(plan.window.fits(plan.resized), "{:?}", plan);
            prop_assert_eq!(plan.window.size(), Size::square(224));
            prop_assert_eq!(&plan, &sample(&recipe, seed, 0, position, image));
        }

        #[test]
        fn a_cut_box_lies_inside_and_says_its_weight(
            height in 1_u32..300, width in 1_u32..300, lambda in 0.0_f64..=1.0, y: u32, x: u32,
        ) {
            let size = Size { height, width };
            let sample = cutmix_f64(lambda, (y % height, x % width), size);
            let MixKind::Cutmix(cut) = sample.kind else { panic!("{sample:?}") };
            prop_assert!(cut.top + cut.height <= height && cut.left + cut.width <= width);
            let kept = sample.lambda * f64::from(height * width);
            prop_assert!((kept + f64::from(cut.height * cut.width) - f64::from(height * width)).abs() < 1e-6);
        }

        #[test]
        fn partners_of_a_pair_share_their_draw(seed: u64, step: u64, half in 1_usize..20) {
            let recipe = RecipeSpec::preset("a1").with(["mix.mode = \"pair\"".into()]).resolve().unwrap();
            let name = MicrobatchName { seed, epoch: 1, step: step % 1000, index: 2 };
            let plan = mix(&recipe, name, 2 * half);
            for (sample, partner) in plan.samples.iter().zip(plan.samples.iter().rev()) {
                prop_assert_eq!(sample, partner);
            }
        }
    }

    #[test]
    fn an_odd_microbatch_is_not_mixed() {
        let recipe = RecipeSpec::preset("a2").resolve().unwrap();
        let plan = mix(&recipe, MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 }, 3);
        assert_eq!(plan.samples, [MixSample::UNMIXED; 3]);
    }

    #[test]
    fn purposes_do_not_share_numbers() {
        let unit = |purpose: Purpose| Draws::new([1, 2, 3, purpose as u64]).unit().to_bits();
        let numbers = [Purpose::Crop, Purpose::Flip, Purpose::Augment, Purpose::Mix].map(unit);
        for (i, a) in numbers.iter().enumerate() {
            assert!(numbers[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn the_numbers_of_a_name_never_change() {
        // Part of the semantics: a change here is a change of `SEMANTICS`.
        let mut draws = Draws::new([1, 2, 3, 4]);
        let drawn = [draws.unit(), f64::from(draws.below(1000)), draws.normal(), draws.beta(0.1)];
        let known: [f64; 4] =
            [0.066_344_732_577_036_99, 345.0, -0.107_413_359_688_104_1, 0.891_195_693_331_517_5];
        assert_eq!(drawn.map(f64::to_bits), known.map(f64::to_bits), "{drawn:?}");
    }

    #[test]
    fn gammas_make_the_beta_of_large_alphas() {
        // Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
        let mut draws = Draws::new([5, 0, 0, 0]);
        let (alpha, n) = (2.5, 100_000);
        let values: Vec<f64> = (0..n).map(|_| draws.beta(alpha)).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
        let exact = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        assert!((mean - 0.5).abs() < 5.0 * (exact / f64::from(n)).sqrt(), "mean {mean}");
        assert!((variance / exact - 1.0).abs() < 0.03, "variance {variance}, exact {exact}");
    }
}
