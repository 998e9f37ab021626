//! The random choices for one sample and for one microbatch, drawn once, as plain values.
//!
//! Each choice has a stream of random numbers of its own, keyed by the name of the choice, so that a new
//! purpose does not shift the numbers of another, and there is no generator state. Distributions are
//! those of timm 1.0.31 (`timm/data/transforms.py`, `auto_augment.py`, `mixup.py`). Exponentials and
//! logarithms are `libm`'s, so that every platform draws the same bits.

mod color;
mod crop;
mod mix;
mod policy;
mod random;

use crate::geometry::{Padding, Rect, ResizeFilter, Size};
use crate::jitter::ColorOp;
use crate::ops::{Mixture, Op};
use crate::recipe::Recipe;
use crop::{Framing, frame};
use random::{Purpose, RandomStream};

pub use mix::{MixKind, MixPlan, MixSample, cutmix_f32, cutmix_f64, mix, mixup_f32, mixup_f64};

/// The plan of one sample. Boxes are in pixels of the stored image or of the resized one.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplePlan {
    /// Box of the stored image that is decoded.
    pub source: Rect,
    /// Size that `source` is resized to.
    pub resized: Size,
    /// Box of the resized image that is kept: all of it, or its center in evaluation.
    pub window: Rect,
    /// Filter of the resize.
    pub filter: ResizeFilter,
    /// What is added around the window, if it is smaller than a sample.
    pub padding: Option<Padding>,
    /// Whether the picture is flipped horizontally after that.
    pub flip: bool,
    /// Whether it is flipped vertically.
    pub vflip: bool,
    /// Operations of the augmentation policy, in the order in which they are applied.
    pub ops: Vec<Op>,
    /// Chains of operations that are mixed with the result (`AugMix`).
    pub mixture: Option<Mixture>,
    /// Color operations after those.
    pub color: Vec<ColorOp>,
}

/// Draws the plan of the sample at a position, whose stored image has the given size.
pub fn sample(recipe: &Recipe, seed: u64, epoch: u64, position: u64, image: Size) -> SamplePlan {
    let stream = |purpose: Purpose| RandomStream::new([seed, epoch, position, purpose as u64]);
    let mut random = stream(Purpose::Crop);
    let filter = random.resize_filter(recipe.interpolation);
    let Framing { source, resized, window, padding } = frame(&mut random, recipe, image);
    let flip = stream(Purpose::Flip).unit() < recipe.flip;
    let vflip = recipe.vflip > 0.0 && stream(Purpose::VerticalFlip).unit() < recipe.vflip;
    let (ops, mixture) = match &recipe.auto_augment {
        Some(auto) => policy::draw(&mut stream(Purpose::AutoAugment), recipe, auto),
        None => (policy::table(&mut stream(Purpose::Augment), recipe), None),
    };
    let color = color::operations(stream, &recipe.color);
    SamplePlan { source, resized, window, filter, padding, flip, vflip, ops, mixture, color }
}

#[cfg(test)]
mod tests {
    use forebay_types::MicrobatchName;
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::{Crop, RecipeSpec};

