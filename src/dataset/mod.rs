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
//! Files and members that are no records, such as a README in a tar or a link to nothing, are skipped and
//! counted, up to a share ([`MAX_SKIPPED`]).
//!
//! Record ids are numbers in dataset order, `0..len`. A record that does not decode is bad. It keeps
//! its id, and the next good record in dataset order is served in its place, as timm does.

mod build;
mod digest;
mod error;
mod index;
mod layouts;
mod reader;
mod stuck;
mod summary;

pub use build::{MAX_SKIPPED, Progress, build, build_skipping};
pub use error::DatasetError;
pub use index::Record;
pub use layouts::{Skipped, index_path};
pub use reader::Dataset;
pub use stuck::MAX_STUCK_READS;
pub(crate) use stuck::StuckRead;
#[cfg(test)]
pub(crate) use stuck::StuckReads;
pub use summary::{BadRecord, ClassCount, Distribution, Summary};

pub use crate::store::StoreError;
