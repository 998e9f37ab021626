//! The boxes of crops.

use super::random::RandomStream;
use crate::geometry::{PadMode, Padding, Rect, Size};
use crate::recipe::{Crop, Recipe};

/// Draws a box of random area and aspect ratio (timm's `RandomResizedCropAndInterpolation.get_params`).
fn random_box(random: &mut RandomStream, image: Size, scale: [f64; 2], ratio: [f64; 2]) -> Rect {
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let log_ratio = ratio.map(libm::log);
    for _ in 0..10 {
        let area = random.uniform(scale) * (width * height);
        let aspect = libm::exp(random.uniform(log_ratio));
        let target_width = f64::sqrt(area * aspect).round_ties_even();
        let target_height = f64::sqrt(area / aspect).round_ties_even();
        // timm does not check for at least one pixel; it fails on the empty crop instead.
        if (1.0..=width).contains(&target_width) && (1.0..=height).contains(&target_height) {
            let (target_height, target_width) = (pixels(target_height), pixels(target_width));
            let top = random.below(image.height - target_height + 1);
            let left = random.below(image.width - target_width + 1);
            return Rect { top, left, height: target_height, width: target_width };
        }
    }
    // No box fits, so the largest one whose aspect ratio is allowed is taken from the center.
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

/// How a stored image becomes a sample, without flips.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framing {
    pub(super) source: Rect,
    pub(super) resized: Size,
    pub(super) window: Rect,
    pub(super) padding: Option<Padding>,
}

/// Draws how the stored image becomes a sample.
pub(super) fn frame(random: &mut RandomStream, recipe: &Recipe, image: Size) -> Framing {
    let side = recipe.image_size;
    let whole = image.whole();
    match recipe.crop {
        Crop::RandomResized { scale, ratio } => Framing {
            source: random_box(random, image, scale, ratio),
            resized: Size::square(side),
            window: Size::square(side).whole(),
            padding: None,
        },
        Crop::KeepRatioCenter { scale, ratio } => {
            let resized = random_size(random, image, side, scale, ratio);
            centered(whole, resized, side, PadMode::Reflect)
        }
        Crop::KeepRatioRandom { scale, ratio } => {
            let resized = random_size(random, image, side, scale, ratio);
            placed(random, whole, resized, side)
        }
        Crop::SimpleRandom { resize, padding } => {
            let resized = short_side(image, resize);
            shifted(random, whole, resized, side, padding)
        }
        Crop::Center { resize, trim } => {
            let source = trimmed(image, trim);
            centered(source, short_side(source.size(), resize), side, PadMode::Reflect)
        }
        Crop::Squash { resize, trim } => {
            let source = trimmed(image, trim);
            centered(source, Size::square(resize), side, PadMode::Reflect)
        }
        Crop::Border { resize, trim } => {
            let source = trimmed(image, trim);
            let resized = long_side(source.size(), resize);
            centered(source, resized, side, PadMode::Fill(recipe.mean_color()))
        }
    }
}

/// The image without its outermost pixels on each side (timm's `TrimBorder`). At least a pixel remains,
/// where timm fails.
fn trimmed(image: Size, trim: u32) -> Rect {
    let [top, left] = [image.height, image.width].map(|side| trim.min((side - 1) / 2));
    Rect { top, left, height: image.height - 2 * top, width: image.width - 2 * left }
}

/// The size with a short side of `short` pixels (torchvision's `Resize`).
fn short_side(image: Size, short: u32) -> Size {
    let long = |long: u32, of_short: u32| {
        let pixels = u64::from(short) * u64::from(long) / u64::from(of_short);
        u32::try_from(pixels).unwrap_or(u32::MAX)
    };
    if image.width <= image.height {
        Size { height: long(image.height, image.width), width: short }
    } else {
        Size { height: short, width: long(image.width, image.height) }
    }
}

/// The size with a long side of about `long` pixels (timm's `ResizeKeepRatio` with `longest = 1`).
fn long_side(image: Size, long: u32) -> Size {
    let ratio = f64::from(image.height.max(image.width)) / f64::from(long);
    let [height, width] = [image.height, image.width].map(|side| rounded(f64::from(side) / ratio));
    Size { height, width }
}

