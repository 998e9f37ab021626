//! The notation of values on command lines, in the environment and in configuration files, the same
//! in every program: durations as `300ms` or `5m`, sizes as `256MiB`, booleans as `on` or `0`, and
//! numbers with a range.
//!
//! Each type implements [`FromStr`] for clap and `Deserialize` for configuration files, so that a flag
//! and the key of the same name accept the same values and refuse them in the same words.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::parse::ParseError;

/// A number of bytes, written as `1048576`, `1MiB` or `1 MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
        let (digits, shift) = units
            .iter()
            .find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .unwrap_or((text, 0));
        let number = digits.trim().parse::<u64>().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        let expected = "a number of bytes, or a number with KiB, MiB, GiB or TiB, such as 256MiB";
        bytes.map(Self).ok_or_else(|| ParseError::new(text, expected))
    }
}

/// Writes the largest unit that divides the number, so that what is printed can be read again.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.iter().find(|(_, shift)| whole(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A size that is not zero, for settings that make no sense without memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonZeroByteSize(u64);

impl NonZeroByteSize {
    /// A number of bytes; `None` for 0.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self(bytes)) }
    }

    /// The number of bytes, at least 1.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for NonZeroByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let ByteSize(bytes) = text.parse()?;
        let expected = "a size above 0, such as 256MiB";
        if bytes == 0 { Err(ParseError::new(text, expected)) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for NonZeroByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for NonZeroByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let size = ByteSize::deserialize(deserializer)?;
        size.to_string().parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Number(bytes)) => Ok(Self(bytes)),
            Ok(Form::Text(text)) => text.parse().map_err(D::Error::custom),
            Err(_) => Err(D::Error::custom("expected a size such as 1048576 or \"256MiB\"")),
        }
    }
}

/// A span of time, written as `300ms`, `5m` or `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan(pub Duration);

impl FromStr for TimeSpan {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        duration(text).map(Self)
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for TimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer).map_err(|_error| {
            D::Error::custom("expected a duration such as \"300ms\" or \"5m\"")
        })?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A span of time that is not zero, for timeouts and intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonZeroTimeSpan(Duration);

impl NonZeroTimeSpan {
    /// The span, at least one nanosecond.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for NonZeroTimeSpan {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let span = duration(text)?;
        let expected = "a duration above 0, such as 300ms or 5m";
        if span.is_zero() { Err(ParseError::new(text, expected)) } else { Ok(Self(span)) }
    }
}

impl fmt::Display for NonZeroTimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TimeSpan(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for NonZeroTimeSpan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = TimeSpan::deserialize(deserializer)?;
        span.to_string().parse().map_err(D::Error::custom)
    }
}

/// A number from `MIN` to `MAX`.
///
/// The bounds keep every accepted value usable: a semaphore, a thread pool or an allocation of the
/// size that the number stands for cannot fail because a flag was set to 0 or to `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as a `u32`.
    ///
    /// # Panics
    /// When it does not fit, which a `MAX` of 32 bits rules out.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).expect("the bound has 32 bits")
    }

    /// The number as a count of things in memory.
    ///
    /// # Panics
    /// When it does not fit a `usize`, which a `MAX` of 32 bits rules out.
    pub fn count(self) -> usize {
        usize::try_from(self.0).expect("counts have bounds of 32 bits")
    }
}

impl<const MIN: u64, const MAX: u64> Number<MIN, MAX> {
    /// A number that is known when the program is compiled, such as a default.
    ///
    /// # Panics
    /// When it is out of range; in a constant, the program does not compile.
    pub const fn new(number: u64) -> Self {
        assert!(MIN <= number && number <= MAX, "out of range");
        Self(number)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Number<MIN, MAX> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = text.trim().parse().ok().filter(|number| (MIN..=MAX).contains(number));
        let expected = || format!("a number from {MIN} to {MAX}");
        number.map(Self).ok_or_else(|| ParseError::new(text, expected()))
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Number<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Number<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        number.to_string().parse().map_err(D::Error::custom)
    }
}

/// Any number of 64 bits, such as a seed.
pub type AnyNumber = Number<0, { u64::MAX }>;

/// Parses a number above 0, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a finite number, or is out of range.
pub fn positive(text: &str) -> Result<f64, ParseError> {
    real(text, |x| x > 0.0, "a number above 0")
}

/// Parses a number of at least 0, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a finite number, or is out of range.
pub fn non_negative(text: &str) -> Result<f64, ParseError> {
    real(text, |x| x >= 0.0, "a number of at least 0")
}

/// Parses a number from 0 to 1, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a number, or is out of range.
pub fn fraction(text: &str) -> Result<f64, ParseError> {
    real(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// Parses a number from 0 up to but not including 1, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a number, or is out of range.
pub fn probability(text: &str) -> Result<f64, ParseError> {
    real(text, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1")
}

/// Parses a number above 0 and up to 1, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a number, or is out of range.
pub fn share(text: &str) -> Result<f64, ParseError> {
    real(text, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1")
}

/// Parses any finite number, for clap's `value_parser`.
///
/// # Errors
/// When the text is not a finite number.
pub fn finite(text: &str) -> Result<f64, ParseError> {
    real(text, |_| true, "a finite number")
}

fn real(text: &str, valid: fn(f64) -> bool, expected: &str) -> Result<f64, ParseError> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && valid(*x));
    number.ok_or_else(|| ParseError::new(text, expected))
}

/// Parses a duration with a unit, for clap's `value_parser`. `0` needs none.
///
/// # Errors
/// When the text is not a duration, or is longer than a hundred years: deadlines would overflow.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);
    let expected = "a duration with a unit, such as 300ms, 5s, 5m or 1h, of at most 100 years";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed = humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST);
    parsed.ok_or_else(|| ParseError::new(text, expected))
}

