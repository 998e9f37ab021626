//! Renders the pixels of a scene. Transcendental functions are `libm`'s, so that every platform renders
//! the same pixels.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "coordinates are clamped to the image, levels to a byte; the rest is a floor"
)]

use std::f64::consts::{PI, TAU};

use super::scene::{Background, Bar, Color, Object, Random, Scene, Shape, Texture};

/// Renders a scene as interleaved RGB of `size.rgb_bytes()` bytes.
pub(super) fn rgb(scene: &Scene) -> Vec<u8> {
    let (height, width) = (scene.size.height as usize, scene.size.width as usize);
    let mut canvas = background(scene, height, width);
    for object in &scene.objects {
        paint_object(&mut canvas, height, width, object, scene);
    }
    for bar in &scene.bars {
        paint_bar(&mut canvas, width, bar);
    }
    expose(scene, &canvas, height, width)
}

/// The background's pattern with clouds and a fine relief over it.
fn background(scene: &Scene, height: usize, width: usize) -> Vec<Color> {
    let mut random = Random::seeded(scene.noise_seed);
    let coarse = Lattice::new(&mut random, height, width, scene.background_scale);
    let fine = Lattice::new(&mut random, height, width, scene.background_scale / 4.0);
    let finest = Lattice::new(&mut random, height, width, 2.5);
    let mut canvas = Vec::with_capacity(height * width);
    for y in 0..height {
        for x in 0..width {
            let (y, x) = (y as f64, x as f64);
            let cloud = 0.7 * coarse.at(y, x) + 0.3 * fine.at(y, x);
            let t = 0.65 * pattern(scene, y, x) + 0.35 * cloud;
            let relief = scene.relief * (2.0 * finest.at(y, x) - 1.0);
            canvas.push(blend(scene.background_colors, t).map(|c| c + relief));
        }
    }
    canvas
}

/// The background's pattern at a point, 0 to 1.
fn pattern(scene: &Scene, y: f64, x: f64) -> f64 {
    let (v, u) = (y / scene.background_scale, x / scene.background_scale);
    match scene.background {
        Background::Clouds => 0.5,
        Background::Plain => y / f64::from(scene.size.height),
        Background::Bricks => {
            let row = libm::floor(2.0 * v);
            let shift = if row % 2.0 == 0.0 { 0.0 } else { 0.5 };
            let joint = fract(2.0 * v).min(2.0 * fract(u + shift));
            if joint < 0.12 { 0.0 } else { 1.0 }
        }
        Background::Waves => 0.5 + 0.5 * libm::sin(TAU * (v + 0.15 * libm::sin(TAU * u))),
        Background::Rays => 0.5 + 0.5 * libm::sin(9.0 * libm::atan2(y, x)),
        Background::Planks => {
            let plank = libm::floor(u);
            if fract(u) < 0.08 { 0.0 } else { 0.4 + 0.6 * fract(plank * 0.618_034) }
        }
        Background::Pebbles => {
            let (dy, dx) = (fract(v) - 0.5, fract(u) - 0.5);
            (1.0 - 2.0 * libm::sqrt(dy * dy + dx * dx)).max(0.0)
        }
    }
}

fn paint_object(canvas: &mut [Color], height: usize, width: usize, object: &Object, scene: &Scene) {
    let reach = 1.3 * object.radius + 2.0;
    let span = |middle: f64, end: usize| {
        let low = (middle - reach).max(0.0) as usize;
        low..((middle + reach).max(0.0) as usize).min(end)
    };
    // The shadow is below and to the right.
    let shadow = 0.12;
    let texture = Lattice::new(&mut Random::seeded(scene.noise_seed ^ 1), 64, 64, 1.0);
    for y in span(object.y, height) {
        for x in span(object.x, width) {
            let (dy, dx) =
                ((y as f64 - object.y) / object.radius, (x as f64 - object.x) / object.radius);
            let (v, u) = (dy * object.cos - dx * object.sin, dy * object.sin + dx * object.cos);
            let pixel = &mut canvas[y * width + x];
            let cover = (0.5 - distance(scene.shape, v, u) * object.radius).clamp(0.0, 1.0);
            if cover < 1.0 {
                let soft = 0.5 - distance(scene.shape, v - shadow, u - shadow) / (2.0 * shadow);
                *pixel = pixel.map(|c| c * (1.0 - 0.45 * soft.clamp(0.0, 1.0)));
            }
            if cover > 0.0 {
                let t = texture_at(scene.texture, object, v, u, &texture);
                *pixel = mix(*pixel, blend(object.colors, t), cover);
            }
        }
    }
}

