//! Trains ResNets by the recipes of "ResNet strikes back" (arXiv 2110.00476), fed by forebay servers.
//!
//! ```text
//!   microbatch -> Backend::accumulate -> ... of a step -> Backend::update
//!                   |                                        |
//!                 Graph: operations in order               Lamb, Schedule
//!                 Plan: where each tensor lies
//!                 Loss, Drops          Ranks: sums over processes
//! ```

pub mod backend;
pub mod checkpoint;
pub mod command;
pub mod curves;
pub mod droppath;
pub mod error;
pub mod eval;
pub mod events;
pub mod init;
pub mod lamb;
pub mod loss;
pub mod memory;
pub mod model;
pub mod preset;
pub mod ranks;
pub mod schedule;
#[cfg(feature = "cuda")]
pub mod selftest;
pub mod train;

pub use error::Error;
