//! What is going on in a server: who reads what, who waits for whom, and how the last minutes were.
//!
//! ```text
//! session ─> StreamGuard ─> StreamStats: position, waits ──┐
//!                        ─> Counters: microbatches, bytes ─┼─> Snapshot ─> metrics, status page, JSON
//!                        ─> Picture: a few samples ────────┘
//! ```
//!
//! Telemetry counts. It refuses nothing: limits are the business of `admission`.

mod bottleneck;
mod lock;
mod metrics;
mod picture;
mod process;
mod recorder;
mod render;
mod snapshot;
mod stream;

pub(crate) use process::cpu_time;
pub(crate) use recorder::{StreamGuard, TICK, Telemetry};
pub(crate) use render::render;
pub(crate) use snapshot::{Snapshot, StreamSnapshot};
pub(crate) use stream::{StreamRequestInfo, WaitingSide};
