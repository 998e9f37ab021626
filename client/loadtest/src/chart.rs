//! Charts as SVG: lines over time, with marks for kills and phases.

use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 230.0;
/// Lower end of a logarithmic scale. Smaller values are drawn as this.
const LOG_MIN: f64 = 0.1;
/// Margins of the chart: left, right, top, bottom.
const MARGIN: [f64; 4] = [58.0, 12.0, 22.0, 24.0];
/// Colors that remain distinct with color blindness.
pub(crate) const COLORS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#666666"];
pub(crate) const DARK: &str = "#222222";
pub(crate) const PALE: &str = "#bbbbbb";

/// A line. A missing value leaves a gap in it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) color: &'static str,
    /// Times in seconds, and values.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// A chart.
#[derive(Debug)]
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) lines: Vec<Line>,
    /// Time at the right end, in seconds.
    pub(crate) end: f64,
    /// Times of kills in seconds, and their descriptions.
    pub(crate) kills: &'a [(f64, String)],
    /// Times in seconds at which phases begin, and their descriptions.
    pub(crate) phases: &'a [(f64, String)],
    /// Whether the scale is logarithmic.
    pub(crate) log: bool,
}

impl Chart<'_> {
    /// The figure as HTML, with title and legend.
    pub(crate) fn draw(&self) -> String {
        let mut html = format!("<figure><figcaption><b>{}</b>, {}", self.title, self.unit);
        for Line { name, color, .. } in &self.lines {
            write!(
                html,
                "<span class=key><i style=\"background:{color}\"></i>{}</span>",
                escape(name)
            )
            .ok();
        }
        if !self.kills.is_empty() {
            html += "<span class=key><i class=kill></i>kill -9</span>";
        }
        html += "</figcaption>";
        write!(
            html,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">",
            self.title
        )
        .ok();
        let scale = self.scale();
        self.axes(&mut html, &scale);
        self.marks(&mut html);
        for line in &self.lines {
            self.line(&mut html, line, &scale);
        }
        html + "</svg></figure>\n"
    }

    fn x(&self, seconds: f64) -> f64 {
        MARGIN[0] + seconds / self.end.max(1e-9) * (WIDTH - MARGIN[0] - MARGIN[1])
    }

    fn scale(&self) -> Scale {
        let values = self.lines.iter().flat_map(|line| &line.points);
        let values = values.filter_map(|(_, value)| *value).filter(|value| *value > 0.0);
        let (min, max) =
            values.fold((f64::MAX, 0.0_f64), |(a, b), value| (a.min(value), b.max(value)));
        if self.log && max > 0.0 { Scale::logarithmic(min, max) } else { Scale::linear(max) }
    }

    fn axes(&self, svg: &mut String, scale: &Scale) {
        let (left, right) = (MARGIN[0], WIDTH - MARGIN[1]);
        for tick in &scale.ticks {
            let y = scale.y(*tick);
            let text = y + 4.0;
            write!(
                svg,
                "<path class=grid d=\"M{left} {y:.1}H{right}\"/><text x={:.0} y={text:.1} class=y>{}</text>",
                left - 6.0,
                label(*tick)
            )
            .ok();
        }
        let step = round_up(self.end / 8.0).max(1.0);
        for tick in multiples(step, self.end) {
            let (x, y) = (self.x(tick), HEIGHT - 7.0);
            write!(svg, "<text x={x:.1} y={y} class=x>{} s</text>", label(tick)).ok();
        }
    }

    fn marks(&self, svg: &mut String) {
        let (top, bottom) = (MARGIN[2], HEIGHT - MARGIN[3]);
        for (at, what) in self.phases {
            let (x, y) = (self.x(*at), top - 8.0);
            write!(
                svg,
                "<path class=phase d=\"M{x:.1} {top}V{bottom}\"/><text x={:.1} y={y} class=phase>{}</text>",
                x + 3.0,
                escape(what)
            )
            .ok();
        }
        for (at, what) in self.kills {
            let x = self.x(*at);
            write!(
                svg,
                "<path class=kill d=\"M{x:.1} {top}V{bottom}\"><title>{}</title></path>",
                escape(what)
            )
            .ok();
        }
    }

    fn line(&self, svg: &mut String, line: &Line, scale: &Scale) {
        let mut path = String::new();
        let mut pen = 'M';
        for (at, value) in &line.points {
            if let Some(value) = value {
                write!(path, "{pen}{:.1} {:.1}", self.x(*at), scale.y(*value)).ok();
                pen = 'L';
            } else {
                pen = 'M';
            }
        }
        write!(svg, "<path class=line stroke=\"{}\" d=\"{path}\"/>", line.color).ok();
    }
}

