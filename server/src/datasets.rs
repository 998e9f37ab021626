//! Opens datasets, by path or by the URL of a bucket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use forebay::dataset::{self, Cache, Dataset, IndexOptions, Progress, Storage, Summary};
use forebay_types::settings::NonZeroByteSize;

use crate::config::{Mix, StorageSettings, is_url};

/// Default for the memory of a command that has no budget.
const READ_AHEAD: u64 = 256 << 20;

/// Opens and indexes datasets: those at a path and, if it was built with the feature `remote`, those at the URL of a
/// bucket. Credentials for buckets are those of the environment.
#[derive(Debug)]
pub struct Datasets {
    index_dir: Option<PathBuf>,
    settings: StorageSettings,
    /// Made for the first dataset in a bucket.
    remote: OnceLock<Remote>,
}

/// What the datasets in buckets share.
#[derive(Debug)]
struct Remote {
    storage: Arc<Storage>,
    #[cfg(feature = "remote")]
    network: Arc<forebay_remote::Network>,
}

impl Datasets {
    pub(crate) const fn new(index_dir: Option<PathBuf>, settings: StorageSettings) -> Self {
        Self { index_dir, settings, remote: OnceLock::new() }
    }

    /// Of indexes in `index_dir`, or else beside the datasets. Datasets in buckets use a cache in the folder
    /// `disk_cache`, if there is one, of at most `disk_cache_bytes`, by default nine tenths of what is free.
    pub fn with_disk_cache(
        index_dir: Option<PathBuf>,
        disk_cache: Option<PathBuf>,
        disk_cache_bytes: Option<NonZeroByteSize>,
    ) -> Self {
        let settings =
            StorageSettings { disk_cache, disk_cache_bytes, ..StorageSettings::default() };
        Self::new(index_dir, settings)
    }

    /// Opens a dataset that has been indexed.
    ///
    /// # Errors
    /// A [`DatasetError`](dataset::DatasetError), or a URL or a cache that cannot be used.
    pub fn open(&self, path: &Path) -> anyhow::Result<Dataset> {
        let index_dir = self.index_dir.as_deref();
        if is_url(path) {
            return self.open_url(path, index_dir);
        }
        Ok(Dataset::open(path, index_dir)?)
    }

    /// Opens datasets that have been indexed, and mixes them.
    pub(crate) fn open_mix(&self, mix: &Mix) -> anyhow::Result<Dataset> {
        let open = |(path, weight): (&Path, f64)| {
            let dataset = self.open(path);
            let of_mix = || format!("cannot open {}, a part of {mix}", path.display());
            let is_mix = mix.parts().len() > 1;
            Ok((if is_mix { dataset.with_context(of_mix)? } else { dataset? }, weight))
        };
        let parts = mix.parts().map(open).collect::<anyhow::Result<_>>()?;
        Ok(Dataset::mix(parts)?)
    }

    /// Indexes a dataset on `threads` threads. `progress` may unwind, which ends it: its files are removed, except for
    /// those of a dataset in a bucket with which the next run goes on.
    ///
    /// # Errors
    /// A [`DatasetError`](dataset::DatasetError), or a URL or a cache that cannot be used.
    pub fn build(
        &self,
        path: &Path,
        threads: usize,
        options: &IndexOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> anyhow::Result<Summary> {
        let index_dir = self.index_dir.as_deref();
        if is_url(path) {
            return self.build_url(path, (index_dir, threads), options, progress);
        }
        Ok(dataset::build_with(path, index_dir, threads, options, progress)?)
    }

    /// The summary of a dataset that was opened by a path, also compared with the other splits of the path.
    pub(crate) fn summary(&self, dataset: &Dataset, path: &Path) -> Summary {
        let mut summary = dataset.summary();
        if !is_url(path) {
            let common = dataset.common_with_other_splits(path, self.index_dir.as_deref());
            summary.suspicious.extend(common);
        }
        summary
    }

    /// The file or object that has the index of a dataset.
    pub(crate) fn index_of(&self, path: &Path) -> anyhow::Result<String> {
        let index_dir = self.index_dir.as_deref();
        if is_url(path) {
            return self.index_of_url(path, index_dir);
        }
        Ok(dataset::index_path(path, index_dir).display().to_string())
    }

    /// What fetches from buckets, if a dataset is in one.
    pub(crate) fn storage(&self) -> Option<&Arc<Storage>> {
        self.remote.get().map(|remote| &remote.storage)
    }

    fn remote(&self) -> anyhow::Result<&Remote> {
        if let Some(remote) = self.remote.get() {
            return Ok(remote);
        }
        let StorageSettings { disk_cache, disk_cache_bytes, read_ahead } = &self.settings;
        let limit = disk_cache_bytes.map(NonZeroByteSize::get);
        let cache = disk_cache.as_deref().map(|folder| open_cache(folder, limit)).transpose()?;
        let bytes = read_ahead.map_or(READ_AHEAD, NonZeroByteSize::get);
        let remote = Remote {
            storage: Arc::new(
                Storage::new(cache, bytes).context("cannot start a thread for buckets")?,
            ),
            #[cfg(feature = "remote")]
            network: forebay_remote::Network::new().context("cannot start threads for buckets")?,
        };
        Ok(self.remote.get_or_init(|| remote))
    }
}

#[cfg(feature = "remote")]
impl Datasets {
    fn place(&self, path: &Path) -> anyhow::Result<dataset::RemotePlace> {
        let Remote { storage, network } = self.remote()?;
        let url = path.to_str().context("the URL is not UTF-8")?;
        let (bucket, path) = forebay_remote::open(network, url)?;
        Ok(dataset::RemotePlace::find(bucket, &path, Arc::clone(storage))?)
    }

