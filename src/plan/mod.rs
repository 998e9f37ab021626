//! The random choices for one sample and for one microbatch, drawn once, as plain values.
//!
//! Each choice has a stream of its own, keyed by what it decides: a new purpose cannot shift another's
//! numbers, and nothing here remembers anything. Distributions are those of timm 1.0.31
//! (`timm/data/transforms.py`, `auto_augment.py`, `mixup.py`); exponentials and logarithms are
//! `libm`'s, so that every platform draws the same bits.

mod draws;
mod mix;

use crate::geometry::{Interpolation, Rect, Size};
use crate::randaugment::{MAX_MAGNITUDE, NAMES, Op};
use crate::recipe::{Crop, Recipe};
use draws::{Draws, Purpose};

pub use mix::{MixKind, MixPlan, MixSample, cutmix_f32, cutmix_f64, mix, mixup_f32, mixup_f64};

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

/// Whole pixels of a number known to be in range; Python's `int()`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..2^32")]
fn pixels(value: f64) -> u32 {
    debug_assert!((0.0..4_294_967_296.0).contains(&value));
    value as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::RecipeSpec;
    use forebay_types::MicrobatchName;

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
