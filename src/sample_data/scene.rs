//! The contents of an image as plain values. All random choices are made here.

use std::f64::consts::TAU;

use crate::geometry::Size;

/// Number of classes that differ in shape, texture or arrangement. Further ones differ in the background.
const OBJECT_CLASSES: u32 = 8 * 6 * 3;

/// Largest number of classes.
pub const MAX_CLASSES: u32 = OBJECT_CLASSES * 7;

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($variant,)+ }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant,)+];

            const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

closed_set! {
    /// Outline of an object.
    Shape {
        Disc = "disc",
        Ring = "ring",
        Square = "square",
        Triangle = "triangle",
        Star = "star",
        Cross = "cross",
        Crescent = "crescent",
        Lens = "lens",
    }
}

closed_set! {
    /// Texture of an object.
    Texture {
        Stripes = "stripes",
        Checks = "checks",
        Dots = "dots",
        Target = "target",
        Zigzag = "zigzag",
        Blotches = "blotches",
    }
}

closed_set! {
    /// Number of objects and their arrangement.
    Arrangement {
        One = "one",
        Row = "row",
        Crowd = "crowd",
    }
}

closed_set! {
    /// Pattern behind the objects.
    Background {
        Clouds = "clouds",
        Plain = "plain",
        Bricks = "bricks",
        Waves = "waves",
        Rays = "rays",
        Planks = "planks",
        Pebbles = "pebbles",
    }
}

/// The properties that make a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassKind {
    class: u32,
    shape: Shape,
    texture: Texture,
    arrangement: Arrangement,
    /// `None` unless there are more classes than kinds of objects.
    background: Option<Background>,
}

impl ClassKind {
    /// The kind of a class out of `classes`. Adjacent classes differ in every property.
    pub(super) fn of(class: u32, classes: u32) -> Self {
        let (shape, q) = (class % 8, class / 8 % 18);
        let texture = (q + shape) % 6;
        let arrangement = (q / 6 + q + shape) % 3;
        let background = (classes > OBJECT_CLASSES).then_some(class / OBJECT_CLASSES);
        Self {
            class,
            shape: Shape::ALL[shape as usize],
            texture: Texture::ALL[texture as usize],
            arrangement: Arrangement::ALL[arrangement as usize],
            background: background.map(|k| Background::ALL[k as usize]),
        }
    }

    /// Name of the class's folder. Names sort in the order of the classes.
    pub(super) fn name(self) -> String {
        let object = [self.shape.name(), self.texture.name(), self.arrangement.name()].join("-");
        match self.background {
            None => format!("c{:04}-{object}", self.class),
            Some(background) => format!("c{:04}-{object}-{}", self.class, background.name()),
        }
    }
}

/// Chroma subsampling of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chroma {
    C444,
    C420,
    C422,
    C440,
    Gray,
}

/// Red, green and blue, 0 to 255.
pub(super) type Color = [f64; 3];

/// A shape at a position, rotated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) y: f64,
    pub(super) x: f64,
    /// Half of its size in pixels.
    pub(super) radius: f64,
    pub(super) cos: f64,
    pub(super) sin: f64,
    /// The two colors of the texture.
    pub(super) colors: [Color; 2],
    /// Number of the texture's periods along the radius.
    pub(super) frequency: f64,
    pub(super) phase: f64,
}

/// A straight bar across the image. It is independent of the class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) y: f64,
    pub(super) x: f64,
    pub(super) cos: f64,
    pub(super) sin: f64,
    pub(super) half_width: f64,
    pub(super) color: Color,
}

/// The contents of one image.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) size: Size,
    pub(super) shape: Shape,
    pub(super) texture: Texture,
    pub(super) objects: Vec<Object>,
    pub(super) bars: Vec<Bar>,
    pub(super) background: Background,
    pub(super) background_colors: [Color; 2],
    /// Size of the background's features in pixels.
    pub(super) background_scale: f64,
    /// Light: the gain in the center, and its slopes over half of the image, down and right.
    pub(super) gain: f64,
    pub(super) slope: [f64; 2],
    /// Amplitudes of the sensor noise and of the background's fine relief, in levels of 0 to 255.
    pub(super) grain: f64,
    pub(super) relief: f64,
    pub(super) chroma: Chroma,
    pub(super) quality: u8,
    /// Seed of the noise.
    pub(super) noise_seed: u64,
}

impl Scene {
    /// Draws the scene of a class; the key is the name of the image.
    pub(super) fn draw(kind: ClassKind, key: [u64; 4]) -> Self {
        let mut random = Random::new(key);
        let size = size(&mut random);
        let (angle, slope) = (random.between(0.0, TAU), random.between(0.0, 0.35));
        Self {
            size,
            shape: kind.shape,
            texture: kind.texture,
            objects: objects(&mut random, kind.arrangement, size),
            bars: bars(&mut random, size),
            background: kind.background.unwrap_or_else(|| Background::ALL[random.below(7)]),
            background_colors: colors(&mut random, 25.0, 60.0),
            background_scale: random.between(14.0, 60.0),
            gain: random.between(0.75, 1.15),
            slope: [slope * libm::sin(angle), slope * libm::cos(angle)],
            grain: random.between(3.0, 9.5),
            relief: random.between(4.0, 18.0),
            chroma: chroma(&mut random),
            quality: [91, 92, 93, 94, 95, 96][random.below(6)],
            noise_seed: random.next(),
        }
    }
}

