//! Parsers of numeric options, which refuse what cannot work.

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    parse(text, |x| x > 0.0, "a number above 0")
}

/// A number of at least 0.
pub(super) fn non_negative(text: &str) -> Result<f64, String> {
    parse(text, |x| x >= 0.0, "a number of at least 0")
}

/// A number from 0 up to but not including 1.
pub(super) fn probability(text: &str) -> Result<f64, String> {
    parse(text, |x| (0.0..1.0).contains(&x), "a number from 0 to below 1")
}

/// A number above 0 and up to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    parse(text, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1")
}

fn parse(text: &str, valid: fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| x.is_finite() && valid(*x));
    number.ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert!(positive("0.1").is_ok() && non_negative("0").is_ok());
        assert!(probability("0").is_ok() && share("1").is_ok());
        for refused in
            [positive("0"), non_negative("-1"), probability("1"), share("0"), share("NaN")]
        {
            assert!(refused.unwrap_err().starts_with("expected a number"));
        }
    }
}