    fn open_url(&self, path: &Path, index_dir: Option<&Path>) -> anyhow::Result<Dataset> {
        Ok(Dataset::open_remote(&self.place(path)?, index_dir)?)
    }

    fn build_url(
        &self,
        path: &Path,
        (index_dir, threads): (Option<&Path>, usize),
        options: &IndexOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> anyhow::Result<Summary> {
        Ok(dataset::build_remote(&self.place(path)?, index_dir, threads, options, progress)?)
    }

    fn index_of_url(&self, path: &Path, index_dir: Option<&Path>) -> anyhow::Result<String> {
        let place = self.place(path)?;
        Ok(match index_dir {
            Some(folder) => place.index_path(folder).display().to_string(),
            None => place.index_url(),
        })
    }
}

#[cfg(not(feature = "remote"))]
impl Datasets {
    fn refuse<T>(&self, path: &Path) -> anyhow::Result<T> {
        // A cache that cannot be used is told first, as with the feature.
        self.remote()?;
        anyhow::bail!(
            "{} is in a bucket, and this forebay was built without buckets: build it with --features remote",
            path.display()
        )
    }

    fn open_url(&self, path: &Path, _index_dir: Option<&Path>) -> anyhow::Result<Dataset> {
        self.refuse(path)
    }

    fn build_url(
        &self,
        path: &Path,
        _index_dir_and_threads: (Option<&Path>, usize),
        _options: &IndexOptions,
        _progress: &(dyn Fn(Progress) + Sync),
    ) -> anyhow::Result<Summary> {
        self.refuse(path)
    }

    fn index_of_url(&self, path: &Path, _index_dir: Option<&Path>) -> anyhow::Result<String> {
        self.refuse(path)
    }
}

/// Opens the cache, by default with nine tenths of what is free or its own.
fn open_cache(folder: &Path, limit: Option<u64>) -> anyhow::Result<Cache> {
    let cache = Cache::open(folder, limit.unwrap_or(u64::MAX))?;
    if limit.is_some() {
        return Ok(cache);
    }
    let used = cache.used();
    let of_disk = rustix::fs::statvfs(folder)
        .with_context(|| format!("cannot find out how much is free for {}", folder.display()))?;
    let free = of_disk.f_bavail.saturating_mul(of_disk.f_frsize);
    Ok(cache.with_limit(free.saturating_add(used) / 10 * 9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_takes_by_default_nine_tenths_of_what_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let free = || {
            let of_disk = rustix::fs::statvfs(folder.path()).unwrap();
            of_disk.f_bavail * of_disk.f_frsize
        };
        let (before, limit) = (free(), open_cache(folder.path(), None).unwrap().limit());
        // Others use the disk at the same time.
        assert!(limit <= before.max(free()) && limit >= before.min(free()) / 2, "{limit}");
        assert_eq!(open_cache(folder.path(), Some(7)).unwrap().limit(), 7);
    }
}
