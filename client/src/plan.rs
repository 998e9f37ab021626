//! The plan of a microbatch, which a server sends in parts.

use forebay_proto::v1::ExplainResponse;
use serde_json::Value;

use crate::error::{Cause, WireError};

/// Largest size of the JSON of a plan: those of the largest microbatches have less than half of it.
const MAX_BYTES: usize = 256 << 20;

/// The parts of a plan that have been received.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Their size.
    bytes: usize,
    /// The only part, as it was sent.
    whole: Option<String>,
    /// Several parts, as one.
    joined: Option<Value>,
}

impl Plan {
    /// Adds the part that begins with sample `first`. Returns the sample from which the next part begins,
    /// if there is one.
    ///
    /// # Errors
    /// When the part is not JSON with samples, or does not lead on.
    pub(crate) fn add(&mut self, first: u32, part: ExplainResponse) -> Result<Option<u32>, Cause> {
        let ExplainResponse { json, next_sample } = part;
        if first == 0 && next_sample == 0 {
            self.whole = Some(json);
            return Ok(None);
        }
        self.bytes += json.len();
        if self.bytes > MAX_BYTES {
            return Err(invalid());
        }
        let mut part: Value = serde_json::from_str(&json).map_err(|_error| invalid())?;
        let samples = part.get_mut("samples").and_then(Value::as_array_mut).ok_or_else(invalid)?;
        if next_sample != 0 && next_sample <= first || samples.is_empty() {
            return Err(invalid());
        }
        match &mut self.joined {
            None => self.joined = Some(part),
            Some(joined) => {
                let all = joined.get_mut("samples").and_then(Value::as_array_mut);
                all.ok_or_else(invalid)?.append(samples);
            }
        }
        Ok((next_sample != 0).then_some(next_sample))
    }

    /// The JSON of the whole plan.
    ///
    /// # Errors
    /// When no part was added.
    pub(crate) fn into_json(self) -> Result<String, Cause> {
        let joined = self.joined.map(|plan| plan.to_string());
        self.whole.or(joined).ok_or_else(invalid)
    }
}

fn invalid() -> Cause {
    Cause::Wire(WireError::Plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(json: &str, next_sample: u32) -> ExplainResponse {
        ExplainResponse { json: json.to_owned(), next_sample }
    }

    #[test]
    fn parts_are_joined_in_order_with_every_digit() {
        let mut plan = Plan::default();
        let first = part(r#"{"seed":18446744073709551615,"samples":[{"b":0.1,"a":1}]}"#, 1);
        assert_eq!(plan.add(0, first).unwrap(), Some(1));
        let last = part(r#"{"seed":18446744073709551615,"samples":[{"b":1.0}]}"#, 0);
        assert_eq!(plan.add(1, last).unwrap(), None);
        assert_eq!(
            plan.into_json().unwrap(),
            r#"{"seed":18446744073709551615,"samples":[{"b":0.1,"a":1},{"b":1.0}]}"#
        );
    }

    #[test]
    fn a_plan_of_one_part_is_returned_as_it_was_sent() {
        let mut plan = Plan::default();
        assert_eq!(plan.add(0, part("{ }", 0)).unwrap(), None);
        assert_eq!(plan.into_json().unwrap(), "{ }");
    }

    #[test]
    fn parts_that_never_end_are_refused() {
        for (first, part) in [
            (5, part(r#"{"samples":[1]}"#, 5)),
            (5, part(r#"{"samples":[]}"#, 6)),
            (0, part("{}", 1)),
            (0, part("x", 1)),
        ] {
            Plan::default().add(first, part).unwrap_err();
        }
        Plan::default().into_json().unwrap_err();
    }
}