/// Draws a size near that with a short side of `short` pixels (timm's `ResizeKeepRatio`, as its `rkrc`
/// and `rkrr` use it).
fn random_size(
    random: &mut RandomStream,
    image: Size,
    short: u32,
    scale: [f64; 2],
    ratio: [f64; 2],
) -> Size {
    /// Probability of another area, and of another aspect ratio.
    const PROBABILITY: f64 = 0.5;
    let (height, width) = (f64::from(image.height), f64::from(image.width));
    let shrink = (height / f64::from(short)).min(width / f64::from(short));
    // Every number is drawn whether it is used or not.
    let scaled = random.unit() < PROBABILITY;
    let area = random.uniform(scale);
    let stretched = random.unit() < PROBABILITY;
    let aspect = libm::exp(random.uniform(ratio.map(libm::log)));
    let factor = if scaled { 1.0 / f64::sqrt(area) } else { 1.0 };
    let aspect = if stretched { f64::sqrt(aspect) } else { 1.0 };
    Size {
        height: rounded(height * (factor / aspect) / shrink),
        width: rounded(width * (factor * aspect) / shrink),
    }
}

/// Rounds a side as Python does. It has at least a pixel, where Pillow fails.
fn rounded(side: f64) -> u32 {
    pixels(side.round_ties_even().clamp(1.0, f64::from(u32::MAX)))
}

/// The center of the resized image, or the padded image where that is smaller (timm's `CenterCropOrPad`,
/// and torchvision's `CenterCrop` of images that are at least as large).
fn centered(source: Rect, resized: Size, side: u32, mode: PadMode) -> Framing {
    let axis = |of: u32| {
        if of < side {
            return Span { start: 0, count: of, before: (side - of) / 2 };
        }
        // Half of an odd number is rounded to even, as Python's `round` does.
        let (half, odd) = ((of - side) / 2, (of - side) % 2 == 1);
        Span { start: half + u32::from(odd && half % 2 == 1), count: side, before: 0 }
    };
    framing(source, resized, side, mode, [axis(resized.height), axis(resized.width)])
}

/// A random part of the resized image, or the image with padding around it where that is smaller (timm's
/// `RandomCropOrPad`).
fn placed(random: &mut RandomStream, source: Rect, resized: Size, side: u32) -> Framing {
    let mut axis = |of: u32| {
        let offset = random.below(of.abs_diff(side) + 1);
        if of < side {
            Span { start: 0, count: of, before: offset }
        } else {
            Span { start: offset, count: side, before: 0 }
        }
    };
    let axes = [axis(resized.height), axis(resized.width)];
    framing(source, resized, side, PadMode::Reflect, axes)
}

/// A random part of the resized image with `padding` pixels around it (torchvision's `RandomCrop`).
fn shifted(
    random: &mut RandomStream,
    source: Rect,
    resized: Size,
    side: u32,
    padding: u32,
) -> Framing {
    let mut axis = |of: u32| {
        // Positions in the padded image.
        let start = random.below(of.saturating_add(2 * padding) - side + 1);
        let before = padding.saturating_sub(start);
        let start = start.saturating_sub(padding);
        Span { start, count: (side - before).min(of - start), before }
    };
    let axes = [axis(resized.height), axis(resized.width)];
    framing(source, resized, side, PadMode::Reflect, axes)
}

/// The part of a side that is kept, and its place in the sample.
struct Span {
    start: u32,
    count: u32,
    /// Pixels of the sample before it.
    before: u32,
}

fn framing(source: Rect, resized: Size, side: u32, mode: PadMode, [y, x]: [Span; 2]) -> Framing {
    let window = Rect { top: y.start, left: x.start, height: y.count, width: x.count };
    let padding = Padding {
        top: y.before,
        left: x.before,
        bottom: side - y.before - y.count,
        right: side - x.before - x.count,
        mode,
    };
    let padding = (window.size() != Size::square(side)).then_some(padding);
    Framing { source, resized, window, padding }
}

/// Truncates a number that is known to be in range, as Python's `int()` does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..2^32")]
pub(super) fn pixels(value: f64) -> u32 {
    debug_assert!((0.0..4_294_967_296.0).contains(&value));
    value as u32
}
