//! Datasets in buckets.
//!
//! ```text
//!   place  --source-->  the shards of a folder or a pattern, of one split, and small files beside them (folder)
//!   build               each shard is read once, into a file (download), and indexed there, which gives a part
//!   join                the parts become one index, of the records that are selected
//!   open                the index, from a folder or from the bucket; reads by the remote store
//! ```

mod build;
mod download;
mod folder;
mod join;
mod open;
mod place;
mod source;

pub use build::build_remote;
pub use place::RemotePlace;
