//! What can go wrong, by who can act on it.

use std::path::PathBuf;

/// An error of the trainer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a model of ours.
    #[error("no model is called {name}; there are {}", crate::model::NAMES.join(", "))]
    UnknownModel {
        /// The name asked for.
        name: String,
    },
    /// A setting that cannot work.
    #[error("{setting}: {problem}")]
    Setting {
        /// The flag.
        setting: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        cause: std::io::Error,
    },
    /// A checkpoint that is no safetensors file, or a cut one.
    #[error("{}: not a whole safetensors file ({cause}); take another checkpoint", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        cause: safetensors::SafeTensorError,
    },
    /// A checkpoint of another model or run.
    #[error("{}: {problem}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What differs, and what to do.
        problem: String,
    },
    /// A microbatch that does not fit the model.
    #[error("epoch {epoch}, step {step}, microbatch {index}: {problem}")]
    Batch {
        /// Epoch.
        epoch: u64,
        /// Step of the epoch.
        step: u64,
        /// Microbatch of the step.
        index: u32,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The processes of a training did not find each other.
    #[error("rendezvous {address}: {problem}")]
    Rendezvous {
        /// Where rank 0 listens.
        address: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A rank that was lost, failed, or does something else than the others.
    #[error("rank {rank}: {problem}")]
    Rank {
        /// Which one.
        rank: u32,
        /// What happened.
        problem: String,
    },
    /// A GPU failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] forebay::gpu::DeviceError),
    /// The loss is not a number.
    #[error(
        "the loss is {loss} at epoch {epoch}, step {step} (learning rate {rate:.3e}): training diverged; \
         resume from the last checkpoint with a lower --lr or a longer --warmup-epochs"
    )]
    Diverged {
        /// Epoch.
        epoch: u64,
        /// Step of the epoch.
        step: u64,
        /// Its learning rate.
        rate: f64,
        /// NaN or infinite.
        loss: f64,
    },
}