    proptest! {
        #[test]
        fn the_boxes_of_a_plan_are_inside_the_image(
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
        fn every_crop_fills_the_sample_from_inside_of_the_image(
            height in 1_u32..700, width in 1_u32..700, seed: u64, kind in 0..6_usize, resize in 0_u32..40,
            side in 12_u32..90, ends in [0.01_f64..2.0, 0.01_f64..2.0],
        ) {
            let [a, b] = ends;
            let (scale, ratio) = ([a.min(b), a.max(b)], [a.min(b), a.max(b)]);
            let crop = [
                Crop::KeepRatioCenter { scale, ratio },
                Crop::KeepRatioRandom { scale, ratio },
                Crop::SimpleRandom { resize: side + resize, padding: resize.min((side - 1) / 2) },
                Crop::Center { resize: side + resize, trim: resize },
                Crop::Squash { resize: side + resize, trim: resize },
                Crop::Border { resize: 1 + 4 * resize, trim: resize },
            ][kind];
            let recipe = Recipe { crop, image_size: side, ..RecipeSpec::preset("eval").resolve().unwrap() };
            let image = Size { height, width };
            let plan = sample(&recipe, seed, 0, 3, image);
            prop_assert!(plan.source.fits(image), "{:?}", plan);
            prop_assert!(plan.window.fits(plan.resized), "{:?}", plan);
            let out = plan.padding.map_or(plan.window.size(), |padding| padding.around(plan.window.size()));
            prop_assert_eq!(out, Size::square(side));
            prop_assert_eq!(&plan, &sample(&recipe, seed, 0, 3, image));
        }

        #[test]
        fn the_box_of_cutmix_is_inside_and_lambda_is_the_rest(
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
        fn partners_of_a_pair_share_one_draw(seed: u64, step: u64, half in 1_usize..20) {
            let recipe = RecipeSpec::preset("a1").with_changes(["mix.mode = \"pair\"".into()]).resolve().unwrap();
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
        use Purpose::{
            Augment, AutoAugment, Blur, ColorJitter, Crop, Flip, Grayscale, Mix, VerticalFlip,
        };
        let unit = |purpose: Purpose| RandomStream::new([1, 2, 3, purpose as u64]).unit().to_bits();
        let purposes =
            [Crop, Flip, Augment, Mix, AutoAugment, VerticalFlip, ColorJitter, Grayscale, Blur];
        let numbers = purposes.map(unit);
        for (i, a) in numbers.iter().enumerate() {
            assert!(numbers[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn new_choices_do_not_shift_the_others() {
        let resolve = |changes: &[&str]| {
            let changes = changes.iter().map(|change| (*change).to_owned());
            RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap()
        };
        let (old, new) = (
            resolve(&[]),
            resolve(&[
                "vflip = 0.5",
                "color.jitter = 0.4",
                "color.grayscale = 0.5",
                "color.blur = 0.5",
            ]),
        );
        let image = Size { height: 300, width: 400 };
        let plans = (0..200).map(|position| {
            let [old, new] = [&old, &new].map(|recipe| sample(recipe, 1, 2, position, image));
            assert_eq!(SamplePlan { vflip: false, color: Vec::new(), ..new.clone() }, old);
            new
        });
        let plans: Vec<SamplePlan> = plans.collect();
        // Whether each is chosen is independent of the others, so that all eight combinations are there.
        for chosen in (0..8).map(|bits| [1, 2, 4].map(|bit| bits & bit != 0)) {
            let is = |plan: &SamplePlan| {
                let has = |name| plan.color.iter().any(|op| op.name() == name);
                [plan.vflip, has("rgb_to_grayscale"), has("gaussian_blur")] == chosen
            };
            assert!(plans.iter().any(is), "{chosen:?}");
        }
    }

    #[test]
    fn the_numbers_of_a_stream_never_change() {
        // They are part of the semantics: a change here is a change of `SEMANTICS`.
        let mut random = RandomStream::new([1, 2, 3, 4]);
        let drawn =
            [random.unit(), f64::from(random.below(1000)), random.normal(), random.beta(0.1)];
        let known: [f64; 4] =
            [0.066_344_732_577_036_99, 345.0, -0.107_413_359_688_104_1, 0.891_195_693_331_517_5];
        assert_eq!(drawn.map(f64::to_bits), known.map(f64::to_bits), "{drawn:?}");
    }

    #[test]
    fn beta_with_a_large_alpha_has_its_mean_and_variance() {
        // Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
        let mut random = RandomStream::new([5, 0, 0, 0]);
        let (alpha, n) = (2.5, 100_000);
        let values: Vec<f64> = (0..n).map(|_| random.beta(alpha)).collect();
        let mean = values.iter().sum::<f64>() / f64::from(n);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(n);
        let exact = 1.0 / (4.0 * (2.0 * alpha + 1.0));
        assert!((mean - 0.5).abs() < 5.0 * (exact / f64::from(n)).sqrt(), "mean {mean}");
        assert!((variance / exact - 1.0).abs() < 0.03, "variance {variance}, exact {exact}");
    }
}
