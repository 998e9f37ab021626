//! Errors of the client, grouped by who can act on them.

use std::path::PathBuf;
use std::time::Duration;

use forebay_proto::header::HeaderError;
use forebay_proto::types::{Digest, MicrobatchName};
use tonic::Code;

/// The error that ends a call or a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's options or arguments are invalid.
    #[error("{0}")]
    Options(String),
    /// A server refused the request, and a retry would not change that.
    #[error("{endpoint}: {request}: {cause}: {}", cause.advice(endpoint))]
    Refused {
        /// The server.
        endpoint: String,
        /// The request.
        request: String,
        /// The server's answer.
        #[source]
        cause: Box<Cause>,
    },
    /// Each of several servers gave an answer that excludes it from the job.
    #[error("{request}: every server is excluded: {}", servers.join("; "))]
    NoServer {
        /// The request.
        request: String,
        /// Each server, with the reason why it is excluded.
        servers: Vec<String>,
    },
    /// No server answered the request in the time that [`Retry`](crate::Retry) allows.
    #[error(
        "{request}: gave up after {attempts} attempts in {:.1} s; last error, from {endpoint}: {cause}: {}",
        elapsed.as_secs_f64(), cause.advice(endpoint)
    )]
    GaveUp {
        /// The server that was tried last.
        endpoint: String,
        /// The request.
        request: String,
        /// Number of attempts.
        attempts: u32,
        /// Time since the first of these attempts failed.
        elapsed: Duration,
        /// The reason why the last attempt failed.
        #[source]
        cause: Box<Cause>,
    },
    /// The client itself failed, such as by a panic of one of its tasks.
    #[error("internal error of the client: {0}")]
    Internal(String),
}

/// The reason why one attempt at one server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server answered with an error.
    #[error("{code:?}: {message}")]
    Status {
        /// The gRPC status code.
        code: Code,
        /// The server's message.
        message: String,
        /// The delay before the next attempt that the server asks for.
        retry_after: Option<Duration>,
    },
    /// The connection failed.
    #[error("connection failed: {0}")]
    Connection(String),
    /// Nothing listens on the Unix socket: it does not exist, or a server that has ended left it.
    #[error("no server listens on the socket {}", .0.display())]
    NoListener(PathBuf),
    /// The system does not let this user connect to the Unix socket.
    #[error("permission denied: the socket {}", .0.display())]
    SocketPermission(PathBuf),
    /// A file with a certificate or a token cannot be used.
    #[error("{0}")]
    Access(String),
    /// One of the two certificates was rejected, or the server does not speak TLS.
    #[error("TLS handshake failed: {0}")]
    Certificate(String),
    /// The response ended in the middle of a message.
    #[error("the response ended in the middle of a message")]
    Truncated,
    /// No bytes arrived for [`Timeouts::idle`](crate::Timeouts::idle).
    #[error("no bytes arrived for {:?}", .0)]
    IdleTimeout(Duration),
    /// A microbatch, or another answer of several parts, was not complete after
    /// [`Timeouts::microbatch`](crate::Timeouts::microbatch).
    #[error("the whole answer did not arrive within {:?}", .0)]
    MicrobatchTimeout(Duration),
    /// The hedge, sent to another server, delivered the microbatch first.
    #[error("another server was faster")]
    Overtaken,
    /// Two servers returned different content for the same microbatch.
    #[error("its microbatch differs from that of {0}, and both match their own checksums")]
    Conflict(String),
    /// The name of a service has no address.
    #[error("cannot resolve {name}: {why}")]
    Resolve {
        /// The endpoint.
        name: String,
        /// The resolver's error.
        why: String,
    },
    /// There is not enough memory for a microbatch of this many bytes.
    #[error("a microbatch of {0} bytes does not fit into memory")]
    Memory(usize),
    /// The received bytes are not the expected microbatch.
    #[error(transparent)]
    Wire(WireError),
    /// The server has another dataset or recipe than the job.
    #[error("the digest of its {what} is {found}, expected {expected}")]
    Mismatch {
        /// `dataset` or `recipe`.
        what: &'static str,
        /// The job's digest.
        expected: Digest,
        /// The server's digest.
        found: Digest,
    },
}

