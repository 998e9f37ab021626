//! What is on a picture, as plain values: everything that is drawn by chance is drawn here.

use std::f64::consts::TAU;

use crate::geometry::Size;

/// Shapes, textures and layouts tell so many classes apart; the kinds of ground the rest.
const OBJECT_CLASSES: u32 = 8 * 6 * 3;

/// The most classes there are.
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
    /// The outline of an object.
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
    /// What an object is painted with.
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
    /// How many objects, and how they lie.
    Layout {
        One = "one",
        Row = "row",
        Crowd = "crowd",
    }
}

closed_set! {
    /// What is behind the objects.
    Ground {
        Clouds = "clouds",
        Plain = "plain",
        Bricks = "bricks",
        Waves = "waves",
        Rays = "rays",
        Planks = "planks",
        Pebbles = "pebbles",
    }
}

/// What makes a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    class: u32,
    shape: Shape,
    texture: Texture,
    layout: Layout,
    /// Only where there are more classes than objects.
    ground: Option<Ground>,
}

impl Kind {
    /// The kind of a class out of `classes`: neighbouring classes differ in everything.
    pub(super) fn of(class: u32, classes: u32) -> Self {
        let (shape, q) = (class % 8, class / 8 % 18);
        let texture = (q + shape) % 6;
        let layout = (q / 6 + q + shape) % 3;
        let ground = (classes > OBJECT_CLASSES).then_some(class / OBJECT_CLASSES);
        Self {
            class,
            shape: Shape::ALL[shape as usize],
            texture: Texture::ALL[texture as usize],
            layout: Layout::ALL[layout as usize],
            ground: ground.map(|k| Ground::ALL[k as usize]),
        }
    }

    /// A folder's name; names sort as classes are numbered.
    pub(super) fn name(self) -> String {
        let object = [self.shape.name(), self.texture.name(), self.layout.name()].join("-");
        match self.ground {
            None => format!("c{:04}-{object}", self.class),
            Some(ground) => format!("c{:04}-{object}-{}", self.class, ground.name()),
        }
    }
}

/// How the file stores colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chroma {
    C444,
    C420,
    C422,
    C440,
    Gray,
}

/// R, G, B, each 0 to 255.
pub(super) type Colour = [f64; 3];

/// A shape at a place, turned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) y: f64,
    pub(super) x: f64,
    /// Half its size in pixels.
    pub(super) radius: f64,
    pub(super) cos: f64,
    pub(super) sin: f64,
    pub(super) paint: [Colour; 2],
    /// Periods of the texture along the radius.
    pub(super) frequency: f64,
    pub(super) phase: f64,
}

/// A straight bar across the picture, which says nothing of the class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) y: f64,
    pub(super) x: f64,
    pub(super) cos: f64,
    pub(super) sin: f64,
    pub(super) half_width: f64,
    pub(super) colour: Colour,
}

/// One picture before its pixels.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) size: Size,
    pub(super) shape: Shape,
    pub(super) texture: Texture,
    pub(super) objects: Vec<Object>,
    pub(super) bars: Vec<Bar>,
    pub(super) ground: Ground,
    pub(super) ground_paint: [Colour; 2],
    /// Pixels of one feature of the ground.
    pub(super) ground_scale: f64,
    /// Light: gain in the middle, and how it changes over half the picture, down and right.
    pub(super) gain: f64,
    pub(super) slope: [f64; 2],
    /// Levels of grain, and of fine relief.
    pub(super) grain: f64,
    pub(super) relief: f64,
    pub(super) chroma: Chroma,
    pub(super) quality: u8,
    /// Seeds the noise of the pixels.
    pub(super) noise: u64,
}

impl Scene {
    /// The scene of a kind, by its key.
    pub(super) fn draw(kind: Kind, key: [u64; 4]) -> Self {
        let mut d = Draws::new(key);
        let size = size(&mut d);
        let (angle, slope) = (d.between(0.0, TAU), d.between(0.0, 0.35));
        Self {
            size,
            shape: kind.shape,
            texture: kind.texture,
            objects: objects(&mut d, kind.layout, size),
            bars: bars(&mut d, size),
            ground: kind.ground.unwrap_or_else(|| Ground::ALL[d.below(7)]),
            ground_paint: paint(&mut d, 25.0, 60.0),
            ground_scale: d.between(14.0, 60.0),
            gain: d.between(0.75, 1.15),
            slope: [slope * libm::sin(angle), slope * libm::cos(angle)],
            grain: d.between(3.0, 9.5),
            relief: d.between(4.0, 18.0),
            chroma: chroma(&mut d),
            quality: [91, 92, 93, 94, 95, 96][d.below(6)],
            noise: d.next(),
        }
    }
}

