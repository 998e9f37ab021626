//! How values are written on command lines, in the environment and in configuration files, the same
//! in every program: durations as `300ms` or `5m`, sizes as `256MiB`, booleans as `on` or `0`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::ParseError;

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

/// Parses a duration with a unit, for clap's `value_parser`. `0` needs none.
///
/// # Errors
/// When the text is no duration, or one that is longer than a hundred years, past which deadlines
/// would overflow.
pub fn duration(text: &str) -> Result<Duration, ParseError> {
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
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
    fn files_have_the_same_forms() {
        #[derive(Deserialize)]
        struct File {
            size: ByteSize,
            number: ByteSize,
            time: TimeSpan,
        }
        let file: File = toml::from_str("size = '1MiB'\nnumber = 7\ntime = '5m'").unwrap();
        assert_eq!((file.size.0, file.number.0), (1 << 20, 7));
        assert_eq!(file.time.0, Duration::from_secs(300));
        let error = toml::from_str::<File>("size = -1\nnumber = 7\ntime = '5m'");
        assert!(error.err().unwrap().to_string().contains("256MiB"));
        let error = toml::from_str::<File>("size = 1\nnumber = 7\ntime = 5");
        assert!(error.err().unwrap().to_string().contains("300ms"));
    }
}
