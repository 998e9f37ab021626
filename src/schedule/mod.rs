//! Schedules requests: chooses the microbatch that is made next, and the client that it is charged to.
//!
//! A *client* is the unit of fairness: whoever submits requests under one name. A *waiter* is one request
//! that is not answered yet; a client may have many.
//!
//! - `queue`: equal requests become one task; the only file with a lock.
//! - `pending`: the requests that are not answered yet, as plain data.
//! - `fair`: the order in which clients take turns.
//! - `cache`: recent results.
//! - `cancellation`: the options of a request, and the cancellation of what several wait for.
//!
//! The module is generic over keys, jobs and results, and does not depend on pixels.

mod cache;
mod cancellation;
mod fair;
mod pending;
mod queue;
#[cfg(test)]
mod tests;

pub(crate) use cancellation::Cancellation;
pub use cancellation::SubmitOptions;
pub(crate) use pending::Task;
pub use queue::QueueStats;
pub(crate) use queue::{Needs, Origin, Outcome, Queue, SubmitError, Submitted, TaskEnd};
