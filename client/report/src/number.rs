//! Numbers for people.

/// A number of at least 0 without decimals, with thin spaces between thousands.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut spaced = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            spaced.push('\u{2009}');
        }
        spaced.push(digit);
    }
    spaced
}

/// A number of bytes with a decimal unit: 1 kB is 1000 bytes.
pub fn bytes(value: f64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(size, _)| value >= *size);
    unit.map_or_else(
        || format!("{value:.0} B"),
        |(size, name)| {
            let places = usize::from(value / size < 100.0);
            format!("{:.places$} {name}", value / size)
        },
    )
}

/// A ratio in percent, without decimals.
pub fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

/// A time in seconds with the unit that suits its size, from milliseconds to days.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(count(1_234_567.0), "1\u{2009}234\u{2009}567");
        assert_eq!([count(12.4), count(0.0)], ["12", "0"]);
        assert_eq!(
            [bytes(999.0), bytes(1500.0), bytes(2.5e11)],
            ["999 B", "1.5 kB", "250 GB"].map(String::from)
        );
        assert_eq!(percent(0.784), "78 %");
        assert_eq!(
            [0.25, 1.54, 61.0, 600.0, 7300.0, 259_200.0].map(duration),
            ["250 ms", "1.5 s", "61 s", "10 min", "2.0 h", "3.0 days"].map(String::from)
        );
    }
}
