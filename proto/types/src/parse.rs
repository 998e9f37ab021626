//! The error of a value that cannot be parsed.

use std::fmt;

/// An invalid value, with a description of what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    text: String,
    expected: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, expected: impl Into<String>) -> Self {
        Self { text: text.to_owned(), expected: expected.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, expected } = self;
        write!(f, "invalid value {text:?}: expected {expected}")
    }
}

impl std::error::Error for ParseError {}
