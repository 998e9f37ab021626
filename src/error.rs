//! Errors of the pipeline. The doc of each says who can act on it.

use std::time::Duration;

use forebay_types::MicrobatchName;

use crate::dataset::DatasetError;
use crate::decode::DecodeError;
use crate::gpu::DeviceError;
use crate::recipe::RecipeError;

/// An error of the pipeline. Each variant can be resolved by one party: the author of the request or
/// the configuration, the owner of the dataset, or the operator of the service and its machine.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe is invalid: fix it.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The dataset or its index cannot be used: repair it, or index it again.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A record that was good when it was indexed no longer decodes, although its bytes are the same: it
    /// was indexed by another version, or this is a bug.
    #[error("record {record} ({name}): {source}; run \"forebay index\" of this version again")]
    Record {
        /// Number of the record.
        record: u64,
        /// Its path or key in the dataset.
        name: String,
        /// The reason why its bytes do not decode.
        source: DecodeError,
    },
    /// The name of a microbatch is outside the epoch: request one inside.
    #[error("{what} {got} is out of range: expected 0 to {}", .limit.saturating_sub(1))]
    OutOfRange {
        /// The part of the name: `step`, `microbatch`, `slot` or `sample`.
        what: &'static str,
        /// The requested number.
        got: u64,
        /// The number of steps, microbatches or slots.
        limit: u64,
    },
    /// One microbatch needs more memory than all buffers may take: raise the limit or request less.
    #[error(
        "one microbatch takes {need} bytes, with those that its largest picture needs beyond the memory of \
         a worker, and all buffers together may take {limit}; \
         raise --buffer-bytes or --memory, or use more microbatches or a smaller dtype"
    )]
    BufferBudget {
        /// Bytes of the microbatch, and of the largest picture beyond the memory of a worker.
        need: u64,
        /// Limit of all buffers in bytes.
        limit: u64,
    },
    /// The GPU failed or cannot be used: repair it, or mix on the CPU.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A mix plan does not belong to the batch that it is applied to.
    #[error("the mix plan does not match the batch: {what}")]
    Plan {
        /// The part that does not match.
        what: String,
    },
    /// The client has too many outstanding requests: slow down, and retry.
    #[error(
        "the client has {limit} outstanding microbatches, the maximum; retry in {:.1} s",
        .wait.as_secs_f64()
    )]
    Busy {
        /// Maximum number of outstanding requests.
        limit: usize,
        /// Estimated time until all outstanding requests are answered.
        wait: Duration,
    },
    /// A bug in forebay.
    #[error("making {name:?} panicked: {message}; please report this bug")]
    Panicked {
        /// The microbatch.
        name: MicrobatchName,
        /// The message of the panic.
        message: String,
    },
    /// The request was cancelled, or the pipeline is shutting down.
    #[error("the microbatch was cancelled before it was made")]
    Cancelled,
}
