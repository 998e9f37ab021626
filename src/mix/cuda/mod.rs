//! Mixing on a GPU, in parts that overlap.
//!
//! ```text
//! lane 0   part 0: upload, kernel, download | part 2 ...
//! lane 1             part 1: upload, kernel, download | part 3 ...
//! ```
//!
//! A part is some samples from the front of a microbatch and their partners from its back: a smaller
//! microbatch of its own. So a microbatch of any size passes through memory of a fixed size, and
//! uploads, kernels and downloads of neighboring parts and neighboring microbatches overlap. Nothing
//! here waits for the GPU: reading the buffer does.

mod kernels;
mod lane;
mod mixer;
mod parts;
mod times;

pub use kernels::MIX_KERNELS;
pub use lane::{MIX_BYTES, mix_entry};
pub use mixer::CudaMixer;
