//! Makes microbatches: each file calls those below it.
//!
//! ```text
//!   batch          one microbatch: slots, plan, buffer, fill, mix, digest
//!   repeats          groups slots by record, in parallel
//!   repeat_cache       samples that other microbatches precomputed; reuse: whether precomputing pays
//!   sample             one record: read, decode, resize, augment
//!   request, worker, timings: the values that they share
//! ```

mod batch;
mod repeat_cache;
mod repeats;
mod request;
mod reuse;
mod sample;
#[cfg(test)]
mod simd_tests;
mod timings;
mod worker;

pub use batch::Microbatch;
pub(crate) use batch::{MakeContext, make};
pub(crate) use repeat_cache::RepeatCache;
pub use request::Request;
pub(crate) use request::{RequestKey, Slots};
pub use timings::{Stages, Timings};
pub(crate) use worker::Workers;
