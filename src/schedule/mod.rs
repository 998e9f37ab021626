//! Schedules requests: chooses the microbatch that is made next, and the client that it is charged to.
//!
//! - `queue`: equal requests become one task; the only file with a lock.
//! - `pending`: the requests that are not answered yet, as plain data.
//! - `fair`: the order in which clients take turns.
//! - `cache`: recent results.
//! - `waiters`: requesters and their cancellation.
//!
//! The module is generic over keys, jobs and results, and does not depend on pixels.

mod cache;
mod fair;
mod pending;
mod queue;
#[cfg(test)]
mod tests;
mod waiters;

pub(crate) use pending::Task;
pub use queue::QueueStats;
pub(crate) use queue::{Origin, Outcome, Queue, SubmitError, TaskEnd};
pub use waiters::Requester;
pub(crate) use waiters::Waiters;