/// Approximate distance of a point from a shape of radius 1; negative inside (a signed distance field).
fn distance(shape: Shape, v: f64, u: f64) -> f64 {
    let r = libm::sqrt(v * v + u * u);
    let square = |half: f64| v.abs().max(u.abs()) - half;
    match shape {
        Shape::Disc => r - 1.0,
        Shape::Ring => (r - 0.74).abs() - 0.26,
        Shape::Square => square(0.85),
        Shape::Triangle => (0.866 * u.abs() - 0.5 * v).max(v) - 0.55,
        Shape::Star => {
            let fifth = TAU / 5.0;
            let angle = fract(libm::atan2(u, -v) / fifth + 0.5) - 0.5;
            let (along, across) =
                (r * libm::cos(angle * fifth), r * libm::sin(angle * fifth).abs());
            // The edge from the tip (1, 0) to the notch between two tips.
            0.58 * (along - 1.0) + 0.95 * across * 1.05
        }
        Shape::Cross => (v.abs().min(u.abs()) - 0.32).max(square(1.0)),
        Shape::Crescent => {
            let (dv, du) = (v + 0.12, u - 0.55);
            (r - 1.0).max(0.82 - libm::sqrt(dv * dv + du * du))
        }
        Shape::Lens => {
            let arc = |side: f64| libm::sqrt(u * u + (v + side) * (v + side)) - 1.25;
            arc(0.75).max(arc(-0.75))
        }
    }
}

/// The texture of an object at a point, 0 to 1.
fn texture_at(texture: Texture, object: &Object, v: f64, u: f64, blotches: &Lattice) -> f64 {
    let f = object.frequency;
    let soft = |wave: f64| (0.5 + 4.0 * wave).clamp(0.0, 1.0);
    let wave = |turns: f64| libm::sin(TAU * turns + object.phase);
    match texture {
        Texture::Stripes => soft(wave(f * u)),
        Texture::Checks => soft(2.0 * wave(0.8 * f * u) * wave(0.8 * f * v)),
        Texture::Dots => {
            let cell = |turns: f64| fract(turns + object.phase / TAU) - 0.5;
            let (dv, du) = (cell(1.3 * f * v), cell(1.3 * f * u));
            soft(0.3 - libm::sqrt(dv * dv + du * du))
        }
        Texture::Target => soft(libm::sin(1.2 * TAU * f * libm::sqrt(v * v + u * u) + 0.5 * PI)),
        Texture::Zigzag => {
            let zigzag = (fract(f * u + 0.5) - 0.5).abs();
            soft(wave(1.2 * f * v + 1.2 * zigzag))
        }
        Texture::Blotches => {
            let scale = 1.7 * f;
            soft(3.0 * (blotches.at(32.0 + scale * v, 32.0 + scale * u) - 0.5))
        }
    }
}

fn paint_bar(canvas: &mut [Color], width: usize, bar: &Bar) {
    for (y, row) in canvas.chunks_exact_mut(width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let away = (y as f64 - bar.y) * bar.cos - (x as f64 - bar.x) * bar.sin;
            let cover = (bar.half_width - away.abs() + 0.5).clamp(0.0, 1.0);
            if cover > 0.0 {
                *pixel = mix(*pixel, bar.color, cover);
            }
        }
    }
}

/// Applies light and noise, and converts to bytes.
fn expose(scene: &Scene, canvas: &[Color], height: usize, width: usize) -> Vec<u8> {
    let mut random = Random::seeded(scene.noise_seed ^ 2);
    let middle = |k: usize, n: usize| 2.0 * k as f64 / n as f64 - 1.0;
    let mut out = Vec::with_capacity(canvas.len() * 3);
    for (y, row) in canvas.chunks_exact(width).enumerate() {
        for (x, pixel) in row.iter().enumerate() {
            let light = scene.gain
                * (1.0 + scene.slope[0] * middle(y, height) + scene.slope[1] * middle(x, width));
            let bits = random.next();
            let part = |k: u32| f64::from((bits >> (16 * k)) as u16) / 65536.0 - 0.5;
            // Mostly luma noise, as of a sensor: triangular, with a deviation of about `grain` levels.
            let grain = 2.4 * scene.grain * (part(0) + part(1));
            for (channel, value) in pixel.iter().enumerate() {
                let tint =
                    if channel == 1 { 0.0 } else { scene.grain * part(2 + channel as u32 / 2) };
                let level = value * light + grain + tint;
                out.push(level.clamp(0.0, 255.0) as u8);
            }
        }
    }
    out
}

/// Value noise: random numbers in 0..1 on a lattice, interpolated smoothly.
struct Lattice {
    values: Vec<f64>,
    columns: usize,
    scale: f64,
}

impl Lattice {
    /// A lattice for an image of this size, with a point every `scale` pixels.
    fn new(random: &mut Random, height: usize, width: usize, scale: f64) -> Self {
        let points = |n: usize| (n as f64 / scale) as usize + 2;
        let columns = points(width);
        let values = (0..points(height) * columns).map(|_| random.unit()).collect();
        Self { values, columns, scale }
    }

    fn at(&self, y: f64, x: f64) -> f64 {
        let (v, u) = (y / self.scale, x / self.scale);
        let (row, column) = (v as usize, u as usize);
        let ease = |t: f64| t * t * (3.0 - 2.0 * t);
        let (t, s) = (ease(v - row as f64), ease(u - column as f64));
        let first = row * self.columns + column;
        let line = |k: usize| self.values[k] + s * (self.values[k + 1] - self.values[k]);
        let (above, below) = (line(first), line(first + self.columns));
        above + t * (below - above)
    }
}

fn blend(colors: [Color; 2], t: f64) -> Color {
    mix(colors[0], colors[1], t)
}

fn mix(a: Color, b: Color, t: f64) -> Color {
    [a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])]
}

fn fract(x: f64) -> f64 {
    x - libm::floor(x)
}
