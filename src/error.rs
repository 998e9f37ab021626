//! What can go wrong in the pipeline, by who can act on it.

use crate::dataset::DatasetError;
use crate::decode::DecodeError;
use crate::plan::MicrobatchName;
use crate::recipe::RecipeError;

/// An error of the pipeline. Each variant is somebody's turn: the one who wrote the request or the
/// configuration, the one who keeps the dataset, or the one who runs the service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe is not one that can be served: mend it.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The dataset or its index cannot be used: mend or index it again.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A record that was good when it was indexed does not decode now.
    #[error("record {record} ({name}): {source}; if the file changed, run `forebay index` again")]
    Record {
        /// The record's number.
        record: u64,
        /// Its path or key in the dataset.
        name: String,
        /// What is wrong with its bytes.
        source: DecodeError,
    },
    /// The name of a microbatch lies outside the epoch: ask for one inside.
    #[error("{what} {got} is past the end: there are {limit} (0 to {})", .limit.saturating_sub(1))]
    OutOfRange {
        /// What was asked for: `step`, `microbatch` or `slot`.
        what: &'static str,
        /// The number asked for.
        got: u64,
        /// How many there are.
        limit: u64,
    },
    /// One microbatch needs more memory than the whole budget: raise it or ask for less.
    #[error(
        "one microbatch takes {need} bytes and the buffers together may take {limit}; \
         raise --buffer-bytes, or use more microbatches or a smaller dtype"
    )]
    BufferBudget {
        /// Bytes of the microbatch.
        need: u64,
        /// Bytes of the budget.
        limit: u64,
    },
    /// The queue of requests is full: slow down, ask again.
    #[error("the queue holds {limit} microbatches, as many as it may; ask again shortly")]
    Busy {
        /// The queue's bound.
        limit: usize,
    },
    /// A bug of forebay's.
    #[error("making {name:?} panicked: {message}; please report it")]
    Panicked {
        /// The microbatch.
        name: MicrobatchName,
        /// The panic's words.
        message: String,
    },
    /// The one who asked no longer waits, or the pipeline stops.
    #[error("the microbatch was cancelled before it was made")]
    Cancelled,
}
