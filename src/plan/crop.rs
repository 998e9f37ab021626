//! The boxes of crops.

use super::random::RandomStream;
use crate::geometry::{Rect, Size};

/// Draws a box of random area and aspect ratio (timm's `RandomResizedCropAndInterpolation.get_params`).
pub(super) fn random_box(
    random: &mut RandomStream,
    image: Size,
    scale: [f64; 2],
    ratio: [f64; 2],
) -> Rect {
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

/// The size and the box of a resize of the short side to `short` pixels and a center crop of `side`
/// pixels (torchvision's `Resize` and `CenterCrop`, as in timm's evaluation).
pub(super) fn center(image: Size, short: u32, side: u32) -> (Size, Rect) {
    let long = |long: u32, of_short: u32| {
        let pixels = u64::from(short) * u64::from(long) / u64::from(of_short);
        u32::try_from(pixels).unwrap_or(u32::MAX)
    };
    let resized = if image.width <= image.height {
        Size { height: long(image.height, image.width), width: short }
    } else {
        Size { height: short, width: long(image.width, image.height) }
    };
    // Half of an odd number is rounded to even, as Python's `round` does.
    let margin = |of: u32| {
        let (half, odd) = ((of - side) / 2, (of - side) % 2 == 1);
        half + u32::from(odd && half % 2 == 1)
    };
    let (top, left) = (margin(resized.height), margin(resized.width));
    (resized, Rect { top, left, height: side, width: side })
}

/// Truncates a number that is known to be in range, as Python's `int()` does.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..2^32")]
pub(super) fn pixels(value: f64) -> u32 {
    debug_assert!((0.0..4_294_967_296.0).contains(&value));
    value as u32
}