/// Heights and widths as frequent as in ImageNet.
fn size(random: &mut Random) -> Size {
    let (width, height) = match random.below(100) {
        0..40 => (500, 375),
        40..56 => (500, 333),
        56..68 => (375, 500),
        68..76 => (333, 500),
        76..97 => (random.int(140, 640), random.int(140, 560)),
        _ => (random.int(700, 1600), random.int(600, 1200)),
    };
    Size { height, width }
}

fn chroma(random: &mut Random) -> Chroma {
    match random.below(1000) {
        0..761 => Chroma::C444,
        761..964 => Chroma::C420,
        964..976 => Chroma::C422,
        976..977 => Chroma::C440,
        _ => Chroma::Gray,
    }
}

/// Two colors whose luma differs by `min` to `max` levels, in either order.
fn colors(random: &mut Random, min: f64, max: f64) -> [Color; 2] {
    let gap = random.between(min, max);
    let dark = random.between(20.0, 235.0 - gap);
    let mut tinted = |luma: f64| {
        let (blue, red) = (random.between(-70.0, 70.0), random.between(-70.0, 70.0));
        // The luma 0.299 R + 0.587 G + 0.114 B does not change.
        [luma + red, luma - (0.299 * red + 0.114 * blue) / 0.587, luma + blue]
    };
    let pair = [tinted(dark), tinted(dark + gap)];
    if random.below(2) == 0 { pair } else { [pair[1], pair[0]] }
}

fn objects(random: &mut Random, arrangement: Arrangement, size: Size) -> Vec<Object> {
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let side = height.min(width);
    let colors = colors(random, 80.0, 150.0);
    let (turn, frequency) = (random.between(0.0, TAU), random.between(1.6, 2.6));
    let (count, min, max) = match arrangement {
        Arrangement::One => (1, 0.30, 0.44),
        Arrangement::Row => (3, 0.15, 0.21),
        Arrangement::Crowd => (9, 0.09, 0.125),
    };
    let radius = side * random.between(min, max);
    let (middle_y, middle_x) =
        (height * random.between(0.42, 0.58), width * random.between(0.42, 0.58));
    (0..count)
        .map(|k| {
            let (along, across) = match arrangement {
                Arrangement::One => (0.0, 0.0),
                Arrangement::Row => (f64::from(k - 1) * 2.4 * radius, 0.0),
                Arrangement::Crowd => {
                    (f64::from(k % 3 - 1) * 0.30 * side, f64::from(k / 3 - 1) * 0.30 * side)
                }
            };
            let jitter = 0.25 * radius;
            let along = along + random.between(-jitter, jitter);
            let across = across + random.between(-jitter, jitter);
            let lean = random.between(-0.45, 0.45);
            let (sin, cos) = (libm::sin(turn), libm::cos(turn));
            Object {
                y: middle_y + along * sin + across * cos,
                x: middle_x + along * cos - across * sin,
                radius: radius * random.between(0.9, 1.1),
                cos: libm::cos(lean),
                sin: libm::sin(lean),
                colors,
                frequency,
                phase: random.between(0.0, TAU),
            }
        })
        .collect()
}

fn bars(random: &mut Random, size: Size) -> Vec<Bar> {
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let count = [0, 0, 1, 2][random.below(4)];
    (0..count)
        .map(|_| {
            let turn = random.between(0.0, TAU);
            Bar {
                y: random.between(0.0, height),
                x: random.between(0.0, width),
                cos: libm::cos(turn),
                sin: libm::sin(turn),
                half_width: height.min(width) * random.between(0.006, 0.02),
                color: colors(random, 0.0, 1.0)[0],
            }
        })
        .collect()
}

/// `SplitMix64`. Sample images need no better generator, and the pipeline's generator belongs to the
/// plan.
pub(super) struct Random(u64);

impl Random {
    fn new(key: [u64; 4]) -> Self {
        key.into_iter()
            .fold(Self(0x666f_7265_6261_7921), |mut random, part| Self(random.next() ^ part))
    }

    pub(super) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`, for small n.
    fn below(&mut self, n: u32) -> usize {
        (((self.next() >> 32) * u64::from(n)) >> 32) as usize
    }

    /// Uniform in `low..=high`.
    fn int(&mut self, low: u32, high: u32) -> u32 {
        low + (((self.next() >> 32) * u64::from(high - low + 1)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_classes_have_the_same_kind() {
        for classes in [10, OBJECT_CLASSES, MAX_CLASSES] {
            let kinds: BTreeSet<String> =
                (0..classes).map(|k| ClassKind::of(k, classes).name()[6..].to_owned()).collect();
            assert_eq!(kinds.len(), classes as usize);
        }
    }

    #[test]
    fn names_sort_in_the_order_of_the_classes() {
        let names: Vec<String> =
            (0..MAX_CLASSES).map(|k| ClassKind::of(k, MAX_CLASSES).name()).collect();
        assert!(names.is_sorted());
    }
}