/// An error in received bytes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes are not a message of the protocol.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A part of a message is longer than allowed.
    #[error("{what} of {found} bytes exceeds the limit of {limit}")]
    TooLong {
        /// The part of the message.
        what: &'static str,
        /// Its length.
        found: u64,
        /// The longest that is accepted.
        limit: usize,
    },
    /// The header contradicts itself.
    #[error("invalid header: {0}")]
    Header(#[from] HeaderError),
    /// Another microbatch arrived than the next one.
    #[error("received {found}, expected {expected}")]
    Order {
        /// The name that comes next.
        expected: MicrobatchName,
        /// The name in the header.
        found: MicrobatchName,
    },
    /// The microbatch does not have the form that the job requested.
    #[error("{what} is {found}, expected {expected}")]
    Unexpected {
        /// A field of the header.
        what: &'static str,
        /// The job's value.
        expected: u64,
        /// The header's value.
        found: u64,
    },
    /// A number of a sample is beyond what the description says.
    #[error("{what} is {found}, expected less than {limit}")]
    Beyond {
        /// A record or a label.
        what: &'static str,
        /// The number in the header.
        found: u64,
        /// The number of records or classes of the dataset.
        limit: u64,
    },
    /// A frame does not continue where the one before ended.
    #[error("received a frame for byte {found} of the payload, expected byte {expected}")]
    Gap {
        /// Number of payload bytes received before.
        expected: u64,
        /// The frame's offset.
        found: u64,
    },
    /// The payload is not what the server sent.
    #[error("corrupt payload: its XXH3 is {found:016x}, expected {expected:016x}")]
    Corrupt {
        /// The header's hash.
        expected: u64,
        /// The payload's hash.
        found: u64,
    },
    /// A description contradicts itself.
    #[error("invalid description: {0}")]
    Description(&'static str),
    /// A plan is not JSON with samples, or its parts do not lead on.
    #[error("invalid plan: expected JSON with samples, in parts that lead to its end")]
    Plan,
}

impl From<WireError> for Cause {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Error {
    /// Whether a server found the request itself invalid, such as its recipe, which only the server can check.
    pub fn is_invalid_argument(&self) -> bool {
        let Self::Refused { cause, .. } = self else { return false };
        matches!(**cause, Cause::Status { code: Code::InvalidArgument, .. })
    }
}

impl Cause {
    /// The advice for the user of the client, after a call on this endpoint.
    pub(crate) fn advice(&self, endpoint: &str) -> &'static str {
        match self {
            Self::Status { code, .. } => status_advice(*code),
            Self::NoListener(_) => {
                "start the server with this path as its --listen, or fix the path"
            }
            Self::SocketPermission(_) => {
                "check --socket-mode of the server, and that this user can enter the folders of the path"
            }
            Self::Access(_) => "fix the file",
            Self::Certificate(_) => "check the certificates and authorities of both sides",
            Self::Connection(_) | Self::Truncated | Self::IdleTimeout(_)
                if endpoint.starts_with("unix:") =>
            {
                "check that the server runs"
            }
            Self::Connection(_) | Self::Truncated | Self::IdleTimeout(_) => {
                "check that the server runs and can be reached; one with TLS needs https:// or --tls-ca"
            }
            Self::MicrobatchTimeout(_) | Self::Overtaken => {
                "check the server's load, or raise the timeout of a microbatch"
            }
            Self::Memory(_) => "request smaller microbatches",
            Self::Conflict(_) => "check that all servers run the same version",
            Self::Resolve { .. } => "check the name, and that servers behind it are ready",
            Self::Wire(WireError::Header(HeaderError::Limit { .. })) => {
                "request smaller microbatches, or raise the client's limit"
            }
            Self::Wire(WireError::Corrupt { .. }) => "check the network and the server's memory",
            Self::Wire(_) => "check that client and server run the same version",
            Self::Mismatch { .. } => "give every server the same dataset and recipe",
        }
    }
}

const fn status_advice(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "fix the request",
        Code::NotFound => "use a dataset that the server has: --dataset, or dataset= in Python",
        Code::OutOfRange => "request a step and a microbatch within the epoch",
        Code::FailedPrecondition => {
            "give every server the same dataset and recipe, or drop the expected digests"
        }
        Code::ResourceExhausted => "request less at once, or raise the server's limits",
        Code::Unauthenticated | Code::PermissionDenied => "give the client a valid token",
        Code::Unimplemented => "check that the endpoint is a forebay server of this version",
        Code::DataLoss => "index the dataset again, or restore its files",
        // It runs, or it could not say so.
        Code::Unavailable => "resolve what the server says, or use another one",
        Code::Cancelled | Code::DeadlineExceeded => "check that the server runs",
        _ => "see the server's log",
    }
}
