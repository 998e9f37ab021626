//! forebay's pipeline: from stored images to batches that are ready for a trainer.
//!
//! ```text
//!   name = (dataset, recipe, seed, epoch, step, index)
//!     |
//!   order    -> positions -> record ids          pure
//!   plan     -> box, flip, ops; mix               pure: the only place that draws
//!     |
//!   batch    -> a buffer with a slot per sample
//!   dataset  -> bytes of a record                 read in place
//!   decode   -> pixels of the box                 as Pillow decodes
//!   resize   -> the sample's slot                 as Pillow resizes
//!   augment  -> the same slot                     as timm and Pillow augment
//!   mix      -> pixels and targets of the batch   as timm's FastCollateMixup
//! ```
//!
//! A microbatch is a pure function of its name. The crate uses no network and no async runtime.

mod augment;
mod batch;
mod classes;
pub mod dataset;
pub mod decode;
mod error;
mod explain;
mod geometry;
pub mod gpu;
mod jitter;
mod make;
pub mod mix;
mod ops;
mod order;
mod pipeline;
pub mod plan;
pub mod recipe;
mod resize;
pub mod sample_data;
mod schedule;
mod scratch;
mod shared_memory;
mod simd;
mod store;
mod sync;

pub use batch::{Buffer, BufferPool, Pixels};
pub use error::Error;
pub use explain::{
    ExplainedChain, ExplainedColorOp, ExplainedMix, ExplainedMixture, ExplainedOp, ExplainedSample,
    Explanation, OwnMix, explain, explain_samples,
};
pub use forebay_types::{
    DType, Digest, Layout, MicrobatchName, MixedBy, PixelFormat, StageTimes, Timings,
};
pub use geometry::{Interpolation, PadMode, Padding, Rect, ResizeFilter, Size, View};
pub use jitter::ColorOp;
pub use make::{FetchAhead, MadeMicrobatch, Request, microbatch_bytes, sample_bytes, sampler};
pub use ops::{Chain, Library, Mixture, MixtureKind, Op};
pub use order::{EpochSampler, Sampler};
pub use pipeline::{Pipeline, PipelineConfig, Totals};
pub use schedule::{QueueStats, SubmitOptions};
pub use shared_memory::{MAX_SHARED, SharedMemory};
pub use simd::Simd;

/// Single stages, for the tests and benches of this repository. Not a part of the public API.
#[doc(hidden)]
pub mod testing {
    pub use crate::augment::Augmenter;
    pub use crate::mix::cpu::{mix, mix_pair};
    pub use crate::ops::{Drawn, Hparams, Space, TimmOp, TorchOp};
    pub use crate::resize::{Part, Resample, Resizer};
}
