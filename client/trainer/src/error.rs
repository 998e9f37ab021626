//! Errors of the trainer. The message of each says what to do.

use std::path::PathBuf;

use forebay_types::MicrobatchName;

/// What to do when training diverged. Resuming with the same settings would diverge again.
const DIVERGED: &str = "start a run in another --output with a lower --lr or a longer --warmup-epochs, from the \
                        beginning or from the model of a checkpoint (--initial-checkpoint)";

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
    /// A file or folder cannot be read.
    #[error("cannot read {}: {cause}; check the path", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// A file or folder cannot be written or removed.
    #[error("cannot write {}: {cause}; check --output, its permissions and the free space", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        cause: std::io::Error,
    },
    /// Another run writes to the output folder.
    #[error("{} is in use by another run: wait for its end, or use another --output", folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// A file that was read is not a safetensors file, or is truncated.
    #[error("{} is not a complete safetensors file ({cause}): use another checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        cause: safetensors::SafeTensorError,
    },
    /// A file of a checkpoint is not what was written.
    #[error("{} is damaged: {problem}: use another checkpoint", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The difference.
        problem: String,
    },
    /// A folder has checkpoints, and none of them can be used.
    #[error(
        "no checkpoint of {} can be used: {}; restore one, or start a new run with another --output",
        folder.display(), problems.join("; ")
    )]
    NoUsableCheckpoint {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with each, newest first.
        problems: Vec<String>,
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
    /// The loss or the gradient is NaN or infinite.
    #[error(
        "training diverged: the loss is {loss} and the norm of the gradient {grad_norm} at epoch {epoch}, \
         step {step} (learning rate {lr:.3e}); {DIVERGED}"
    )]
    Diverged {
        /// Epoch, from 0.
        epoch: u64,
        /// Step of the epoch, from 0.
        step: u64,
        /// Learning rate of the step.
        lr: f64,
        /// The loss.
        loss: f64,
        /// Norm of the gradient.
        grad_norm: f64,
    },
    /// A checkpoint of a model that has diverged would take the place of one that has not.
    #[error(
        "training diverged: tensor {tensor} has a value that is NaN or infinite after {updates} updates, so that no \
         checkpoint was written; {DIVERGED}"
    )]
    NotFinite {
        /// The first tensor with such a value.
        tensor: String,
        /// Optimizer updates so far.
        updates: u64,
    },
}

impl Error {
    /// Whether a GPU reported the error.
    pub(crate) const fn is_of_device(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device(_) => true,
            _ => false,
        }
    }
}
