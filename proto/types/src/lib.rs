//! The plain values that every forebay crate shares.
//!
//! A microbatch has a name and timings, a trainer has a cursor and a rank, and pixels have a format.
//! Pipeline, server, client and trainer use these same types, so that nothing is converted on the way
//! from a request to a training step. The crate has no dependencies unless a feature enables one.
//!
//! ```
//! use forebay_types::{Cursor, Rank};
//!
//! // Rank 1 of 4 takes every fourth microbatch of a step of eight.
//! assert_eq!(Rank { rank: 1, world: 4 }.microbatches(8)?, [1, 5]);
//! // Ten steps into an epoch of eight steps is the third step of the next epoch.
//! assert_eq!(Cursor::default().after(10, 8), Cursor { epoch: 1, step: 2 });
//! # Ok::<(), forebay_types::RankError>(())
//! ```

#[cfg(feature = "command")]
pub mod command;
mod digest;
#[cfg(feature = "file")]
pub mod file;
mod format;
pub mod limits;
#[cfg(feature = "map")]
pub mod map;
mod name;
mod parse;
#[cfg(feature = "process")]
pub mod process;
mod rank;
#[cfg(feature = "settings")]
pub mod settings;
pub mod text;
mod timings;

pub use digest::Digest;
pub use format::{DType, Layout, MixedBy, PixelFormat};
pub use name::{Cursor, MicrobatchName};
pub use parse::ParseError;
pub use rank::{Rank, RankError};
pub use timings::{StageTimes, Timings};
