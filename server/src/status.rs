//! Refusals, and the only place where they are mapped to gRPC statuses.

use std::fmt::Write as _;
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

/// The delay after which a record that could not be read may be requested again. What is wrong with a
/// disk or a network file system does not say when it passes.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Longest status message as it is sent, percent-encoded: it is a header, and clients limit the size of all
/// headers together to 8 KiB.
const MESSAGE_BYTES: usize = 4000;

/// The same for a status with details, which contain the message once more.
const DETAILED_MESSAGE_BYTES: usize = 1000;

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
    /// The request cannot be read to its end: it is too large, too late, or the peer is gone.
    #[error("{}", .0.message())]
    Body(Status),
    /// The request does not arrive.
    #[error("the request did not arrive within {}: send it at once", humantime::format_duration(*.limit))]
    TooLate {
        /// The limit.
        limit: Duration,
    },
    /// The peer cancelled the call, or its connection broke, before the request was complete.
    #[error("the call ended before its request was complete: {why}")]
    Cancelled {
        /// The error of the connection.
        why: String,
    },
    /// The server is at its limit of connections, and none of them is idle.
    #[error(
        "all {limit} connections of this server have calls in progress: retry later, or use another server"
    )]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
    /// The connection, or all of them, hold too much in requests and responses.
    #[error(
        "the calls of this connection, or of the server, hold more than {limit} bytes: send fewer at once, \
         and read responses"
    )]
    TooManyBytes {
        /// The limit.
        limit: usize,
    },
    /// The request is compressed.
    #[error("compressed requests are not supported: send the request uncompressed")]
    Compressed,
    /// The method does not exist.
    #[error("unknown method: forebay.v1.ForebayService has Describe, Explain, Stream and Fetch")]
    UnknownMethod,
    /// No dataset has this name, or the request has none and there are several.
    #[error("{}: this server has {}", unknown(name), .served.join(", "))]
    UnknownDataset {
        /// The name in the request; may be empty.
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
        /// The identity of the call.
        identity: String,
        /// The limit.
        limit: usize,
        /// Estimated time until the queue has drained.
        wait: Duration,
    },
    /// The call has no identity.
    #[error("{why}: send `authorization: Bearer TOKEN` with a token of this server")]
    Unauthenticated {
        /// The reason.
        why: &'static str,
    },
    /// The answer could not be made.
    #[error("{method} failed: request again, and report this bug")]
    Unanswered {
        /// The method.
        method: &'static str,
    },
    /// The system has no thread for the answer.
    #[error(
        "no thread is left for {method}: {why}: retry later, and raise the server's limit of threads (ulimit -u, or \
         pids of its cgroup)"
    )]
    NoThread {
        /// The method.
        method: &'static str,
        /// The system's reason.
        why: String,
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

/// What is wrong with the name of a dataset that the server does not have.
fn unknown(name: &str) -> String {
    if name.is_empty() {
        return "the request names no dataset, and there are several".to_owned();
    }
    format!("unknown dataset {name:?}")
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
            Self::Body(status) => status.code(),
            Self::TooLate { .. } => Code::DeadlineExceeded,
            Self::Cancelled { .. } => Code::Cancelled,
            Self::Compressed | Self::UnknownMethod => Code::Unimplemented,
            Self::UnknownDataset { .. } => Code::NotFound,
            Self::Mismatch { .. } => Code::FailedPrecondition,
            Self::TooManyBytes { .. }
            | Self::TooManyConnections { .. }
            | Self::TooManyStreams { .. }
            | Self::TooManyOfIdentity { .. }
            | Self::Evicted { .. } => Code::ResourceExhausted,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Stalled { .. } | Self::Draining | Self::NoThread { .. } => Code::Unavailable,
            Self::Unanswered { .. } | Self::Frame(_) => Code::Internal,
            Self::Pipeline(error) => match error {
                Error::Recipe(_)
                | Error::BufferBudget { .. }
                | Error::Device(DeviceError::Memory { .. }) => Code::InvalidArgument,
                Error::Dataset(error) if error.is_change() => Code::DataLoss,
                Error::OutOfRange { .. } => Code::OutOfRange,
                Error::Busy { .. } => Code::ResourceExhausted,
                // Bytes may be readable soon, or on another server, and another server's GPU may work.
                Error::Dataset(_) | Error::Device(_) | Error::Cancelled => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }

    /// The kind of fault, if a record could not be read or is not the one that was indexed.
    pub(crate) const fn data_fault(&self) -> Option<DataFault> {
        match self {
            Self::Pipeline(Error::Dataset(error)) if error.is_change() => Some(DataFault::Changed),
            Self::Pipeline(Error::Dataset(_)) => Some(DataFault::Io),
            _ => None,
        }
    }

    /// The delay after which a retry may succeed; `None` if the server suggests no delay.
    fn retry_after(&self) -> Option<Duration> {
        let wait = match self {
            Self::TooManyBytes { .. } | Self::TooManyConnections { .. } => Duration::ZERO,
            Self::TooManyStreams { wait, .. }
            | Self::TooManyOfIdentity { wait, .. }
            | Self::Evicted { wait, .. }
            | Self::Pipeline(Error::Busy { wait, .. }) => *wait,
            Self::NoThread { .. } => READ_AGAIN,
            Self::Pipeline(Error::Dataset(error)) if !error.is_change() => READ_AGAIN,
            _ => return None,
        };
        Some(wait.clamp(*RETRY_DELAY.start(), *RETRY_DELAY.end()))
    }
}

/// What is wrong with the data behind a microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataFault {
    /// It could not be read, which may pass.
    Io,
    /// It has another length or checksum than when it was indexed.
    Changed,
}

