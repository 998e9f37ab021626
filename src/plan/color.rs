//! The draws of color operations.

use super::random::{Purpose, RandomStream};
use crate::jitter::ColorOp;
use crate::recipe::Color;

/// Bounds of the standard deviation of a blur, torchvision's defaults.
const SIGMA: [f64; 2] = [0.1, 2.0];

/// Draws color operations as timm's `RandomApply` of `ColorJitter`, `RandomGrayscale` and `RandomApply` of
/// `GaussianBlur` do, in this order. `stream` has the numbers of a purpose.
pub(super) fn operations(stream: impl Fn(Purpose) -> RandomStream, color: &Color) -> Vec<ColorOp> {
    let mut ops = Vec::new();
    if color.jitter.iter().any(|most| *most > 0.0) {
        let mut random = stream(Purpose::ColorJitter);
        let applied = random.unit() <= color.probability;
        let drawn = jitter(&mut random, color.jitter);
        ops.extend(drawn.into_iter().flatten().filter(|_| applied));
    }
    if color.grayscale > 0.0 && stream(Purpose::Grayscale).unit() < color.grayscale {
        ops.push(ColorOp::Grayscale);
    }
    if color.blur > 0.0 {
        let mut random = stream(Purpose::Blur);
        if random.unit() <= color.blur {
            ops.push(ColorOp::GaussianBlur(random.uniform(SIGMA)));
        }
    }
    ops
}

/// Draws the four operations of `ColorJitter`, in a random order. Those that cannot change anything are
/// left out.
fn jitter(random: &mut RandomStream, most: [f64; 4]) -> [Option<ColorOp>; 4] {
    let mut draw = |kind: fn(f64) -> ColorOp, range: [f64; 2], most: f64| {
        let value = random.uniform(range);
        (most > 0.0).then(|| kind(value))
    };
    let factor = |most: f64| [f64::max(0.0, 1.0 - most), 1.0 + most];
    let [brightness, contrast, saturation, hue] = most;
    let mut ops = [
        draw(ColorOp::Brightness, factor(brightness), brightness),
        draw(ColorOp::Contrast, factor(contrast), contrast),
        draw(ColorOp::Saturation, factor(saturation), saturation),
        draw(ColorOp::Hue, [-hue, hue], hue),
    ];
    // Fisher and Yates, from the end.
    for (last, count) in [(3, 4), (2, 3), (1, 2)] {
        ops.swap(last, random.below(count) as usize);
    }
    ops
}
