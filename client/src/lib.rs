//! Client of forebay servers: ordered, verified microbatches.
//!
//! Any server returns the same bytes for the same microbatch name. So the client holds the only
//! position, a [`Cursor`], and a failed server costs time and nothing else:
//!
//! ```text
//! Client::stream -> stream/: the steps, split into segments of one server each
//!                     |  ^
//!          request    |  |  failed or late: the next server, from the first missing name
//!                     v  |
//!                   fleet/: which server? (names, circuit breakers, hedges)
//!                     |
//!                     v
//!                   wire/: call, parse, verify --> Microbatches::next, in order
//! ```
//!
//! ```no_run
//! # async fn run() -> Result<(), forebay_client::Error> {
//! use forebay_client::{Client, Cursor, End, Job, Options, Rank};
//!
//! let client = Client::connect(Options::new(["http://localhost:50051"]))?;
//! let job = Job::new("imagenet", "a2");
//! let mut stream = client.stream(&job, Cursor::default(), End::Steps(10), Rank::SINGLE).await?;
//! while let Some(microbatch) = stream.next().await {
//!     let microbatch = microbatch?;
//!     println!("{}: {} bytes", microbatch.name, microbatch.pixels.len());
//! }
//! # Ok(())
//! # }
//! ```

pub mod blocking;
mod client;
mod description;
mod error;
#[cfg(feature = "clap")]
mod flags;
mod fleet;
mod job;
mod microbatch;
mod notice;
mod options;
mod plan;
mod stream;
mod survey;
mod unary;
mod wire;

pub use client::Client;
pub use description::Description;
pub use error::{Cause, Error, WireError};
#[cfg(feature = "clap")]
pub use flags::ClientFlags;
pub use fleet::breaker::Circuit;
pub use fleet::stats::{Counts, ServerStats};
pub use forebay_proto::types::{
    Cursor, DType, Digest, Layout, MicrobatchName, MixedBy, ParseError, PixelFormat, Rank,
    RankError, StageTimes, Timings,
};
pub use job::{Job, RecipeRef, State};
pub use microbatch::{Microbatch, Mix};
pub use options::{Hedge, Options, Prefetch, Retry, SharedMemory, Timeouts};
pub use stream::microbatches::Microbatches;
pub use stream::walk::{End, Start};
pub use wire::access::Access;
pub use wire::buffers::Pixels;
pub use wire::network::{Connection, Network};