/// Parses a boolean of the environment, for clap's `value_parser`: 1, true, yes, on or 0, false, no,
/// off, in any case. The empty text is false, as an unset variable is.
///
/// # Errors
/// When the text is none of them.
pub fn boolean(text: &str) -> Result<bool, ParseError> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ParseError::new(text, "1, true, yes, on, 0, false, no or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4KiB", 4096),
            ("256 MiB", 256 << 20),
            ("3GiB", 3 << 30),
            ("2TiB", 2 << 40),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse(), Ok(size), "{text}");
        }
        for text in ["", "-1", "1MB", "1.5MiB", "MiB", "16777216TiB", "1 M"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("300ms", 300), ("5m", 300_000), ("1h 30m", 5_400_000)]
        {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
        for text in ["", "5", "-5s", "s", "9999999years", "18446744073709551615s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let error = duration("5").unwrap_err().to_string();
        assert!(error.contains("\"5\"") && error.contains("300ms"), "{error}");
    }

    #[test]
    fn booleans_are_read_in_all_their_spellings() {
        for text in ["1", "true", "TRUE", "yes", "on"] {
            assert_eq!(boolean(text), Ok(true));
        }
        for text in ["", "0", "false", "No", "off"] {
            assert_eq!(boolean(text), Ok(false));
        }
        assert!(boolean("maybe").is_err());
    }

    #[test]
    fn numbers_have_a_range() {
        type Percent = Number<1, 100>;
        for text in ["1", "100", " 7 "] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), text.trim());
        }
        for text in ["0", "101", "-1", "", "x", "18446744073709551616"] {
            let error = text.parse::<Percent>().unwrap_err().to_string();
            assert_eq!(error, format!("invalid value {text:?}: expected a number from 1 to 100"));
        }
        assert_eq!("100".parse::<Percent>().unwrap().count(), 100);
    }

    #[test]
    fn real_numbers_out_of_range_are_refused_with_the_range() {
        let ok = [positive("0.1"), non_negative("0"), probability("0"), share("1"), fraction("1")];
        assert!(ok.iter().all(Result::is_ok) && finite("-1e9").is_ok());
        for refused in [
            positive("0"),
            positive("inf"),
            non_negative("-1"),
            probability("1"),
            share("0"),
            share("NaN"),
            fraction("1.5"),
            finite("nan"),
        ] {
            assert!(refused.unwrap_err().to_string().contains(": expected a "));
        }
    }

    #[test]
    fn zero_is_refused_where_a_setting_needs_more() {
        assert_eq!("1KiB".parse::<NonZeroByteSize>().unwrap().get(), 1024);
        assert_eq!("1m".parse::<NonZeroTimeSpan>().unwrap().get(), Duration::from_mins(1));
        for text in ["0", "0KiB"] {
            let error = text.parse::<NonZeroByteSize>().unwrap_err().to_string();
            assert!(error.contains("above 0"), "{error}");
        }
        for text in ["0", "0ms"] {
            let error = text.parse::<NonZeroTimeSpan>().unwrap_err().to_string();
            assert!(error.contains("above 0"), "{error}");
        }
    }

    #[test]
    fn files_have_the_same_ranges() {
        #[derive(Debug, Deserialize)]
        struct File {
            count: Number<1, 9>,
            size: NonZeroByteSize,
            time: NonZeroTimeSpan,
        }
        let file: File = toml::from_str("count = 9\nsize = '1MiB'\ntime = '5m'").unwrap();
        assert_eq!((file.count.get(), file.size.get()), (9, 1 << 20));
        assert_eq!(file.time.get(), Duration::from_mins(5));
        for (text, part) in [
            ("count = 0\nsize = 1\ntime = '5m'", "from 1 to 9"),
            ("count = -1\nsize = 1\ntime = '5m'", "from 1 to 9"),
            ("count = 1\nsize = 0\ntime = '5m'", "a size above 0"),
            ("count = 1\nsize = 1\ntime = '0s'", "a duration above 0"),
        ] {
            let error = toml::from_str::<File>(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn files_have_the_same_forms() {
        #[derive(Deserialize)]
        struct File {
            size: ByteSize,
            number: ByteSize,
            time: TimeSpan,
        }
        let file: File = toml::from_str("size = '1MiB'\nnumber = 7\ntime = '5m'").unwrap();
        assert_eq!((file.size.0, file.number.0), (1 << 20, 7));
        assert_eq!(file.time.0, Duration::from_mins(5));
        let error = toml::from_str::<File>("size = -1\nnumber = 7\ntime = '5m'");
        assert!(error.err().unwrap().to_string().contains("256MiB"));
        let error = toml::from_str::<File>("size = 1\nnumber = 7\ntime = 5");
        assert!(error.err().unwrap().to_string().contains("300ms"));
    }
}
