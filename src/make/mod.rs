//! Makes microbatches: each file calls those below it.
//!
//! ```text
//!   batch          one microbatch: slots, plan, buffer, fill, mix, digest
//!   repeats          groups slots by record, in parallel
//!   repeat_cache       samples that other microbatches precomputed; reuse: whether precomputing pays
//!   sample             one record: read, decode, resize, augment
//!   reader               reads with a deadline
//!   request, worker, cost: the values that they share; scratch: the memory of a worker
//! ```

mod batch;
mod cost;
mod reader;
mod repeat_cache;
mod repeats;
mod request;
mod reuse;
mod sample;
mod scratch;
#[cfg(test)]
mod simd_tests;
mod worker;

pub use batch::{MadeMicrobatch, microbatch_bytes};
pub(crate) use batch::{MakeContext, make};
pub(crate) use repeat_cache::RepeatCache;
pub use request::{FetchAhead, Request, sampler};
pub(crate) use request::{Job, RequestKey};
pub(crate) use scratch::Large;
pub use scratch::sample_bytes;
pub(crate) use worker::Workers;
