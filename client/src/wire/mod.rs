//! One connection: TLS and tokens, HTTP/2 calls, bytes to verified microbatches.
//!
//! ```text
//! connect (a call) -> parser (DATA frames to pieces) -> receive (pieces to a microbatch)
//!    access, network                                     expected (does it fit the job?), buffers, demand
//! offer (a server of this host) -> memory (its microbatches) ----------^
//! ```

pub(crate) mod access;
pub(crate) mod buffers;
pub(crate) mod connect;
pub(crate) mod demand;
pub(crate) mod expected;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod offer;
pub(crate) mod parser;
pub(crate) mod receive;
pub(crate) mod status;
