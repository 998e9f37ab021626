//! Opens a dataset in a bucket by its index, and checks that its shards are those that were indexed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::error::DatasetError;
use super::super::index::Index;
use super::super::layouts::with_split;
use super::super::part::Part;
use super::super::reader::Dataset;
use super::download::download;
use super::folder::find_optional;
use super::place::RemotePlace;
use super::source::{self, Found};
use crate::store::{RemoteStore, StoreError};

impl Dataset {
    /// Opens a dataset in a bucket. Its index is in `index_dir`, or else beside it in the bucket.
    ///
    /// # Errors
    /// As [`Dataset::open`], and when the bucket does not answer or refuses.
    pub fn open_remote(
        place: &RemotePlace,
        index_dir: Option<&Path>,
    ) -> Result<Self, DatasetError> {
        let found = source::find(place)?;
        let local = index_dir.map(|folder| place.index_path(folder)).filter(|file| file.exists());
        let index = match local {
            Some(file) => Index::open(&file)?,
            None => index_in_bucket(place, index_dir)?,
        };
        check_shards(place, &index, &found)?;
        let (bucket, storage) = (Arc::clone(&place.bucket), Arc::clone(&place.storage));
        let store = RemoteStore::open(bucket, found.shards, storage)?;
        Ok(Self::of(Part::in_bucket(index, store, &place.address())?))
    }
}

/// Reads the index that is beside a dataset in its bucket.
fn index_in_bucket(place: &RemotePlace, index_dir: Option<&Path>) -> Result<Index, DatasetError> {
    let key = place.index_key();
    let found = find_optional(place, std::slice::from_ref(&key))?.pop().flatten();
    let Some(object) = found else {
        let index = index_dir.map(|folder| place.index_path(folder));
        let index = index.unwrap_or_else(|| PathBuf::from(place.url(&key)));
        let path = with_split(&place.address(), place.split.as_deref());
        return Err(DatasetError::NoIndex { path, index });
    };
    // Without a tag, nothing tells whether it is still the same.
    let cache = place.storage.cache().filter(|_| !object.tag.is_empty());
    let Some(cache) = cache else {
        let folder = tempfile::tempdir().map_err(StoreError::io("write", &std::env::temp_dir()))?;
        let file = folder.path().join("index");
        download(&*place.bucket, &object, &file, || {})?;
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
    download(&*place.bucket, &object, temporary.path(), || {})?;
    temporary.persist(&file).map_err(|error| failed(error.error))?;
    Index::open(&file)
}

/// Checks that the shards are those that were indexed.
fn check_shards(place: &RemotePlace, index: &Index, found: &Found) -> Result<(), DatasetError> {
    let Found { folder, shards, .. } = found;
    let names = shards.iter().map(|shard| found.name(shard));
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
