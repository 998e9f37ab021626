//! Decides what is made next, and for whom.
//!
//! - `queue`: equal requests become one task; the only file with a lock.
//! - `pending`: the requests that are not answered yet, as plain data.
//! - `fair`: which client's turn it is.
//! - `cache`: results that were made lately.
//! - `waiters`: requesters and their cancellation.
//!
//! All of it is generic over keys, jobs and results, and knows no pixels.

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
