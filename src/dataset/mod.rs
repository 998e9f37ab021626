//! Datasets: records in the layout in which they are stored, unconverted, with an index beside them.
//!
//! ```text
//!   ImageFolder  root/class/**/*.JPEG      WebDataset  train-{000000..000009}.tar
//!          \                                   /
//!           layouts: names, labels and locations of records
//!                          |
//!           build: read, decode, checksum      ("forebay index")
//!                          |
//!           index file: records, classes, digest
//!                          |
//!   Dataset: record id -> label, size, bytes   (read through the store, checksum verified)
//! ```
//!
//! Shards may also be objects of a bucket ([`RemotePlace`]). They are indexed one at a time, each as a dataset of its
//! own, so that every layout whose shards stand for themselves can be in a bucket.
//!
//! Record ids are numbers in dataset order, `0..len`. A record that does not decode is bad. It keeps
//! its id, and the next good record in dataset order is served in its place, as timm does.

mod build;
mod digest;
mod error;
mod index;
mod layouts;
mod reader;
mod remote;
mod stuck;
mod summary;

pub use build::{Progress, build};
pub use error::DatasetError;
pub use index::Record;
pub use layouts::{Skipped, index_path};
pub use reader::Dataset;
pub use remote::{RemotePlace, build_remote};
pub use stuck::MAX_STUCK_READS;
pub(crate) use stuck::StuckRead;
#[cfg(test)]
pub(crate) use stuck::StuckReads;
pub use summary::{BadRecord, ClassCount, Distribution, Summary};

pub(crate) use crate::store::Want;
pub use crate::store::{
    Bucket, Cache, Object, OnFetched, Storage, StorageTotals, StoreError, Traffic,
};
