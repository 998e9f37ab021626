//! Why cuDNN does not compute a convolution in a certain way.

use std::fmt;

/// What cuDNN refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) String);

impl Refusal {
    /// The refusal of a choice, after what was offered.
    pub(super) fn of_all(offers: &[String], limit: usize) -> Self {
        const SHOWN: usize = 8;
        if offers.is_empty() {
            return Self("cuDNN offers nothing".to_owned());
        }
        let more = match offers.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Self(format!(
            "none of what cuDNN offers is suitable, with at most {limit} bytes of workspace: {}{more}",
            offers[..offers.len().min(SHOWN)].join("; ")
        ))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
