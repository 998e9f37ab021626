//! Indexes a dataset in a bucket.
//!
//! Each shard is read once, in large ranges, into a file of its own; that file is listed and checked as a local
//! dataset of one shard, and removed. What remains of it is a *part*: the index of that shard. A run that is
//! interrupted leaves its parts, and the next one goes on with the shards that are left. In the end the parts are
//! joined.
//!
//! ```text
//!   shard threads   read a shard -> file -> list and check, on the pool -> part     a few shards at a time
//!   join            parts in the order of the shards -> index -> folder of indexes, or bucket
//! ```

use std::fs::{self, File};
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use forebay_types::file;
use rayon::ThreadPool;
use tempfile::TempPath;

use super::super::build::{self, Progress};
use super::super::error::DatasetError;
use super::super::index::Index;
use super::super::layouts::{self, Listing};
use super::super::options::IndexOptions;
use super::super::reader::Dataset;
use super::super::summary::Summary;
use super::download::download;
use super::join::{join, note_naming};
use super::place::RemotePlace;
use super::source::{self, Found};
use crate::store::{Cache, Object, StoreError};
use crate::sync::lock;

/// Shards that are read at the same time. Each takes its size on disk while it is indexed.
const SHARDS: usize = 4;

/// Indexes a dataset in a bucket on `threads` threads. Without `index_dir` the index is written into the bucket,
/// beside the dataset.
///
/// Shards are stored one after the other in `index_dir`, or else in the folder of the cache, or else in a temporary
/// folder. In the first two cases, a run that is interrupted is continued by the next.
///
/// `progress` is also called again and again while shards are read, by the threads that read them, and may unwind: then
/// all of them end, and this function unwinds with the same payload.
///
/// # Errors
/// As [`build_with`](super::super::build::build_with), and when the bucket does not answer or refuses.
pub fn build_remote(
    place: &RemotePlace,
    index_dir: Option<&Path>,
    threads: usize,
    options: &IndexOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, DatasetError> {
    if index_dir.is_none() && !place.bucket.has_lists() {
        let what = "a web server takes no files; use --index-dir to keep the index in a folder";
        let (url, what) = (place.index_url(), what.to_owned());
        return Err(StoreError::Remote { action: "write", url, what }.into());
    }
    let pool = build::pool(threads)?;
    let found = source::find(place)?;
    let begin = || progress(Progress { done: 0, total: 0 });
    let work = Work::open(place, index_dir, &found, options, &begin)?;
    let parts = index_shards((place, options), &found, &work, &pool, progress)?;
    let file = index_dir.map_or_else(|| work.folder.join("index"), |dir| place.index_path(dir));
    join((place, options), &found, &parts, &file)?;
    if index_dir.is_none() {
        place.bucket.write(&place.index_key(), &file)?;
    }
    drop(parts);
    work.remove();
    Ok(Dataset::open_remote(place, index_dir)?.summary())
}

/// The folder in which shards are stored while they are indexed, and the parts.
struct Work {
    folder: PathBuf,
    /// The folder of the dataset: the small files beside the shards, and those shards that are indexed now.
    root: tempfile::TempDir,
    /// What decides how the shards are read, besides their bytes.
    reading: String,
    /// Whether the bucket tells versions of the small files apart.
    has_tags: bool,
    /// Of a folder that is removed in any case.
    _temporary: Option<tempfile::TempDir>,
    /// Locked, so that no other process works in it.
    _lock: File,
}

impl Work {
    fn open(
        place: &RemotePlace,
        index_dir: Option<&Path>,
        found: &Found,
        options: &IndexOptions,
        between: &dyn Fn(),
    ) -> Result<Self, DatasetError> {
        let parent = index_dir.or(place.storage.cache().map(Cache::folder));
        let (folder, temporary) = if let Some(parent) = parent {
            (place.index_path(parent).with_extension("parts"), None)
        } else {
            let made = tempfile::tempdir();
            let made = made.map_err(StoreError::io("write", &std::env::temp_dir()))?;
            (made.path().to_owned(), Some(made))
        };
        let failed = StoreError::io("write", &folder);
        fs::create_dir_all(&folder).map_err(&failed)?;
        let (lock, _metadata) =
            file::open_to_write(&folder.join("lock")).map_err(io::Error::from).map_err(&failed)?;
        if lock.try_lock().is_err() {
            let why = "another process indexes it: wait until it has ended".to_owned();
            return Err(DatasetError::NotADataset { path: place.address(), why });
        }
        // Shards of a run that was killed.
        for entry in fs::read_dir(&folder).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            if entry.file_name().to_string_lossy().starts_with("shard-") {
                fs::remove_dir_all(entry.path()).map_err(&failed)?;
            }
        }
        drop(failed);
        let root = tempfile::Builder::new().prefix("shard-").tempdir_in(&folder);
        let root = root.map_err(StoreError::io("write", &folder))?;
        for object in &found.beside {
            download(&*place.bucket, object, &root.path().join(found.name(object)), between)?;
        }
        // The records of a part are not selected yet, so that the options for that do not matter.
        let IndexOptions { label, image_column, label_column, label_offset, .. } = options;
        let columns = (image_column, label_column, label_offset);
        // The number is that of what parts hold.
        let reading = format!("2 {label:?} {columns:?} {:?} {:?}", found.split, found.beside);
        let has_tags = found.beside.iter().all(|object| !object.tag.is_empty());
        Ok(Self { folder, root, reading, has_tags, _temporary: temporary, _lock: lock })
    }

    /// Whether a part of a shard is known to be of what the bucket has now.
    fn has_tags(&self, object: &Object) -> bool {
        self.has_tags && !object.tag.is_empty()
    }

    /// Stores a shard in the folder of the dataset, until what is returned is dropped.
    fn store(
        &self,
        place: &RemotePlace,
        object: &Object,
        name: &str,
        between: &dyn Fn(),
    ) -> Result<TempPath, StoreError> {
        let file = self.root.path().join(name);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(StoreError::io("write", parent))?;
        }
        let stored = TempPath::try_from_path(&file).map_err(StoreError::io("write", &file))?;
        download(&*place.bucket, object, &file, between)?;
        Ok(stored)
    }

    /// The part of a shard: a name for each version of each object, and each way to read it.
    fn part(&self, place: &RemotePlace, object: &Object) -> PathBuf {
        let Object { key, size, tag } = object;
        let identity = format!("{} {size} {tag} {}", place.url(key), self.reading);
        let digest = blake3::hash(identity.as_bytes()).to_hex();
        self.folder.join(format!("part-{}", &digest[..32]))
    }

    /// Removes what this module has written.
    fn remove(self) {
        drop(self.root);
        let own = |name: &str| name.starts_with("part-") || name == "lock" || name == "index";
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| own(&entry.file_name().to_string_lossy())) {
            // What cannot be removed is only in the way.
            drop(fs::remove_file(entry.path()));
        }
        drop(fs::remove_dir(&self.folder));
    }
}

