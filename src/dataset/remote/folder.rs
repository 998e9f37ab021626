//! The objects of a folder in a bucket: all of them, where the bucket has lists, and otherwise those that are asked for.

use std::path::PathBuf;

use super::super::error::DatasetError;
use super::place::RemotePlace;
use crate::store::{self, Object, StoreError};

/// A folder in a bucket.
#[derive(Debug)]
pub(super) struct Folder<'p> {
    place: &'p RemotePlace,
    path: String,
    /// The objects directly in it, in the order of their names; `None` of a web server, or if it was not listed.
    objects: Option<Vec<Object>>,
}

impl<'p> Folder<'p> {
    /// A folder, listed if the bucket has lists.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses.
    pub(super) fn open(place: &'p RemotePlace, path: &str) -> Result<Self, DatasetError> {
        let mut objects = None;
        if place.bucket.has_lists() {
            let mut listed = place.bucket.list(path)?;
            listed.sort_unstable();
            objects = Some(listed);
        }
        Ok(Self { place, path: path.to_owned(), objects })
    }

    /// A folder in it, opened as [`open`](Self::open) does.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses.
    pub(super) fn below(&self, name: &str) -> Result<Self, DatasetError> {
        Self::open(self.place, &self.key(name))
    }

    /// A folder in it that is not listed, or itself if the name is empty.
    pub(super) fn at(&self, name: &str) -> Self {
        let path = if name.is_empty() { self.path.clone() } else { self.key(name) };
        Self { place: self.place, path, objects: None }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Address of the folder, as a path in errors.
    pub(super) fn address(&self) -> PathBuf {
        PathBuf::from(self.place.url(&self.path))
    }

    pub(super) const fn is_listed(&self) -> bool {
        self.objects.is_some()
    }

    /// The names of the objects in it that are known, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let name =
            |object: &Object| object.key.rsplit('/').next().unwrap_or(&object.key).to_owned();
        self.objects.iter().flatten().map(name).collect()
    }

    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    /// Objects by their names relative to the folder; `None` for each that there is not.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses.
    pub(super) fn find(&self, names: &[String]) -> Result<Vec<Option<Object>>, DatasetError> {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let known = |key: &String| {
            let objects = self
                .objects
                .as_ref()
                .filter(|_| !key[self.path.len()..].trim_start_matches('/').contains('/'))?;
            let at = objects.binary_search_by(|object| object.key.as_str().cmp(key));
            Some(at.ok().map(|at| objects[at].clone()))
        };
        let mut found: Vec<Option<Option<Object>>> = keys.iter().map(known).collect();
        let unknown = keys.iter().zip(&found).filter(|(_, found)| found.is_none());
        let unknown: Vec<String> = unknown.map(|(key, _)| key.clone()).collect();
        let mut others = find_optional(self.place, &unknown)?.into_iter();
        for found in found.iter_mut().filter(|found| found.is_none()) {
            *found = others.next();
        }
        Ok(found.into_iter().map(Option::flatten).collect())
    }

    /// An object by its name.
    ///
    /// # Errors
    /// When the bucket does not answer, or refuses.
    pub(super) fn get(&self, name: &str) -> Result<Option<Object>, DatasetError> {
        Ok(self.find(&[name.to_owned()])?.pop().flatten())
    }

    /// Objects that must be there.
    ///
    /// # Errors
    /// When one is not, or the bucket does not answer or refuses.
    pub(super) fn need(&self, names: &[String]) -> Result<Vec<Object>, DatasetError> {
        // A web server that denies a shard says more than that it is missing.
        let found = if self.is_listed() {
            self.find(names)?
        } else {
            let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
            self.place.bucket.find(&keys)?
        };
        let object = |(name, object): (&String, Option<Object>)| {
            object.ok_or_else(|| DatasetError::Missing {
                path: self.place.url(&self.key(name)).into(),
            })
        };
        names.iter().zip(found).map(object).collect()
    }

    /// The content of a small object.
    ///
    /// # Errors
    /// When it is larger than the limit, or the bucket does not answer or refuses.
    pub(super) fn read(&self, object: &Object, limit: u64) -> Result<Vec<u8>, DatasetError> {
        if object.size > limit {
            let path = PathBuf::from(self.place.url(&object.key));
            let (bytes, what) = (object.size, "a file beside shards");
            return Err(StoreError::TooLarge { path, bytes, what, limit }.into());
        }
        Ok(store::read_object(&*self.place.bucket, object, 0..object.size)?)
    }
}

/// Objects that there need not be. A web server may deny what it does not have: a public bucket whose list is not
/// public does.
///
/// # Errors
/// When the bucket does not answer, or refuses.
pub(super) fn find_optional(
    place: &RemotePlace,
    keys: &[String],
) -> Result<Vec<Option<Object>>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    match place.bucket.find(keys) {
        Err(StoreError::Denied { .. }) if !place.bucket.has_lists() && keys.len() == 1 => {
            Ok(vec![None])
        }
        Err(StoreError::Denied { .. }) if !place.bucket.has_lists() => {
            let found = keys.iter().map(|key| find_optional(place, std::slice::from_ref(key)));
            Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
        }
        found => found,
    }
}
