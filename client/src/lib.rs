//! Client of forebay servers: ordered, verified microbatches.
//!
//! A microbatch has a name, and any server gives the same bytes for it. So the client holds the only
//! position there is, a [`Cursor`], and a failed server costs time and nothing else:
//!
//! ```text
//! Client::stream -> task -> legs: steps in a row of one server (rendezvous hash of the step)
//!                              connect -> wire (bytes to pieces) -> receive (pieces to microbatches)
//!                                ^                                            |
//!                                +-- failed, late: next server, missing name <+--> Microbatches::next
//! fleet: resolve (names to servers) . breaker (whom to leave alone) . hedge (when to ask two)
//! ```
//!
//! ```no_run
//! # async fn run() -> Result<(), forebay_client::Error> {
//! use forebay_client::{Client, Cursor, End, Job, Options, Rank};
//!
//! let client = Client::connect(Options::new(["http://localhost:7070"]))?;
//! let job = Job::new("imagenet", "a2");
//! let mut stream = client.stream(&job, Cursor::default(), End::Steps(10), Rank::SINGLE).await?;
//! while let Some(microbatch) = stream.next().await {
//!     let microbatch = microbatch?;
//!     println!("{}: {} bytes", microbatch.name, microbatch.pixels.len());
//! }
//! # Ok(())
//! # }
//! ```

mod access;
mod ask;
pub mod blocking;
mod breaker;
mod client;
mod connect;
mod cursor;
mod error;
#[cfg(feature = "clap")]
mod flags;
mod fleet;
mod hedge;
mod job;
mod latch;
mod leg;
mod microbatch;
mod network;
mod options;
mod receive;
mod rendezvous;
mod resolve;
mod retry;
mod roster;
mod slab;
mod stats;
mod status;
mod stream;
mod wire;

pub use access::Access;
pub use breaker::Circuit;
pub use client::Client;
pub use cursor::{End, State};
pub use error::{Cause, Error, WireError};
#[cfg(feature = "clap")]
pub use flags::ServerFlags;
pub use forebay_proto::types::{
    Cursor, DType, Digest, Layout, MicrobatchName, MixedBy, ParseError, Rank, RankError,
};
pub use hedge::Hedge;
pub use job::{Description, Job, RecipeRef};
pub use microbatch::{Microbatch, Mix, Timings};
pub use network::{Connection, Network};
pub use options::{Options, Retry, Timeouts};
pub use slab::Pixels;
pub use stats::{Counts, ServerStats};
pub use stream::Microbatches;