/// Heights and widths as common as in ImageNet.
fn size(d: &mut Draws) -> Size {
    let (width, height) = match d.below(100) {
        0..40 => (500, 375),
        40..56 => (500, 333),
        56..68 => (375, 500),
        68..76 => (333, 500),
        76..97 => (d.int(140, 640), d.int(140, 560)),
        _ => (d.int(700, 1600), d.int(600, 1200)),
    };
    Size { height, width }
}

fn chroma(d: &mut Draws) -> Chroma {
    match d.below(1000) {
        0..761 => Chroma::C444,
        761..964 => Chroma::C420,
        964..976 => Chroma::C422,
        976..977 => Chroma::C440,
        _ => Chroma::Gray,
    }
}

/// Two colours whose luma differs by `least` to `most` levels, in either order.
fn paint(d: &mut Draws, least: f64, most: f64) -> [Colour; 2] {
    let gap = d.between(least, most);
    let dark = d.between(20.0, 235.0 - gap);
    let mut tinted = |luma: f64| {
        let (blue, red) = (d.between(-70.0, 70.0), d.between(-70.0, 70.0));
        // Y = 0.299 R + 0.587 G + 0.114 B stays as it is.
        [luma + red, luma - (0.299 * red + 0.114 * blue) / 0.587, luma + blue]
    };
    let pair = [tinted(dark), tinted(dark + gap)];
    if d.below(2) == 0 { pair } else { [pair[1], pair[0]] }
}

fn objects(d: &mut Draws, layout: Layout, size: Size) -> Vec<Object> {
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let side = height.min(width);
    let paint = paint(d, 80.0, 150.0);
    let (turn, frequency) = (d.between(0.0, TAU), d.between(1.6, 2.6));
    let (count, least, most) = match layout {
        Layout::One => (1, 0.30, 0.44),
        Layout::Row => (3, 0.15, 0.21),
        Layout::Crowd => (9, 0.09, 0.125),
    };
    let radius = side * d.between(least, most);
    let (middle_y, middle_x) = (height * d.between(0.42, 0.58), width * d.between(0.42, 0.58));
    (0..count)
        .map(|k| {
            let (along, across) = match layout {
                Layout::One => (0.0, 0.0),
                Layout::Row => (f64::from(k - 1) * 2.4 * radius, 0.0),
                Layout::Crowd => {
                    (f64::from(k % 3 - 1) * 0.30 * side, f64::from(k / 3 - 1) * 0.30 * side)
                }
            };
            let jitter = 0.25 * radius;
            let along = along + d.between(-jitter, jitter);
            let across = across + d.between(-jitter, jitter);
            let lean = d.between(-0.45, 0.45);
            let (sin, cos) = (libm::sin(turn), libm::cos(turn));
            Object {
                y: middle_y + along * sin + across * cos,
                x: middle_x + along * cos - across * sin,
                radius: radius * d.between(0.9, 1.1),
                cos: libm::cos(lean),
                sin: libm::sin(lean),
                paint,
                frequency,
                phase: d.between(0.0, TAU),
            }
        })
        .collect()
}

fn bars(d: &mut Draws, size: Size) -> Vec<Bar> {
    let (height, width) = (f64::from(size.height), f64::from(size.width));
    let count = [0, 0, 1, 2][d.below(4)];
    (0..count)
        .map(|_| {
            let turn = d.between(0.0, TAU);
            Bar {
                y: d.between(0.0, height),
                x: d.between(0.0, width),
                cos: libm::cos(turn),
                sin: libm::sin(turn),
                half_width: height.min(width) * d.between(0.006, 0.02),
                colour: paint(d, 0.0, 1.0)[0],
            }
        })
        .collect()
}

/// `SplitMix64`: pictures of samples need no better chance, and the pipeline's own streams stay
/// `plan`'s.
pub(super) struct Draws(u64);

impl Draws {
    fn new(key: [u64; 4]) -> Self {
        key.into_iter().fold(Self(0x666f_7265_6261_7921), |mut d, part| Self(d.next() ^ part))
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
    fn every_class_is_another_kind() {
        for classes in [10, OBJECT_CLASSES, MAX_CLASSES] {
            let kinds: BTreeSet<String> =
                (0..classes).map(|k| Kind::of(k, classes).name()[6..].to_owned()).collect();
            assert_eq!(kinds.len(), classes as usize);
        }
    }

    #[test]
    fn names_sort_as_classes_are_numbered() {
        let names: Vec<String> =
            (0..MAX_CLASSES).map(|k| Kind::of(k, MAX_CLASSES).name()).collect();
        assert!(names.is_sorted());
    }
}
