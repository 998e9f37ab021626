//! Ordered streams of microbatches that survive the failure of servers.
//!
//! ```text
//! microbatches: walk (names in order) -- split by server --> segments, received concurrently
//! segment:      window (may this microbatch be ahead?) -> request -> receive -> retry -> out
//! ```

pub(crate) mod latch;
pub(crate) mod microbatches;
pub(crate) mod race;
mod reaction;
pub(crate) mod request;
pub(crate) mod retry;
pub(crate) mod segment;
pub(crate) mod walk;
pub(crate) mod window;
