//! Recipes: a TOML text and changes to it.

use forebay::plan;
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::{MicrobatchName, Rect, Sampler, Size};

/// Sizes of images, from usual to extreme.
const IMAGES: [(u32, u32); 6] =
    [(1, 1), (375, 500), (1, 65_500), (65_500, 1), (13_377, 13_377), (65_535, 2730)];

/// A text is an error or a recipe. A recipe's canonical form is the same recipe, and its plans are inside of their
/// images.
///
/// Input: TOML and changes, separated by zero bytes.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0').map(str::to_owned);
    let toml = parts.next().unwrap_or_default();
    let Ok(recipe) = RecipeSpec::from_toml("fuzz", toml).with_changes(parts).resolve() else {
        return;
    };
    let again =
        RecipeSpec::from_toml("canonical", recipe.canonical()).resolve().expect("canonical");
    assert_eq!(again, recipe);
    assert_eq!(again.digest(), recipe.digest());
    draw(&recipe);
}

fn draw(recipe: &Recipe) {
    let side = Size::square(recipe.image_size);
    for (position, (height, width)) in (0..).zip(IMAGES) {
        let image = Size { height, width };
        let plan = plan::sample(recipe, 1, 2, position, image);
        assert!(plan.source.fits(image) && plan.window.fits(plan.resized), "{plan:?}");
        let window = plan.window.size();
        assert_eq!(plan.padding.map_or(window, |padding| padding.around(window)), side);
    }
    let n = recipe.microbatch_size().min(64) as usize;
    let name = MicrobatchName { seed: 1, epoch: 2, step: 3, index: 0 };
    let mix = plan::mix(recipe, name, n);
    assert_eq!(mix.samples.len(), n);
    for sample in &mix.samples {
        assert!((0.0..=1.0).contains(&sample.lambda), "{sample:?}");
        if let plan::MixKind::Cutmix(Rect { top, left, height, width }) = sample.kind {
            assert!(top + height <= side.height && left + width <= side.width, "{sample:?}");
        }
    }
    for records in [1, 300, 1 << 40] {
        let Ok(order) = Sampler::new(records, recipe, 1) else { continue };
        let last = order.steps_per_epoch() - 1;
        let epoch = order.epoch(2);
        for position in order.positions(last, 0).take(20) {
            assert!(epoch.record(position) < records);
        }
    }
}
