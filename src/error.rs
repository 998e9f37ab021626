//! What can go wrong in the pipeline, by who can act on it.

use std::time::Duration;

use forebay_types::MicrobatchName;

use crate::dataset::DatasetError;
use crate::decode::DecodeError;
use crate::gpu::DeviceError;
use crate::recipe::RecipeError;

/// An error of the pipeline. Each variant is somebody's turn: the one who wrote the request or the
/// configuration, the one who keeps the dataset, or the one who runs the service and its machine.
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
    /// The GPU cannot be used, or failed: see to it, or mix on the CPU.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A plan that came with a batch is not one of its.
    #[error("the mix plan is not one of this batch: {what}")]
    Plan {
        /// What does not fit.
        what: String,
    },
    /// Too much is asked for at once: slow down, ask again.
    #[error(
        "{limit} microbatches are asked for and not made yet, as many as one client may have; \
         ask again in {:.1} s", .wait.as_secs_f64()
    )]
    Busy {
        /// The bound.
        limit: usize,
        /// How long it takes until all is made that is asked for.
        wait: Duration,
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
