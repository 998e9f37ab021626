//! Errors of the trainer, grouped by who can act on them.

use std::path::PathBuf;

use forebay_types::MicrobatchName;

/// An error of the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The trainer has no model of this name.
    #[error("unknown model {name:?}: expected one of {}", known.join(", "))]
    UnknownModel {
        /// The requested name.
        name: String,
        /// All names.
        known: &'static [&'static str],
    },
    /// A setting cannot work.
    #[error("{setting}: {problem}")]
    Setting {
        /// The flag.
        setting: &'static str,
        /// The fault and the remedy.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// A file is not a safetensors file, or is truncated.
    #[error("{} is not a complete safetensors file ({cause}): use another checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        cause: safetensors::SafeTensorError,
    },
    /// A checkpoint belongs to another model or run.
    #[error("{}: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The difference and the remedy.
        problem: String,
    },
    /// A microbatch does not fit the model or the order of training.
    #[error("{name}: {problem}")]
    Batch {
        /// The microbatch.
        name: MicrobatchName,
        /// The fault and the remedy.
        problem: String,
    },
    /// The ranks could not connect to each other.
    #[error("rendezvous at {address}: {problem}")]
    Rendezvous {
        /// The address where rank 0 listens.
        address: String,
        /// The fault and the remedy.
        problem: String,
    },
    /// A rank was lost, failed, or does not take part in the same exchange as the others.
    #[error("rank {rank}: {problem}")]
    Rank {
        /// The rank that failed.
        rank: u32,
        /// The failure.
        problem: String,
    },
    /// A GPU failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] forebay::gpu::DeviceError),
    /// The loss is NaN or infinite.
    #[error(
        "training diverged: the loss is {loss} at epoch {epoch}, step {step} (learning rate {lr:.3e}); \
         resume from the last checkpoint with a lower --lr or a longer --warmup-epochs"
    )]
    Diverged {
        /// Epoch, from 0.
        epoch: u64,
        /// Step of the epoch, from 0.
        step: u64,
        /// Learning rate of the step.
        lr: f64,
        /// The loss, which is NaN or infinite.
        loss: f64,
    },
}
