//! The interface behind which the network is. `forebay-remote` implements it for S3, Google Cloud Storage, Azure and
//! HTTPS; the pipeline itself has no network and no async runtime.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use super::error::StoreError;

/// An object of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// Its key in the bucket.
    pub key: String,
    /// Number of its bytes.
    pub size: u64,
    /// What the bucket tells its versions apart by (the `ETag`); empty if the bucket gives none.
    pub tag: String,
}

/// Called once with the bytes of a range. It must not block.
pub type OnFetched = Box<dyn FnOnce(Result<Vec<u8>, StoreError>) + Send>;

/// The requests that a bucket has received, and what they moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests sent, with those that were repeated or hedged.
    pub requests: u64,
    /// Bytes of objects received.
    pub bytes: u64,
    /// Requests that were sent again because one failed.
    pub retries: u64,
    /// Second requests that were sent because the first byte was late.
    pub hedges: u64,
    /// Answers that said to slow down.
    pub throttled: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            bytes: self.bytes + other.bytes,
            retries: self.retries + other.retries,
            hedges: self.hedges + other.hedges,
            throttled: self.throttled + other.throttled,
        }
    }
}

/// Objects behind a network. Requests are repeated and hedged behind this interface, so that an error is final.
pub trait Bucket: fmt::Debug + Send + Sync + 'static {
    /// Its address without credentials, such as `s3://bucket`.
    fn url(&self) -> &str;

    /// Whether it can list its objects. A plain web server cannot.
    fn has_lists(&self) -> bool;

    /// The objects directly in a folder, which is empty for the root and otherwise has no `/` at its end. Objects
    /// in folders below are left out.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses, or has no lists.
    fn list(&self, folder: &str) -> Result<Vec<Object>, StoreError>;

    /// Objects by their keys, all at once; `None` for each that there is not.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses.
    fn find(&self, keys: &[String]) -> Result<Vec<Option<Object>>, StoreError>;

    /// Starts to read a range of an object, which must still have its size and its tag. Does not wait.
    fn fetch(&self, object: &Object, range: Range<u64>, on_fetched: OnFetched);

    /// Writes a file to a key.
    ///
    /// # Errors
    /// When the file cannot be read, or the bucket does not answer or refuses.
    fn write(&self, key: &str, file: &Path) -> Result<(), StoreError>;

    /// Totals since it was opened.
    fn traffic(&self) -> Traffic;
}

/// Address of an object, for people.
pub(crate) fn url_of(bucket: &dyn Bucket, key: &str) -> String {
    format!("{}/{key}", bucket.url())
}

/// Reads a range and waits for it.
///
/// # Errors
/// As the fetch has.
pub(crate) fn read(
    bucket: &dyn Bucket,
    object: &Object,
    range: Range<u64>,
) -> Result<Vec<u8>, StoreError> {
    let (sender, receiver) = sync_channel(1);
    bucket.fetch(object, range, Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap_or_else(|_dropped| Err(stopped(bucket, object)))
}

/// The error of a request that was dropped without an answer.
pub(crate) fn stopped(bucket: &dyn Bucket, object: &Object) -> StoreError {
    StoreError::Remote {
        action: "read",
        url: url_of(bucket, &object.key),
        what: "the process is shutting down".to_owned(),
    }
}
