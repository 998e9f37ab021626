//! Scales of charts: from values to positions, with round ticks.

/// How values are mapped to heights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Axis {
    /// Linear, from 0 to the largest value.
    #[default]
    Zero,
    /// Linear, from the smallest to the largest value.
    Span,
    /// Logarithmic, from the smallest to the largest value above 0.1, which stands for all values
    /// below it.
    Log,
}

/// Lower end of a logarithmic scale.
pub(crate) const LOG_MIN: f64 = 0.1;

/// Maps values to parts of a length, from 0 to 1.
#[derive(Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Round values, from the lower to the upper end.
    pub(crate) ticks: Vec<f64>,
}

impl Scale {
    pub(crate) fn new(axis: Axis, values: impl Iterator<Item = f64>) -> Self {
        let counts = |value: &f64| value.is_finite() && (axis == Axis::Span || *value > 0.0);
        let extend = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (low, high) = values.filter(counts).fold((f64::MAX, f64::MIN), extend);
        match axis {
            _ if low > high => Self::linear(0.0, 1.0),
            Axis::Zero => Self::linear(0.0, high),
            Axis::Span if low < high => Self::linear(low, high),
            Axis::Span => {
                Self::linear(low - low.abs().max(1.0) / 2.0, low + low.abs().max(1.0) / 2.0)
            }
            Axis::Log => Self::logarithmic(low, high),
        }
    }

    fn linear(low: f64, high: f64) -> Self {
        let step = round_up((high - low) / 4.0);
        let (first, last) = ((low / step).floor(), (high / step - 1e-9).ceil());
        let ticks = (0..10).map(|at| (first + f64::from(at)) * step);
        let ticks = ticks.take_while(|tick| *tick < (last + 0.5) * step).collect();
        Self { low: first * step, high: last * step, log: false, ticks }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let low = low.max(LOG_MIN).log10().floor();
        let high = high.log10().ceil().max(low + 1.0);
        let within = |power: &i32| (low - 0.1..high + 0.1).contains(&f64::from(*power));
        let ticks = (-3..=15).filter(within).map(|power| 10_f64.powi(power)).collect();
        Self { low, high, log: true, ticks }
    }

    pub(crate) fn part(&self, value: f64) -> f64 {
        let value = if self.log { value.max(LOG_MIN).log10() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// Round values from 0 to an end, about eight, and whole numbers.
pub(crate) fn whole_ticks(end: f64) -> impl Iterator<Item = f64> {
    let step = round_up(end / 8.0).max(1.0);
    (0..10).map(move |at| f64::from(at) * step).take_while(move |at| *at <= end * (1.0 + 1e-9))
}

/// The next larger value of 1, 2, 5, 10, ...
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-12).log10().floor());
    let part = value / power;
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| part <= *round + 1e-9);
    round.unwrap_or(10.0) * power
}

/// A tick as text.
pub(crate) fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", value / 1e6),
        size if size < 1e-12 => "0".into(),
        size if size < 1e-4 => format!("{value:.1e}"),
        _ => format!("{}", (value * 1e6).round() / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_span_all_values_with_round_ticks() {
        let scale = |axis, values: &[f64]| Scale::new(axis, values.iter().copied());
        let zero = scale(Axis::Zero, &[700.0, 1432.0, f64::NAN]);
        assert_eq!(zero.ticks, [0.0, 500.0, 1000.0, 1500.0]);
        let span = scale(Axis::Span, &[61.0, 78.5]);
        assert_eq!(span.ticks, [60.0, 65.0, 70.0, 75.0, 80.0]);
        let log = scale(Axis::Log, &[0.0, 0.4, 320.0]);
        assert_eq!(log.ticks, [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(log.part(0.001).to_bits(), 0.0_f64.to_bits());
        for scale in [zero, span, log, scale(Axis::Span, &[-3.0, 5.0])] {
            let parts: Vec<f64> = scale.ticks.iter().map(|tick| scale.part(*tick)).collect();
            assert!(parts.windows(2).all(|pair| pair[0] < pair[1]), "{parts:?}");
            assert!(parts[0].abs() < 1e-9 && (parts[parts.len() - 1] - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_values_and_no_values_have_a_scale() {
        let same = Scale::new(Axis::Span, [4.0, 4.0].into_iter());
        assert!((same.part(4.0) - 0.5).abs() < 0.1, "{same:?}");
        for axis in [Axis::Zero, Axis::Span, Axis::Log] {
            for values in [&[][..], &[0.0], &[f64::NAN, f64::INFINITY]] {
                let scale = Scale::new(axis, values.iter().copied());
                assert!(scale.ticks.len() >= 2 && scale.part(0.0).is_finite(), "{scale:?}");
            }
        }
    }

    #[test]
    fn steps_are_round_and_labels_short() {
        for (value, round) in [(1.0, 1.0), (1.1, 2.0), (37.0, 50.0), (501.0, 1000.0)] {
            assert!((round_up(value) - round).abs() < 1e-9, "{value}");
        }
        assert_eq!(whole_ticks(3.0).collect::<Vec<_>>(), [0.0, 1.0, 2.0, 3.0]);
        assert!(whole_ticks(3600.0).count() <= 9);
        let labels = [0.0, 0.3, 1500.0, 2e6, 15e-6].map(label);
        assert_eq!(labels, ["0", "0.3", "1500", "2M", "1.5e-5"].map(String::from));
    }
}
