//! A file that remembers which plans were the fastest, so that every run uses the same ones.
//!
//! Another plan adds in another order, so its results differ by rounding. Measured times vary, and with them the
//! choice: only what is remembered is ever measured. The first process to measure a convolution decides for all that
//! share the file. It holds a lock meanwhile, so that the ranks of one machine choose alike.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay_types::file;
use serde::{Deserialize, Serialize};

use super::choice::Choice;
use crate::Error;
use crate::checkpoint::replace_file;

/// Name of the file.
const FILE: &str = "conv-plans.json";

/// Name of the file that is locked.
const LOCK: &str = "conv-plans.lock";

/// Maximum size of the file: an entry has about 200 bytes.
const MAX_BYTES: u64 = 64 << 20;

/// Version of the format.
const VERSION: u32 = 1;

/// Maximum time to wait for another process that measures, as long as ranks wait for each other by default. cuDNN compiles some plans.
const PATIENCE: Duration = Duration::from_mins(5);

/// The remembered choices of all GPUs, versions of cuDNN and convolutions that were ever measured.
#[derive(Debug)]
pub(super) struct PlanCache {
    path: PathBuf,
    contents: Contents,
    changed: bool,
    /// Locked while this exists; `None` if the folder cannot be written.
    lock: Option<File>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    plans: BTreeMap<String, Choice>,
}

impl Contents {
    const fn empty() -> Self {
        Self { version: VERSION, plans: BTreeMap::new() }
    }
}

impl PlanCache {
    /// Reads the file of a folder. What cannot be read or written is warned about once, and then does not count.
    pub(super) fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let lock = lock(folder)
            .inspect_err(|problem| {
                tracing::warn!(
                    "no plans of convolutions are measured, because {} cannot be written: {problem}",
                    path.display()
                );
            })
            .ok();
        let contents = read(&path).unwrap_or_else(|problem| {
            tracing::warn!("ignored {}: {problem}", path.display());
            Contents::empty()
        });
        Self { path, contents, changed: false, lock }
    }

    /// Reads the file of a folder, if it can be read, to use what is remembered. Waits for no other process.
    pub(super) fn unlocked(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let contents = read(&path).unwrap_or_else(|_warned_of_by_open| Contents::empty());
        Self { path, contents, changed: false, lock: None }
    }

    /// Whether new choices can be remembered.
    pub(super) const fn is_writable(&self) -> bool {
        self.lock.is_some()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Choice> {
        self.contents.plans.get(key)
    }

    pub(super) fn insert(&mut self, key: String, choice: Choice) {
        self.contents.plans.insert(key, choice);
        self.changed = true;
    }

    /// Writes what is new, and unlocks the file. Returns whether all choices are remembered.
    pub(super) fn close(self) -> bool {
        if !self.changed {
            return true;
        }
        if self.lock.is_none() {
            return false;
        }
        let json = serde_json::to_vec_pretty(&self.contents).map_err(|error| error.to_string());
        let written = json.and_then(|json| {
            replace_file(&self.path, &json).map_err(|error| match error {
                Error::Write { cause, .. } => cause.to_string(),
                other => other.to_string(),
            })
        });
        if let Err(problem) = &written {
            let path = self.path.display();
            tracing::warn!(
                "the first plans that cuDNN proposes are used, because {path} cannot be written: {problem}"
            );
        }
        written.is_ok()
    }
}

fn lock(folder: &Path) -> std::io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(LOCK);
    let (file, _) = file::open_to_write(&path)?;
    let start = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => {
                let problem = format!("{LOCK} has been locked for {} s", PATIENCE.as_secs());
                return Err(std::io::Error::new(ErrorKind::TimedOut, problem));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn read(path: &Path) -> Result<Contents, String> {
    let text = match file::read_to_string(path, MAX_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Contents::empty());
        }
        text => text.map_err(|error| error.to_string())?,
    };
    let contents: Contents = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if contents.version != VERSION {
        return Err(format!("its version is {}, expected {VERSION}", contents.version));
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(engine: i64) -> Choice {
        Choice { engine, knobs: BTreeMap::from([(2, 4), (27, -1)]) }
    }

    #[test]
    fn what_is_remembered_is_read_again_and_other_entries_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        for key in ["one", "two"] {
            let mut cache = PlanCache::open(&inner);
            assert!(cache.is_writable() && cache.get(key).is_none());
            cache.insert(key.to_owned(), choice(7));
            assert!(cache.close());
        }
        let cache = PlanCache::open(&inner);
        assert_eq!([cache.get("one"), cache.get("two")], [Some(&choice(7)); 2]);
    }

    #[test]
    fn a_file_that_is_damaged_or_of_another_version_is_empty_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let valid = r#"{"version": 1, "plans": {"one": {"engine": 3, "knobs": {"2": 4}}}}"#;
        let path = folder.path().join(FILE);
        let remembered = |text: &str| {
            fs::write(&path, text).unwrap();
            PlanCache::open(folder.path()).get("one").cloned()
        };
        assert_eq!(remembered(valid).unwrap().engine, 3);
        let other_version = valid.replace("1, ", "2, ");
        let damaged = valid.replace("\"engine\": 3", "\"engine\": x");
        for text in ["", "{", &other_version, &damaged, &valid[..40]] {
            assert_eq!(remembered(text), None, "{text}");
        }
        let mut cache = PlanCache::open(folder.path());
        cache.insert("one".to_owned(), choice(9));
        assert!(cache.close());
        assert_eq!(PlanCache::open(folder.path()).get("one"), Some(&choice(9)));
    }

    #[test]
    fn a_folder_that_cannot_be_written_remembers_nothing_new() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let mut cache = PlanCache::open(&file.join("below a file"));
        assert!(!cache.is_writable());
        cache.insert("one".to_owned(), choice(1));
        assert!(!cache.close());
    }

    #[test]
    fn a_file_that_cannot_be_replaced_remembers_nothing_new_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(FILE)).unwrap();
        let mut cache = PlanCache::open(folder.path());
        assert!(cache.is_writable());
        cache.insert("one".to_owned(), choice(1));
        assert!(!cache.close());
        assert!(PlanCache::open(folder.path()).close());
    }

    #[test]
    fn another_process_waits_for_the_one_that_measures() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = PlanCache::open(folder.path());
        before.insert("zero".to_owned(), choice(4));
        assert!(before.close());
        let mut first = PlanCache::open(folder.path());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| PlanCache::open(folder.path()).get("one").cloned());
            // What is remembered can be read meanwhile.
            assert_eq!(PlanCache::unlocked(folder.path()).get("zero"), Some(&choice(4)));
            first.insert("one".to_owned(), choice(5));
            assert!(first.close());
            assert_eq!(second.join().unwrap(), Some(choice(5)));
        });
    }
}
