//! Telemetry: the open streams, which side of each waits for the other, and totals of the last minutes.
//!
//! ```text
//! session ─> StreamGuard ─> StreamStats: position, waits ──┐
//!                        ─> Counters: microbatches, bytes ─┼─> Snapshot ─> metrics, status page, JSON
//!                        ─> Picture: a few samples ────────┘
//! ```
//!
//! Telemetry observes and never refuses a call: limits are enforced by `admission`.

mod bottleneck;
mod lock;
mod metrics;
mod picture;
mod recorder;
mod render;
mod snapshot;
mod stream;

pub(crate) use recorder::{HISTORY, StreamGuard, TICK, Telemetry};
pub(crate) use render::render;
pub(crate) use snapshot::{Snapshot, StreamSnapshot};
pub(crate) use stream::{StreamRequestInfo, WaitingSide};
