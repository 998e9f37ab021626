//! Datasets in buckets.
//!
//! ```text
//!   place  --source-->  the shards of a folder or a pattern, of one split, and small files beside them
//!   build               each shard is read once, into a file, and indexed there; the parts are joined, and records
//!                       of them selected
//!   open                the index, from a folder or from the bucket; reads by the remote store
//! ```

mod build;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::source::Found;
use super::error::DatasetError;
use super::index::Index;
use super::layouts::with_split;
use super::reader::Dataset;
use crate::store::{Bucket, Object, RemoteStore, Storage, StoreError, url_of};

pub use build::build_remote;

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
    /// Address of an object.
    fn url(&self, key: &str) -> String {
        url_of(&*self.bucket, key)
    }

    /// Address of the dataset without the split, as a path in errors.
    fn address(&self) -> PathBuf {
        PathBuf::from(self.url(&self.path))
    }

    /// Key of the index, beside the folder, the shard or the pattern.
    fn index_key(&self) -> String {
        source::index_key(&self.path, self.split.as_deref())
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

impl Dataset {
    /// Opens a dataset in a bucket. Its index is in `index_dir`, or else beside it in the bucket.
    ///
    /// # Errors
    /// As [`Dataset::open`], and when the bucket does not answer or refuses.
    pub fn open_remote(
        place: &RemotePlace,
        index_dir: Option<&Path>,
    ) -> Result<Self, DatasetError> {
        let Found { folder, shards, .. } = source::find(place)?;
        let local = index_dir.map(|folder| place.index_path(folder)).filter(|file| file.exists());
        let index = match local {
            Some(file) => Index::open(&file)?,
            None => index_in_bucket(place, index_dir)?,
        };
        check_shards(place, &folder, &index, &shards)?;
        let store =
            RemoteStore::open(Arc::clone(&place.bucket), shards, Arc::clone(&place.storage))?;
        Self::in_bucket(index, store, &place.address())
    }
}

/// Reads the index that is beside a dataset in its bucket.
fn index_in_bucket(place: &RemotePlace, index_dir: Option<&Path>) -> Result<Index, DatasetError> {
    let key = place.index_key();
    let found = place.bucket.find(std::slice::from_ref(&key))?.pop().flatten();
    let Some(object) = found else {
        let index = index_dir.map(|folder| place.index_path(folder));
        let index = index.unwrap_or_else(|| PathBuf::from(place.url(&key)));
        return Err(DatasetError::NoIndex { path: place.address(), index });
    };
    let Some(cache) = place.storage.cache() else {
        let folder = tempfile::tempdir().map_err(StoreError::io("write", Path::new("/tmp")))?;
        let file = folder.path().join("index");
        build::download(&*place.bucket, &object, &file)?;
        // It stays mapped after its file is gone.
        return Index::open(&file);
    };
    let folder = cache.folder().join("indexes");
    fs::create_dir_all(&folder).map_err(StoreError::io("write", &folder))?;
    let identity = format!("{} {} {}", place.url(&key), object.size, object.tag);
    let file =
        folder.join(format!("{}.forebay", &blake3::hash(identity.as_bytes()).to_hex()[..32]));
    if file.exists()
        && let Ok(index) = Index::open(&file)
    {
        return Ok(index);
    }
    let failed = StoreError::io("write", &file);
    let temporary = tempfile::Builder::new().prefix(".forebay-").tempfile_in(&folder);
    let temporary = temporary.map_err(&failed)?;
    build::download(&*place.bucket, &object, temporary.path())?;
    temporary.persist(&file).map_err(|error| failed(error.error))?;
    Index::open(&file)
}

/// Checks that the shards are those that were indexed.
fn check_shards(
    place: &RemotePlace,
    folder: &str,
    index: &Index,
    shards: &[Object],
) -> Result<(), DatasetError> {
    let names = shards.iter().map(|shard| source::name_of(&shard.key));
    if !index.shards.iter().map(|(name, _)| name.as_str()).eq(names) {
        let (found, indexed) = (shards.len(), index.shards.len());
        return Err(DatasetError::ShardsChanged { path: place.url(folder).into(), found, indexed });
    }
    for (number, (object, (_, indexed))) in shards.iter().zip(&index.shards).enumerate() {
        let path = PathBuf::from(place.url(&object.key));
        if object.size != *indexed {
            let (found, indexed) = (object.size, *indexed);
            return Err(StoreError::ShardChanged { path, found, indexed }.into());
        }
        let tag = index.tags.get(number).unwrap_or(&object.tag);
        if *tag != object.tag {
            let what = format!("its ETag is {} and was {tag}", object.tag);
            return Err(StoreError::ObjectChanged { url: place.url(&object.key), what }.into());
        }
    }
    Ok(())
}
