//! Refusals, and the only place where they are mapped to gRPC statuses.

use std::ops::RangeInclusive;
use std::time::Duration;

use forebay::Error;
use forebay::gpu::DeviceError;
use forebay_proto::frame::SplitError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Bounds of the delay after which a refused client may retry. The delay is the estimated time until the
/// queue has drained, because a slot is unlikely to be free earlier.
const RETRY_DELAY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// Longest status message: it is sent as a header, and clients limit the size of headers.
const MESSAGE_BYTES: usize = 4096;

/// The reason for refusing a request, or for ending a stream early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request is malformed.
    #[error("invalid {field}: {what}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// The value, and what was expected.
        what: String,
    },
    /// The request is compressed.
    #[error("compressed requests are not supported: send the request uncompressed")]
    Compressed,
    /// The method does not exist.
    #[error("unknown method: forebay.v1.ForebayService has Describe, Explain, Stream and Fetch")]
    UnknownMethod,
    /// No dataset has this name.
    #[error("unknown dataset {name:?}: this server has {}", .served.join(", "))]
    UnknownDataset {
        /// The name in the request.
        name: String,
        /// The names that the server knows.
        served: Vec<String>,
    },
    /// The dataset or recipe differs from what the client expects.
    #[error(
        "the client expects the {what} with digest {expected}, and this server's has {found}: use the same \
         {what} on both sides, or expect no digest; this server's: {form}"
    )]
    Mismatch {
        /// `dataset` or `recipe`.
        what: &'static str,
        /// The digest that the client sent.
        expected: String,
        /// The server's digest.
        found: String,
        /// The server's recipe in canonical form, or the size of its dataset.
        form: String,
    },
    /// The server is at its limit of streams.
    #[error("all {limit} streams of this server are open: retry later, or use another server")]
    TooManyStreams {
        /// The limit.
        limit: usize,
        /// Estimated time until the queue has drained.
        wait: Duration,
    },
    /// An identity is at its limit of streams.
    #[error("all {limit} streams of {identity} are open: end one, or raise its limit")]
    TooManyOfIdentity {
        /// The caller's identity.
        identity: String,
        /// The limit.
        limit: usize,
        /// Estimated time until the queue has drained.
        wait: Duration,
    },
    /// The caller's identity is unknown.
    #[error("{why}: send `authorization: Bearer TOKEN` with a token of this server")]
    Unauthenticated {
        /// The reason.
        why: &'static str,
    },
    /// The reader accepted no data.
    #[error(
        "the reader accepted no data for {}: request the next microbatch",
        humantime::format_duration(*.after)
    )]
    Stalled {
        /// The limit.
        after: Duration,
    },
    /// The reader was slow while others waited for its buffer.
    #[error(
        "the reader did not take a microbatch within {:.1} s while others waited for its buffer: \
         request it again later", .after.as_secs_f64()
    )]
    Evicted {
        /// Time since the delivery of the microbatch began.
        after: Duration,
        /// Estimated time until the queue has drained.
        wait: Duration,
    },
    /// The server shuts down.
    #[error("this server is shutting down: request the next microbatch from another server")]
    Draining,
    /// The microbatch cannot be sent.
    #[error(transparent)]
    Frame(#[from] SplitError),
    /// The pipeline refused or failed.
    #[error(transparent)]
    Pipeline(#[from] Error),
}

impl Refusal {
    /// An invalid field: its value, and what was expected.
    pub fn invalid(field: &'static str, what: impl Into<String>) -> Self {
        Self::Invalid { field, what: what.into() }
    }

    /// The gRPC code of the refusal, as the .proto defines the codes by who has to act.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Frame(SplitError::HeaderTooLarge { .. }) => {
                Code::InvalidArgument
            }
            Self::Compressed | Self::UnknownMethod => Code::Unimplemented,
            Self::UnknownDataset { .. } => Code::NotFound,
            Self::Mismatch { .. } => Code::FailedPrecondition,
            Self::TooManyStreams { .. } | Self::TooManyOfIdentity { .. } | Self::Evicted { .. } => {
                Code::ResourceExhausted
            }
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Stalled { .. } | Self::Draining => Code::Unavailable,
            Self::Frame(_) => Code::Internal,
            Self::Pipeline(error) => match error {
                Error::Recipe(_)
                | Error::BufferBudget { .. }
                | Error::Device(DeviceError::Memory { .. }) => Code::InvalidArgument,
                Error::Dataset(_) | Error::Record { .. } => Code::DataLoss,
                Error::OutOfRange { .. } => Code::OutOfRange,
                Error::Busy { .. } => Code::ResourceExhausted,
                // Another server's GPU may work.
                Error::Device(_) | Error::Cancelled => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }

    /// The delay after which a retry may succeed; `None` if the server suggests no delay.
    fn retry_after(&self) -> Option<Duration> {
        let (Self::TooManyStreams { wait, .. }
        | Self::TooManyOfIdentity { wait, .. }
        | Self::Evicted { wait, .. }
        | Self::Pipeline(Error::Busy { wait, .. })) = self
        else {
            return None;
        };
        Some((*wait).clamp(*RETRY_DELAY.start(), *RETRY_DELAY.end()))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, retry) = (refusal.code(), refusal.retry_after());
        let mut message = refusal.to_string();
        if message.len() > MESSAGE_BYTES {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
            message.push_str(" ...");
        }
        match retry {
            None => Self::new(code, message),
            retry => Self::with_error_details(code, message, ErrorDetails::with_retry_info(retry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_delay_is_the_drain_estimate_within_bounds() {
        for (seconds, delay) in [(0, 1), (7, 7), (3600, 30)] {
            let wait = Duration::from_secs(seconds);
            for refusal in [
                Refusal::TooManyStreams { limit: 1, wait },
                Refusal::Evicted { after: wait, wait },
                Refusal::Pipeline(Error::Busy { limit: 1, wait }),
            ] {
                let status = Status::from(refusal);
                assert_eq!(status.code(), Code::ResourceExhausted);
                let retry = status.get_details_retry_info().unwrap().retry_delay;
                assert_eq!(retry, Some(Duration::from_secs(delay)));
            }
        }
        assert!(Status::from(Refusal::Draining).details().is_empty());
    }
}
