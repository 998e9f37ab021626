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
pub mod dataset;
pub mod decode;
pub mod error;
pub mod geometry;
pub mod gpu;
pub mod mix;
pub mod order;
pub mod pipeline;
pub mod plan;
pub mod randaugment;
pub mod recipe;
pub mod resize;
pub mod sample_data;
pub mod simd;
mod store;

pub use error::Error;
pub use forebay_types::{Digest, MicrobatchName};
pub use geometry::{Interpolation, Rect, Size, View};
pub use pipeline::{Microbatch, Pipeline, Request};
pub use randaugment::Op;
pub use simd::Simd;