/// What unwinds a thread because another one unwinds.
struct Stopped;

/// Ends the other threads if its own unwinds.
struct EndsOthers<'s>(&'s AtomicBool);

impl Drop for EndsOthers<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Indexes each shard that has no part yet. Returns all parts, in order.
fn index_shards(
    (place, options): (&RemotePlace, &IndexOptions),
    found: &Found,
    work: &Work,
    pool: &ThreadPool,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Vec<Index>, DatasetError> {
    let (next, records, bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let all_bytes: u64 = found.shards.iter().map(|shard| shard.size).sum();
    // After an error, the shards that were begun are still indexed; while a thread unwinds, they are not.
    let (stop, unwinds) = (AtomicBool::new(false), AtomicBool::new(false));
    let failure = Mutex::new(None);
    // The total is not known before the last shard was read, and is estimated.
    let report = || {
        if unwinds.load(Ordering::Relaxed) {
            resume_unwind(Box::new(Stopped));
        }
        let (done, read) = (records.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
        let share = if read == 0 { 1.0 } else { read as f64 / all_bytes as f64 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
        progress(Progress { done, total: (done as f64 / share) as u64 });
    };
    let run = || {
        let _ends_others = EndsOthers(&unwinds);
        while !stop.load(Ordering::Relaxed)
            && let Some(object) = found.shards.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let part = work.part(place, object);
            let count = |_: Progress| {
                records.fetch_add(1, Ordering::Relaxed);
                report();
            };
            let known = work.has_tags(object).then(|| Index::open(&part));
            let made = if let Some(Ok(index)) = known {
                records.fetch_add(index.len() as u64, Ordering::Relaxed);
                Ok(())
            } else {
                let progress = (&report as _, &count as _);
                index_shard((place, options), found, object, (work, &part), pool, progress)
            };
            bytes.fetch_add(object.size, Ordering::Relaxed);
            if let Err(error) = made {
                lock(&failure).get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
            }
            report();
        }
    };
    let panics: Vec<_> = thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..SHARDS.min(found.shards.len()) {
            let named = thread::Builder::new().name(format!("shard-{number}"));
            match named.spawn_scoped(scope, run) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    lock(&failure).get_or_insert(DatasetError::Store(StoreError::thread(error)));
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        // The scope itself would replace what a thread panicked with.
        threads.into_iter().filter_map(|thread| thread.join().err()).collect()
    });
    if let Some(panic) = panics.into_iter().find(|panic| !panic.is::<Stopped>()) {
        resume_unwind(panic);
    }
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => found.shards.iter().map(|shard| Index::open(&work.part(place, shard))).collect(),
    }
}

/// Stores a shard beside the small files, and indexes it.
fn index_shard(
    (place, options): (&RemotePlace, &IndexOptions),
    found: &Found,
    object: &Object,
    (work, part): (&Work, &Path),
    pool: &ThreadPool,
    (between, progress): (&dyn Fn(), &(dyn Fn(Progress) + Sync)),
) -> Result<(), DatasetError> {
    let (root, name) = (work.root.path(), found.name(object));
    let _stored = work.store(place, object, name, between)?;
    let split = found.split.as_deref();
    let list = || {
        let source = layouts::of_shards(found.layout, root, vec![name.to_owned()], split)?;
        layouts::list_all(source, options)
    };
    // An error names the file where it was stored.
    let error = |error| in_bucket(error, place, found, root);
    let mut listing = pool.install(list).map_err(error)?;
    // So may a decision.
    let stored = format!("{}/", root.display());
    for (_, value) in &mut listing.about.facts {
        *value = value.replace(&stored, "");
    }
    note_naming(&mut listing);
    // A shard may have nothing that can be used. What counts is all of them together.
    let is_usable = |_: &Listing| Ok(());
    build::write_index(&mut listing, part, pool, is_usable, progress).map_err(error)
}

/// The error of a stored shard, as one of its object.
fn in_bucket(error: DatasetError, place: &RemotePlace, found: &Found, root: &Path) -> DatasetError {
    let address = |path: PathBuf| match path.strip_prefix(root) {
        Ok(name) => PathBuf::from(place.url(&found.folder)).join(name),
        Err(_elsewhere) => path,
    };
    match error {
        DatasetError::Tar { path, offset, what } => {
            DatasetError::Tar { path: address(path), offset, what }
        }
        DatasetError::Sample { path, offset, key, what } => {
            DatasetError::Sample { path: address(path), offset, key, what }
        }
        DatasetError::Classes { path, line, what } => {
            DatasetError::Classes { path: address(path), line, what }
        }
        DatasetError::NotADataset { path, why } => {
            DatasetError::NotADataset { path: address(path), why }
        }
        DatasetError::Shard { path, offset, what } => {
            DatasetError::Shard { path: address(path), offset, what }
        }
        DatasetError::Parquet { path, what } => DatasetError::Parquet { path: address(path), what },
        DatasetError::Description { path, what } => {
            DatasetError::Description { path: address(path), what }
        }
        DatasetError::Columns { path, missing, columns } => {
            DatasetError::Columns { path: address(path), missing, columns }
        }
        DatasetError::EmptyClass { path, expected } => {
            DatasetError::EmptyClass { path: address(path), expected }
        }
        // Its path is the folder.
        DatasetError::Option { path: _, option, layout, fits } => {
            DatasetError::Option { path: place.address(), option, layout, fits }
        }
        error => error,
    }
}
