//! The servers of a client: discovery, health, and the choice of a server for each step.
//!
//! ```text
//! endpoints -- resolve --> members: one Member per server, with its circuit breaker and counts
//!                              |
//! job_servers: members that serve the job, in the order of a step (rendezvous), minus excluded ones
//! ```

pub(crate) mod breaker;
pub(crate) mod hedge;
pub(crate) mod job_servers;
pub(crate) mod members;
pub(crate) mod rendezvous;
pub(crate) mod resolve;
pub(crate) mod stats;