/// Maps values to heights.
#[derive(Debug)]
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    fn linear(max: f64) -> Self {
        let step = round_up(max.max(1e-6) / 4.0);
        let high = (max / step).ceil().max(1.0) * step;
        Self { low: 0.0, high, log: false, ticks: multiples(step, high).collect() }
    }

    fn logarithmic(min: f64, max: f64) -> Self {
        let low = min.max(LOG_MIN).log10().floor();
        let high = max.log10().ceil().max(low + 1.0);
        let within = |power: &i32| (low - 0.1..high + 0.1).contains(&f64::from(*power));
        let ticks = (-3..=15).filter(within).map(|power| 10_f64.powi(power)).collect();
        Self { low, high, log: true, ticks }
    }

    fn y(&self, value: f64) -> f64 {
        let value = if self.log { value.max(LOG_MIN).log10() } else { value };
        let part = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let bottom = HEIGHT - MARGIN[3];
        bottom - part * (bottom - MARGIN[2])
    }
}

/// The multiples of a step from 0 to an end.
fn multiples(step: f64, end: f64) -> impl Iterator<Item = f64> {
    (0..20).map(move |at| f64::from(at) * step).take_while(move |at| *at <= end * (1.0 + 1e-9))
}

/// The next larger value of 1, 2, 5, 10, ...
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let part = value / power;
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| part <= *round + 1e-9);
    round.unwrap_or(10.0) * power
}

fn label(value: f64) -> String {
    if value >= 1e6 {
        return format!("{}M", value / 1e6);
    }
    format!("{}", (value * 1e6).round() / 1e6)
}

/// Escapes text for HTML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_span_all_values_with_round_ticks() {
        let linear = Scale::linear(1432.0);
        assert_eq!(linear.ticks, [0.0, 500.0, 1000.0, 1500.0]);
        let logarithmic = Scale::logarithmic(0.4, 320.0);
        assert_eq!(logarithmic.ticks, [0.1, 1.0, 10.0, 100.0, 1000.0]);
        for scale in [linear, logarithmic] {
            let heights: Vec<f64> = scale.ticks.iter().map(|tick| scale.y(*tick)).collect();
            assert!(heights.windows(2).all(|pair| pair[1] < pair[0]));
            assert!((heights[0] - (HEIGHT - MARGIN[3])).abs() < 1e-9);
            assert!((heights[heights.len() - 1] - MARGIN[2]).abs() < 1e-9);
        }
        for (value, round) in [(0.0, 1e-9), (1.0, 1.0), (1.1, 2.0), (37.0, 50.0), (501.0, 1000.0)] {
            assert!((round_up(value) - round).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn a_missing_value_leaves_a_gap() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(1.0)), (3.0, Some(0.0))];
        let line = Line { name: "<a>".into(), color: DARK, points };
        let chart = Chart {
            title: "t",
            unit: "u",
            lines: vec![line],
            end: 3.0,
            kills: &[(1.0, "server 1".into())],
            phases: &[],
            log: false,
        };
        let drawn = chart.draw();
        let path = drawn.split("class=line").nth(1).unwrap();
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1));
        assert!(drawn.contains("&lt;a&gt;") && drawn.contains("<title>server 1</title>"));
    }
}
