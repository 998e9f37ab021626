//! Line charts as SVG, for pages.
//!
//! A chart takes its colors from the page's style sheet, so that one drawing serves light and dark
//! screens, tells what an event was when the mouse is over it, and scales without fonts of its own.

use std::fmt::Write as _;

use maud::{Markup, html};

pub use crate::scale::Axis;
use crate::scale::{Scale, label, whole_ticks};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 230.0;
/// Margins of the chart: left, right, top, bottom.
const MARGIN: [f64; 4] = [58.0, 12.0, 22.0, 24.0];
/// Largest number of points of a line. More could not be distinguished.
pub const MAX_POINTS: usize = 480;

/// Colors of lines that remain distinct with color blindness (Okabe and Ito, "Color universal design").
pub const COLORS: [&str; 8] = [
    "var(--c0)",
    "var(--c1)",
    "var(--c2)",
    "var(--c3)",
    "var(--c4)",
    "var(--c5)",
    "var(--c6)",
    "var(--c7)",
];
/// Color of the most important line: that of text.
pub const INK: &str = "var(--ink)";
/// Color of a line in the background.
pub const PALE: &str = "var(--pale)";

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Name in the legend; an empty one has no entry.
    pub name: String,
    /// A color of this module.
    pub color: &'static str,
    /// Points from left to right. A value that is missing or not finite leaves a gap in the line.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A mark at a place of the horizontal axis.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The place.
    pub at: f64,
    /// What it marks.
    pub text: String,
}

/// A chart of lines over a horizontal axis that begins at 0.
#[derive(Clone, Debug, Default)]
pub struct Chart<'a> {
    /// What is shown.
    pub title: &'a str,
    /// Unit of the values, after the title.
    pub unit: &'a str,
    /// The lines; later ones are drawn over earlier ones.
    pub lines: Vec<Line>,
    /// The vertical axis.
    pub axis: Axis,
    /// Right end of the horizontal axis.
    pub end: f64,
    /// Unit of the horizontal axis, after each of its labels.
    pub end_unit: &'a str,
    /// Beginnings of parts of the run, with their names.
    pub parts: &'a [Mark],
    /// Events, whose texts are shown when the mouse is over them.
    pub events: &'a [Mark],
    /// Name of the events in the legend.
    pub event_name: &'a str,
}

impl Chart<'_> {
    /// The figure, with title and legend.
    pub fn draw(&self) -> Markup {
        let values = self.lines.iter().flat_map(|line| &line.points).filter_map(|point| point.1);
        let scale = Scale::new(self.axis, values);
        html! {
            figure {
                figcaption {
                    span { b { (self.title) } ", " (self.unit) }
                    @for line in self.lines.iter().filter(|line| !line.name.is_empty()) {
                        span.key { i style={ "background:" (line.color) } {} (line.name) }
                    }
                    @if !self.events.is_empty() { span.key { i.event {} (self.event_name) } }
                }
                svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.title) {
                    (self.axes(&scale))
                    (self.marks())
                    @for line in &self.lines { (self.line(line, &scale)) }
                }
            }
        }
    }

    fn x(&self, at: f64) -> f64 {
        MARGIN[0] + at / self.end.max(1e-9) * (WIDTH - MARGIN[0] - MARGIN[1])
    }

    fn axes(&self, scale: &Scale) -> Markup {
        let (left, right) = (MARGIN[0], WIDTH - MARGIN[1]);
        let unit = if self.end_unit.is_empty() { "" } else { " " };
        html! {
            @for tick in &scale.ticks {
                path.rule d={ "M" (left) " " (tenths(y(scale, *tick))) "H" (right) } {}
                text.y x=(left - 6.0) y=(tenths(y(scale, *tick) + 4.0)) { (label(*tick)) }
            }
            @for tick in whole_ticks(self.end) {
                text.x x=(tenths(self.x(tick))) y=(HEIGHT - 7.0) {
                    (label(tick)) (unit) (self.end_unit)
                }
            }
        }
    }

    fn marks(&self) -> Markup {
        let (top, bottom) = (MARGIN[2], HEIGHT - MARGIN[3]);
        let upright = |at: f64| format!("M{:.1} {top}V{bottom}", self.x(at));
        html! {
            @for part in self.parts {
                path.part d=(upright(part.at)) {}
                text.part x=(tenths(self.x(part.at) + 3.0)) y=(top - 8.0) { (part.text) }
            }
            @for event in self.events {
                path.event d=(upright(event.at)) { title { (event.text) } }
            }
        }
    }

    fn line(&self, line: &Line, scale: &Scale) -> Markup {
        let (mut path, mut dots) = (String::new(), Vec::new());
        for run in thinned(&line.points).split(|point| point.1.is_none()) {
            let places =
                run.iter().filter_map(|(at, value)| Some((self.x(*at), y(scale, (*value)?))));
            for (index, (x, y)) in places.enumerate() {
                let pen = if index == 0 { 'M' } else { 'L' };
                if run.len() == 1 {
                    dots.push((x, y));
                } else {
                    write!(path, "{pen}{x:.1} {y:.1}").expect("writing to a String cannot fail");
                }
            }
        }
        html! {
            path.line stroke=(line.color) d=(path) { title { (line.name) } }
            @for (x, y) in dots {
                circle cx=(tenths(x)) cy=(tenths(y)) r="2.2" fill=(line.color) { title { (line.name) } }
            }
        }
    }
}

/// The height of a value in the drawing.
fn y(scale: &Scale, value: f64) -> f64 {
    let bottom = HEIGHT - MARGIN[3];
    bottom - scale.part(value) * (bottom - MARGIN[2])
}