impl DataFault {
    pub(crate) const ALL: [Self; 2] = [Self::Io, Self::Changed];

    /// Its name in logs and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Changed => "changed",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let refusal = match refusal {
            Refusal::Body(status) => return status,
            refusal => refusal,
        };
        let (code, retry) = (refusal.code(), refusal.retry_after());
        let max = if retry.is_some() { DETAILED_MESSAGE_BYTES } else { MESSAGE_BYTES };
        let message = header_text(&refusal.to_string(), max);
        match retry {
            None => Self::new(code, message),
            retry => Self::with_error_details(code, message, ErrorDetails::with_retry_info(retry)),
        }
    }
}

/// A text in ASCII of at most `max` bytes when it is percent-encoded, which takes three bytes for a space.
/// Other characters than those of ASCII are written as in JSON: some clients show only the encoded form.
fn header_text(text: &str, max: usize) -> String {
    const MORE: &str = "...";
    let (mut ascii, mut left, mut cut) = (String::new(), max, 0);
    for c in text.chars() {
        let mut escaped = String::new();
        match c {
            '\n' | ' '..='~' => escaped.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(escaped, "\\u{unit:04x}").expect("writing to a string cannot fail");
                }
            }
        }
        let Some(rest) = left.checked_sub(escaped.bytes().map(encoded_bytes).sum()) else {
            ascii.truncate(cut);
            return ascii + MORE;
        };
        left = rest;
        ascii.push_str(&escaped);
        if left >= MORE.len() {
            cut = ascii.len();
        }
    }
    ascii
}

/// Bytes of a character of ASCII in a percent-encoded `grpc-message`, as tonic encodes it.
const fn encoded_bytes(byte: u8) -> usize {
    match byte {
        b' ' | b'"' | b'#' | b'%' | b'<' | b'>' | b'`' | b'?' | b'{' | b'}' => 3,
        0x21..=0x7e => 1,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::PathBuf;
    use std::sync::Arc;

    use forebay::dataset::{DatasetError, StoreError};

    use super::*;

    /// Bytes of the headers of a status.
    fn header_bytes(status: &Status) -> (usize, usize) {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        let message = headers.get("grpc-message").map_or(0, http::HeaderValue::len);
        (message, headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum())
    }

    #[test]
    fn a_dataset_that_is_unknown_or_not_named_is_refused_with_the_names_of_all() {
        let of = |name: &str| {
            let served = vec!["train".to_owned(), "val".to_owned()];
            Refusal::UnknownDataset { name: name.to_owned(), served }.to_string()
        };
        assert_eq!(of("test"), "unknown dataset \"test\": this server has train, val");
        assert_eq!(
            of(""),
            "the request names no dataset, and there are several: this server has train, val"
        );
    }

    #[test]
    fn a_status_of_any_text_fits_into_the_headers_of_a_client_and_is_ascii() {
        for text in ["x", " ", "é", "猫", "\u{1f408}", "\u{1b}[2J\n", "% "] {
            for repeats in [0, 1, 100, 10_000] {
                let text = text.repeat(repeats);
                let identity = text.clone();
                let wait = Duration::ZERO;
                for refusal in [
                    Refusal::invalid("name", text),
                    Refusal::TooManyOfIdentity { identity, limit: 1, wait },
                ] {
                    let status = Status::from(refusal);
                    let (message, all) = header_bytes(&status);
                    assert!(message <= MESSAGE_BYTES && all < 8 << 10, "{message}, {all}");
                    let ascii = |c: char| c == '\n' || (' '..='~').contains(&c);
                    assert!(status.message().chars().all(ascii), "{status:?}");
                    assert!(repeats < 10_000 || status.message().ends_with("..."));
                }
            }
        }
        let status = Status::from(Refusal::invalid("name", "Zoë \u{1f408}"));
        assert_eq!(status.message(), "invalid name: Zo\\u00eb \\ud83d\\udc08");
    }

    #[test]
    fn what_cannot_be_read_is_unavailable_and_what_changed_is_data_loss() {
        let of = |error| {
            let name = "a/1.jpg".to_owned();
            let refusal =
                Refusal::from(Error::from(DatasetError::Record { record: 1, name, error }));
            (refusal.data_fault().unwrap(), Status::from(refusal))
        };
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::PermissionDenied,
            ErrorKind::StaleNetworkFileHandle,
            ErrorKind::Other,
        ] {
            let (action, path) = ("read", PathBuf::from("1.jpg"));
            let error = Arc::new(std::io::Error::from(kind));
            let (fault, status) = of(StoreError::Io { action, path, error });
            assert_eq!((fault, status.code()), (DataFault::Io, Code::Unavailable));
            let retry = status.get_details_retry_info().unwrap().retry_delay;
            assert_eq!(retry, Some(READ_AGAIN));
        }
        let pipe = StoreError::NotRegular { path: PathBuf::from("1.jpg"), kind: "named pipe" };
        assert_eq!(of(pipe).1.code(), Code::Unavailable);
        for error in [
            StoreError::ChecksumMismatch,
            StoreError::LengthMismatch { found: 1, indexed: 2 },
            StoreError::ShardChanged { path: PathBuf::from("s.tar"), found: 1, indexed: 2 },
        ] {
            let (fault, status) = of(error);
            assert_eq!((fault, status.code()), (DataFault::Changed, Code::DataLoss));
            assert!(status.get_details_retry_info().is_none());
        }
    }

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
