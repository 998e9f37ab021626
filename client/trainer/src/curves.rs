//! Draws the curves of a run as a PNG: loss, accuracy and learning rate over steps.

use std::path::Path;

use font8x8::{BASIC_FONTS, UnicodeFonts as _};
use image::{Rgb, RgbImage};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 240;
const LEFT: u32 = 84;
const MARGIN: u32 = 28;
const INK: Rgb<u8> = Rgb([40, 40, 40]);
const GRID: Rgb<u8> = Rgb([222, 222, 222]);
const COLORS: [Rgb<u8>; 3] = [Rgb([31, 119, 180]), Rgb([214, 90, 20]), Rgb([44, 140, 60])];

/// A panel: its title and its lines.
pub(crate) type Panel<'a> = (&'a str, Vec<Line<'a>>);

/// A line: its name and its points of (step, value).
pub(crate) type Line<'a> = (&'a str, &'a [(f64, f64)]);

/// Draws panels from top to bottom.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn draw(path: &Path, panels: &[Panel<'_>]) -> image::ImageResult<()> {
    let count = u32::try_from(panels.len()).unwrap_or(1).max(1);
    let mut image = RgbImage::from_pixel(WIDTH, HEIGHT * count, Rgb([255, 255, 255]));
    let points = panels.iter().flat_map(|(_, lines)| lines).flat_map(|(_, points)| *points);
    let steps = Axis::over(points.map(|p| p.0), f64::from(LEFT), f64::from(WIDTH - MARGIN));
    for (i, (title, lines)) in (0..).zip(panels) {
        panel(&mut image, i * HEIGHT, &steps, title, lines);
    }
    image.save(path)
}

/// Maps values to pixels.
struct Axis {
    low: f64,
    high: f64,
    first: f64,
    last: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, first: f64, last: f64) -> Self {
        let finite = values.filter(|v| v.is_finite());
        let (low, high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = if high > low { 0.0 } else { high.abs().max(1.0) / 2.0 };
        Self { low: low - room, high: high + room, first, last }
    }

    #[expect(clippy::cast_possible_truncation, reason = "pixels of a small image")]
    fn at(&self, value: f64) -> i64 {
        (self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first))
            .round() as i64
    }
}

fn panel(image: &mut RgbImage, top: u32, x: &Axis, title: &str, lines: &[Line<'_>]) {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let y = Axis::over(
        points().map(|p| p.1),
        f64::from(top + HEIGHT - MARGIN),
        f64::from(top + MARGIN),
    );
    for tick in 0..=4 {
        let part = f64::from(tick) / 4.0;
        let (across, up) = (x.low + part * (x.high - x.low), y.low + part * (y.high - y.low));
        line(image, (x.at(x.low), y.at(up)), (x.at(x.high), y.at(up)), GRID);
        line(image, (x.at(across), y.at(y.low)), (x.at(across), y.at(y.high)), GRID);
        write(image, 4, y.at(up) - 5, &short(up), INK);
        write(image, x.at(across) - 12, y.at(y.low) + 8, &short(across), INK);
    }
    write(image, i64::from(LEFT), i64::from(top) + 8, title, INK);
    for (i, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        for pair in points.windows(2).filter(|pair| pair.iter().all(|p| p.1.is_finite())) {
            let ends = [pair[0], pair[1]].map(|p| (x.at(p.0), y.at(p.1)));
            line(image, ends[0], ends[1], color);
        }
        if let [(step, value)] = **points {
            line(image, (x.at(step) - 3, y.at(value)), (x.at(step) + 3, y.at(value)), color);
        }
        write(
            image,
            i64::from(LEFT) + 240 + 160 * i64::try_from(i).unwrap_or(0),
            i64::from(top) + 8,
            name,
            color,
        );
    }
}

/// A value with about three digits.
fn short(value: f64) -> String {
    let size = value.abs();
    match () {
        () if size >= 100.0 || size.fract() < 1e-12 => format!("{value:.0}"),
        () if size >= 0.01 => format!("{value:.3}"),
        () => format!("{value:.1e}"),
    }
}

fn dot(image: &mut RgbImage, x: i64, y: i64, color: Rgb<u8>) {
    let inside = |at: i64, size: u32| u32::try_from(at).ok().filter(|at| *at < size);
    if let Some((x, y)) = inside(x, image.width()).zip(inside(y, image.height())) {
        image.put_pixel(x, y, color);
    }
}

fn line(image: &mut RgbImage, from: (i64, i64), to: (i64, i64), color: Rgb<u8>) {
    let length = (to.0 - from.0).abs().max((to.1 - from.1).abs()).max(1);
    for i in 0..=length {
        let between =
            |a: i64, b: i64| a + ((b - a) * i * 2 + length * (b - a).signum()) / (2 * length);
        let (x, y) = (between(from.0, to.0), between(from.1, to.1));
        dot(image, x, y, color);
    }
}

/// Writes text in letters of 8x8 pixels.
fn write(image: &mut RgbImage, left: i64, top: i64, text: &str, color: Rgb<u8>) {
    for (i, rows) in (0..).zip(text.chars().filter_map(|letter| BASIC_FONTS.get(letter))) {
        for (y, row) in (0..).zip(rows) {
            for x in (0..8).filter(|x| row >> x & 1 == 1) {
                dot(image, left + 8 * i + x, top + y, color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_line_falls_from_left_to_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.png");
        let falling: Vec<(f64, f64)> =
            (0..50).map(|i| (f64::from(i), 50.0 - f64::from(i))).collect();
        draw(
            &path,
            &[("loss", vec![("train", &falling)]), ("rate", vec![("", &[(1.0, f64::NAN)])])],
        )
        .unwrap();
        let image = image::open(&path).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), (WIDTH, 2 * HEIGHT));
        let height_at =
            |x| (MARGIN..HEIGHT - MARGIN).find(|y| *image.get_pixel(x, *y) == COLORS[0]).unwrap();
        assert!(height_at(LEFT + 50) < height_at(LEFT + 400));
        assert!(height_at(LEFT + 400) < height_at(WIDTH - MARGIN - 50));
    }
}
