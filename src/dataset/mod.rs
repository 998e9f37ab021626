//! Datasets: records in the layout in which they are stored, unconverted, with an index beside them.
//!
//! ```text
//!   ImageFolder, Kaggle, manifests         WebDataset, TFRecord, Parquet, ILSVRC tars, MDS, CIFAR
//!     a file for each record                 ranges of shards, of Parquet also compressed ones
//!          \                                   /
//!           layouts: names, labels and locations of records
//!                          |
//!           build: read, decode, checksum      ("forebay index")
//!                          |
//!           index file: records, classes, digest
//!                          |
//!   Part: record id -> label, size, bytes      (read through the store, checksum verified)
//!                          |
//!   Dataset: one part, or several that are mixed: their records one after the other, classes joined by name
//! ```
//!
//! Files and members that are no records, such as a README in a tar or a link to nothing, are skipped and
//! counted, up to a share ([`MAX_SKIPPED`]).
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
mod mix;
mod options;
mod part;
mod reader;
mod remote;
mod stuck;
mod summary;
mod suspicions;
mod unpack;

pub use build::{MAX_SKIPPED, Progress, build, build_with};
pub use error::DatasetError;
pub use index::Record;
pub use layouts::{Skipped, index_path, with_split};
pub use options::{IndexOptions, LabelSource};
pub use part::Part;
pub use reader::Dataset;
pub use remote::{RemotePlace, build_remote};
pub use stuck::MAX_STUCK_READS;
pub(crate) use stuck::StuckRead;
#[cfg(test)]
pub(crate) use stuck::StuckReads;
pub use summary::{BadRecord, ClassCount, Distribution, Summary};
pub(crate) use unpack::Unpacker;

pub(crate) use crate::store::Want;
pub use crate::store::{
    Bucket, Cache, Object, OnFetched, Storage, StorageTotals, StoreError, Traffic,
};
