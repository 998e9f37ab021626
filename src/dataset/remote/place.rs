//! The place of a dataset in a bucket, and that of its index.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::DatasetError;
use super::super::layouts::{split_parts, with_split};
use crate::store::{Bucket, Storage, url_of};

/// A dataset in a bucket.
#[derive(Clone, Debug)]
pub struct RemotePlace {
    /// The bucket.
    pub bucket: Arc<dyn Bucket>,
    /// Its path in the bucket: a folder of shards, a shard, or a pattern that names shards of a folder.
    pub path: String,
    /// The split, if one is selected.
    pub split: Option<String>,
    /// What fetches its records.
    pub storage: Arc<Storage>,
}

impl RemotePlace {
    /// The place of `PATH` or `PATH#SPLIT` in a bucket. As on disk, a path that exists as it is has no split; in an
    /// address of a web server, a `#` always ends the path.
    ///
    /// # Errors
    /// When the bucket does not answer or refuses.
    pub fn find(
        bucket: Arc<dyn Bucket>,
        path: &str,
        storage: Arc<Storage>,
    ) -> Result<Self, DatasetError> {
        let parts = split_parts(path.as_bytes());
        let split = match parts {
            Some((_, split)) if !exists(&*bucket, path)? => Some(split),
            _ => None,
        };
        let path =
            split.and_then(|split| path.strip_suffix(split)?.strip_suffix('#')).unwrap_or(path);
        let (path, split) = (path.trim_matches('/').to_owned(), split.map(str::to_owned));
        Ok(Self { bucket, path, split, storage })
    }

    /// Address of an object.
    pub(super) fn url(&self, key: &str) -> String {
        url_of(&*self.bucket, key)
    }

    /// Address of the dataset without the split, as a path in errors.
    pub(super) fn address(&self) -> PathBuf {
        PathBuf::from(self.url(&self.path))
    }

    /// Key of the index, beside the folder, the shard or the pattern.
    pub(super) fn index_key(&self) -> String {
        index_key(&self.path, self.split.as_deref())
    }

    /// The index file in a folder of indexes.
    pub fn index_path(&self, index_dir: &Path) -> PathBuf {
        let key = self.index_key();
        let name = key.rsplit('/').next().unwrap_or(&key);
        let name = name.trim_end_matches(".forebay");
        let address = with_split(&self.address(), self.split.as_deref());
        let digest = blake3::hash(address.as_os_str().as_encoded_bytes()).to_hex();
        index_dir.join(format!("{name}-{}.forebay", &digest[..8]))
    }

    /// Address of the index in the bucket, beside the dataset.
    pub fn index_url(&self) -> String {
        self.url(&self.index_key())
    }
}

/// Whether a path is an object, or a folder with objects.
fn exists(bucket: &dyn Bucket, path: &str) -> Result<bool, DatasetError> {
    if !bucket.has_lists() {
        return Ok(false);
    }
    let is_object = bucket.find(&[path.to_owned()])?.iter().any(Option::is_some);
    Ok(is_object || !bucket.list(path)?.is_empty())
}

/// Key of the index of a split, beside the folder, the shard or the pattern.
fn index_key(path: &str, split: Option<&str>) -> String {
    let path = path.trim_matches('/');
    let plain = path.replace(['*', '?', '{', '}', '[', ']'], "_");
    let plain = if plain.is_empty() { "root" } else { &plain };
    match split {
        Some(split) => format!("{plain}#{split}.forebay"),
        None => format!("{plain}.forebay"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_beside_what_it_is_of() {
        assert_eq!(index_key("imagenet/train/", None), "imagenet/train.forebay");
        assert_eq!(index_key("a/t-{0..9}.tar", None), "a/t-_0..9_.tar.forebay");
        assert_eq!(index_key("", None), "root.forebay");
        assert_eq!(index_key("imagenet/", Some("val")), "imagenet#val.forebay");
    }
}
