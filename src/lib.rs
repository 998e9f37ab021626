//! forebay's pipeline: from stored images to batches that are ready for a trainer.
//!
//! ```text
//!   name = (dataset, recipe, seed, epoch, step, index)
//!     |
//!   order    -> positions -> record ids          pure
//!   plan     -> box, flip, ops; mix               pure: the only place that draws
//!     |
//!   dataset  -> bytes of a record                 from where the user keeps them
//!   decode   -> pixels of the box                 as Pillow decodes
//!   resize   -> the sample's slot of the batch    as Pillow resizes
//!   augment  -> the same slot                     as timm and Pillow augment
//!   batch    -> all slots
//!   mix      -> pixels and targets                as timm's FastCollateMixup
//! ```
//!
//! A microbatch is a pure function of its name. Nothing here knows of networks or async runtimes.

pub mod augment;
pub mod batch;
mod cpu_time;
pub mod dataset;
pub mod decode;
pub mod error;
mod explain;
pub mod geometry;
pub mod gpu;
mod make;
pub mod mix;
pub mod order;
mod pipeline;
pub mod plan;
pub mod randaugment;
pub mod recipe;
pub mod resize;
pub mod sample_data;
mod schedule;
pub mod simd;
mod store;
mod sync;

pub use error::Error;
pub use explain::{ExplainedMix, ExplainedOp, ExplainedSample, Explanation, OwnMix, explain};
pub use forebay_types::{DType, Digest, Layout, MicrobatchName, MixedBy, PixelFormat};
pub use geometry::{Interpolation, Rect, Size, View};
pub use make::{Microbatch, Request, Stages, Timings};
pub use pipeline::{Pipeline, PipelineConfig, Totals};
pub use randaugment::Op;
pub use schedule::{QueueStats, Requester};
pub use simd::Simd;
