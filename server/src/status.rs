//! Why a request is not served, and the one place where that becomes a gRPC status.

use std::ops::RangeInclusive;
use std::time::Duration;

use forebay::Error;
use forebay::gpu::DeviceError;
use forebay_proto::frame::SplitError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// When a client that met a limit may ask again: once what is asked for has been made, but not
/// sooner, because a place among the streams is free no sooner, and not later than this.
const RETRY_DELAY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);

/// The most bytes of a status message: it travels as a header, and clients bound those.
const MESSAGE_BYTES: usize = 4096;

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The request is malformed.
    #[error("{field}: {what}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The request is in a form of gRPC that is not served.
    #[error("the request is compressed, which is not served: send it as it is")]
    Compressed,
    /// There is no such method.
    #[error(
        "forebay.v1.ForebayService has no such method; it has Describe, Explain, Stream and Fetch"
    )]
    UnknownMethod,
    /// There is no such dataset.
    #[error("no dataset {name:?} is served here; there are: {}", .served.join(", "))]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// The names served.
        served: Vec<String>,
    },
    /// Another dataset or recipe than the client expects.
    #[error("the client expects the {what} of digest {expected}, here it is {found}: {form}")]
    Mismatch {
        /// `dataset` or `recipe`.
        what: &'static str,
        /// The digest that the client sent.
        expected: String,
        /// The digest here.
        found: String,
        /// What it is here: the recipe's canonical form, the dataset's size.
        form: String,
    },
    /// As many streams as the server may have.
    #[error(
        "{limit} streams are open, as many as this server may have; ask again shortly, or another server"
    )]
    TooManyStreams {
        /// The bound.
        limit: usize,
        /// How long it takes until all is made that is asked for.
        wait: Duration,
    },
    /// As many streams as an identity may have.
    #[error("{identity} has {limit} streams, as many as it may; end one, or raise its limit")]
    TooManyOfIdentity {
        /// Who calls.
        identity: String,
        /// The bound.
        limit: usize,
        /// How long it takes until all is made that is asked for.
        wait: Duration,
    },
    /// Nobody knows who calls.
    #[error("{why}: send `authorization: Bearer TOKEN` with a token of this server")]
    Unauthenticated {
        /// What is wrong.
        why: &'static str,
    },
    /// The reader took nothing.
    #[error("nothing was taken for {} s, so the stream was ended; ask for the next microbatch", .after.as_secs_f64())]
    Stalled {
        /// The bound.
        after: Duration,
    },
    /// A new reader was slow, and its buffer was wanted.
    #[error(
        "a microbatch was not taken within {:.1} s, and others wait for its buffer; \
         ask for it again later", .after.as_secs_f64()
    )]
    TooSlow {
        /// How long it has had.
        after: Duration,
        /// How long it takes until all is made that is asked for.
        wait: Duration,
    },
    /// The server stops.
    #[error("this server stops; ask another one for the next microbatch")]
    Draining,
    /// A microbatch was made that cannot be sent.
    #[error(transparent)]
    Frame(#[from] SplitError),
    /// The pipeline said no.
    #[error(transparent)]
    Pipeline(#[from] Error),
}

impl Refusal {
    /// A field that is wrong, and how.
    pub fn invalid(field: &'static str, what: impl Into<String>) -> Self {
        Self::Invalid { field, what: what.into() }
    }

    /// The code that says whose turn it is, as the .proto lists them.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Frame(SplitError::HeaderTooLarge { .. }) => {
                Code::InvalidArgument
            }
            Self::Compressed | Self::UnknownMethod => Code::Unimplemented,
            Self::UnknownDataset { .. } => Code::NotFound,
            Self::Mismatch { .. } => Code::FailedPrecondition,
            Self::TooManyStreams { .. } | Self::TooManyOfIdentity { .. } | Self::TooSlow { .. } => {
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
                // Another server's GPU may do.
                Error::Device(_) | Error::Cancelled => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }
}

impl Refusal {
    /// When to ask again, where that helps.
    fn retry(&self) -> Option<Duration> {
        let (Self::TooManyStreams { wait, .. }
        | Self::TooManyOfIdentity { wait, .. }
        | Self::TooSlow { wait, .. }
        | Self::Pipeline(Error::Busy { wait, .. })) = self
        else {
            return None;
        };
        Some((*wait).clamp(*RETRY_DELAY.start(), *RETRY_DELAY.end()))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, retry) = (refusal.code(), refusal.retry());
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
    fn who_met_a_limit_is_told_to_wait_as_long_as_the_queue_is() {
        for (seconds, told) in [(0, 1), (7, 7), (3600, 30)] {
            let wait = Duration::from_secs(seconds);
            for refusal in [
                Refusal::TooManyStreams { limit: 1, wait },
                Refusal::TooSlow { after: wait, wait },
                Refusal::Pipeline(Error::Busy { limit: 1, wait }),
            ] {
                let status = Status::from(refusal);
                assert_eq!(status.code(), Code::ResourceExhausted);
                let retry = status.get_details_retry_info().unwrap().retry_delay;
                assert_eq!(retry, Some(Duration::from_secs(told)));
            }
        }
        assert!(Status::from(Refusal::Draining).details().is_empty());
    }
}
