//! What can go wrong, by whose turn it is.

use std::time::Duration;

use forebay_proto::header::HeaderError;
use tonic::Code;

use crate::{Digest, MicrobatchName};

/// Why a call or a stream ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's options or arguments: mend them.
    #[error("{0}")]
    Options(String),
    /// A server's answer that no retry would better.
    #[error("{endpoint}: {request}: {cause}: {}", cause.advice())]
    Refused {
        /// The server.
        endpoint: String,
        /// What was asked for.
        request: String,
        /// What it answered.
        #[source]
        cause: Box<Cause>,
    },
    /// Each of several servers answered what excludes it from the job.
    #[error("{request}: no server is left: {}", servers.join("; "))]
    NoServer {
        /// What was asked for.
        request: String,
        /// Each server, and why it is excluded.
        servers: Vec<String>,
    },
    /// No server gave what was asked for in the time allowed.
    #[error(
        "{request}: given up after {attempts} attempts in {:.1} s; the last, at {endpoint}: {cause}: {}",
        elapsed.as_secs_f64(), cause.advice()
    )]
    GaveUp {
        /// The server asked last.
        endpoint: String,
        /// What was asked for.
        request: String,
        /// How often.
        attempts: u32,
        /// Since when nothing arrived.
        elapsed: Duration,
        /// Why the last attempt failed.
        #[source]
        cause: Box<Cause>,
    },
}

/// Why one attempt at one server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The server's own word.
    #[error("{code:?}: {message}")]
    Status {
        /// The gRPC status code.
        code: Code,
        /// The server's message.
        message: String,
        /// After how long to ask again, as the server has it.
        retry_after: Option<Duration>,
    },
    /// The connection failed.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The files of certificates or the token cannot be used.
    #[error("{0}")]
    Access(String),
    /// One of the two certificates was not accepted, or there is no TLS at the other end.
    #[error("no secure connection: {0}")]
    Certificate(String),
    /// The answer ended too early.
    #[error("the answer ended before its end")]
    Truncated,
    /// Nothing arrived.
    #[error("not a byte arrived in {:.1} s", .0.as_secs_f64())]
    Silence(Duration),
    /// A microbatch did not arrive whole.
    #[error("a microbatch took more than {:.1} s", .0.as_secs_f64())]
    Deadline(Duration),
    /// Another server, which was asked later, was earlier.
    #[error("another server was faster")]
    Overtaken,
    /// Two servers gave different microbatches of one name.
    #[error("its microbatch differs from the one of {0}, and both are whole")]
    Contradiction(String),
    /// A service's name has no address.
    #[error("{name} does not resolve to a server: {why}")]
    Resolve {
        /// The endpoint.
        name: String,
        /// What the resolver says.
        why: String,
    },
    /// What arrived is no microbatch.
    #[error(transparent)]
    Wire(WireError),
    /// The server has another dataset or recipe than this job's.
    #[error("its {what} has the digest {found}, this job's is {expected}")]
    Mismatch {
        /// `dataset` or `recipe`.
        what: &'static str,
        /// The job's.
        expected: Digest,
        /// The server's.
        found: Digest,
    },
}

/// What is wrong with what arrived.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes are no message of the contract.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A part of a message is longer than allowed.
    #[error("{what} of {found} bytes, over the limit of {limit}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// What the message says.
        found: u64,
        /// The bound.
        limit: usize,
    },
    /// The header does not agree with itself.
    #[error("bad header: {0}")]
    Header(#[from] HeaderError),
    /// Another microbatch than the next one.
    #[error("received {found} where {expected} comes next")]
    Order {
        /// The one that comes next.
        expected: MicrobatchName,
        /// The one that came.
        found: MicrobatchName,
    },
    /// The microbatch is not as the job wants it.
    #[error("{what} is {found}, this job's is {expected}")]
    Unasked {
        /// A field of the header.
        what: &'static str,
        /// What the job wants.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A frame does not follow the one before.
    #[error("frame at byte {found} of the payload where byte {expected} comes next")]
    Gap {
        /// Bytes received before.
        expected: u64,
        /// What the frame says.
        found: u64,
    },
    /// The payload is not what the server sent.
    #[error("payload corrupted: its XXH3 is {found:016x}, its header says {expected:016x}")]
    Corrupt {
        /// The header's.
        expected: u64,
        /// The payload's.
        found: u64,
    },
    /// A description that cannot be.
    #[error("bad description: {0}")]
    Description(&'static str),
}

impl From<WireError> for Cause {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl Cause {
    /// What the user of the client can do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Status { code, .. } => match code {
                Code::InvalidArgument => "mend the request",
                Code::NotFound => "name a dataset that the server has",
                Code::OutOfRange => "ask for a step and a microbatch within the epoch",
                Code::FailedPrecondition => {
                    "give every server the same dataset and recipe, or drop the expected digests"
                }
                Code::ResourceExhausted => "ask for less at once, or raise the server's limits",
                Code::Unauthenticated | Code::PermissionDenied => "give the client a valid token",
                Code::Unimplemented => {
                    "check that the endpoint is a forebay server of this version"
                }
                Code::DataLoss => "index the dataset again, or restore its files",
                Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => {
                    "check that the server runs"
                }
                _ => "see the server's log",
            },
            Self::Access(_) => "mend the file",
            Self::Certificate(_) => "check the certificates and authorities of both sides",
            Self::Connection(_) | Self::Truncated | Self::Silence(_) => {
                "check that the server runs and can be reached"
            }
            Self::Deadline(_) | Self::Overtaken => {
                "check the server's load, or allow more time (timeouts.deadline)"
            }
            Self::Contradiction(_) => "check that all servers are of one version",
            Self::Resolve { .. } => "check the name, and that servers behind it are ready",
            Self::Wire(WireError::Header(HeaderError::Limit { .. })) => {
                "ask for smaller microbatches, or raise the client's limit"
            }
            Self::Wire(WireError::Corrupt { .. }) => "check the network and the server's memory",
            Self::Wire(_) => "check that client and server are of one version",
            Self::Mismatch { .. } => "give every server the same dataset and recipe",
        }
    }
}