/// A coordinate.
fn tenths(place: f64) -> String {
    format!("{place:.1}")
}

/// At most [`MAX_POINTS`] points, all of them finite or missing: of the neighbors that share a column, the
/// lowest and the highest, so that no peak is lost.
fn thinned(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    let finite = |&(at, value): &(f64, Option<f64>)| (at, value.filter(|value| value.is_finite()));
    let points: Vec<_> = points.iter().map(finite).collect();
    if points.len() <= MAX_POINTS {
        return points;
    }
    let columns = points.chunks(points.len().div_ceil(MAX_POINTS / 2));
    let ends = columns.flat_map(|column| {
        let present = || column.iter().filter_map(|(at, value)| Some((*at, (*value)?)));
        let lowest = present().min_by(|a, b| a.1.total_cmp(&b.1));
        let highest = present().max_by(|a, b| a.1.total_cmp(&b.1));
        match (lowest, highest) {
            (Some(low), Some(high)) if low.0 < high.0 => {
                vec![(low.0, Some(low.1)), (high.0, Some(high.1))]
            }
            (Some(low), Some(high)) if low.0 > high.0 => {
                vec![(high.0, Some(high.1)), (low.0, Some(low.1))]
            }
            (Some(low), _) => vec![(low.0, Some(low.1))],
            _ => vec![(column[0].0, None)],
        }
    });
    ends.collect()
}

/// A line without axes: values at equal distances, the newest at the right, in the space of `length`.
pub fn sparkline(values: &[f64], length: usize, what: &str) -> Markup {
    let max = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let left = length.saturating_sub(values.len());
    let points = values.iter().enumerate().map(|(at, value)| {
        let pen = if at == 0 { 'M' } else { 'L' };
        format!("{pen}{} {:.1}", left + at, 48.0 - 46.0 * value / max)
    });
    html! {
        svg.spark viewBox={ "0 0 " (length) " 50" } preserveAspectRatio="none" role="img" aria-label=(what) {
            path d=(points.collect::<String>()) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(points: &[(f64, Option<f64>)]) -> String {
        let line = Line { name: "<a>".into(), color: INK, points: points.to_vec() };
        let marks = [Mark { at: 1.0, text: "server 1 & 2".into() }];
        let end = points.last().map_or(1.0, |point| point.0);
        let chart =
            Chart { title: "t", lines: vec![line], end, events: &marks, ..Chart::default() };
        chart.draw().into_string()
    }

    /// The path of the line, as its places.
    fn path(drawn: &str) -> &str {
        let line = drawn.split("class=\"line\"").nth(1).unwrap();
        line.split(" d=\"").nth(1).unwrap().split('"').next().unwrap()
    }

    #[test]
    fn a_missing_value_leaves_a_gap_and_a_lone_one_a_dot() {
        let values = [Some(1.0), Some(2.0), None, Some(1.0), Some(f64::NAN), Some(0.0), Some(1.0)];
        let points: Vec<_> = (0..).map(f64::from).zip(values).collect();
        let drawn = draw(&points);
        let count = |pen| path(&drawn).matches(pen).count();
        assert_eq!(
            (count('M'), count('L'), drawn.matches("<circle").count()),
            (2, 2, 1),
            "{drawn}"
        );
    }

    #[test]
    fn a_falling_line_falls_from_left_to_right() {
        let points: Vec<_> =
            (0..50).map(|at| (f64::from(at), Some(50.0 - f64::from(at)))).collect();
        let drawn = draw(&points);
        let places = path(&drawn).split(['M', 'L']).skip(1).map(|place| {
            let (x, y) = place.split_once(' ').unwrap();
            (x.parse::<f64>().unwrap(), y.parse::<f64>().unwrap())
        });
        let places: Vec<(f64, f64)> = places.collect();
        assert_eq!(places.len(), 50);
        // Down is a larger y.
        assert!(places.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        assert!((places[0].0 - MARGIN[0]).abs() < 0.1);
        assert!((places[49].0 - (WIDTH - MARGIN[1])).abs() < 0.1);
    }

    #[test]
    fn long_lines_are_thinned_and_keep_their_peaks() {
        let value = |at: u32| if at == 77_777 { 9.0 } else { f64::from(at % 7) };
        let points: Vec<_> = (0..100_000).map(|at| (f64::from(at), Some(value(at)))).collect();
        let thin = thinned(&points);
        assert!(
            thin.len() <= MAX_POINTS && thin.contains(&(77_777.0, Some(9.0))),
            "{}",
            thin.len()
        );
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let gap: Vec<_> =
            (0..100_000).map(|at| (f64::from(at), (at > 50_000).then_some(1.0))).collect();
        assert!(thinned(&gap)[..100].iter().all(|point| point.1.is_none()));
    }

    #[test]
    fn names_are_escaped_and_events_say_what_they_were() {
        let drawn = draw(&[(0.0, Some(1.0)), (3.0, Some(2.0))]);
        assert!(drawn.contains("&lt;a&gt;") && !drawn.contains("<a>"), "{drawn}");
        assert!(drawn.contains("<title>server 1 &amp; 2</title>"), "{drawn}");
    }

    #[test]
    fn a_sparkline_ends_at_the_right() {
        let drawn = sparkline(&[1.0, 2.0], 300, "rate").into_string();
        assert!(drawn.contains("d=\"M298 25.0L299 2.0\""), "{drawn}");
        assert!(sparkline(&[], 300, "rate").into_string().contains("d=\"\""));
    }
}
