//! Reads of a dataset that do not return.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::store::StoreError;
use crate::sync::lock;

/// Stuck reads of a dataset at which its other reads are refused. Reads that began before may get stuck
/// as well, one for each worker.
pub const MAX_STUCK_READS: usize = 8;

/// The numbers of the files whose reads are stuck. A file may be there several times.
#[derive(Debug, Default)]
pub(crate) struct StuckReads(Mutex<Vec<u64>>);

impl StuckReads {
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// The time that the next read of a file may take: `timeout`, or a fifth of it while a read of the
    /// dataset is stuck.
    ///
    /// # Errors
    /// When a read of the file is stuck, or too many reads of the dataset are.
    pub(crate) fn patience(&self, file: u64, timeout: Duration) -> Result<Duration, StoreError> {
        let files = lock(&self.0);
        if files.contains(&file) || files.len() >= MAX_STUCK_READS {
            return Err(StoreError::StuckBefore { reads: files.len() });
        }
        Ok(if files.is_empty() { timeout } else { timeout / 5 })
    }

    pub(crate) fn add(self: &Arc<Self>, file: u64) -> StuckRead {
        lock(&self.0).push(file);
        StuckRead { all: Arc::clone(self), file }
    }
}

/// A read that counts as stuck until this is dropped.
#[derive(Debug)]
pub(crate) struct StuckRead {
    all: Arc<StuckReads>,
    file: u64,
}

impl Drop for StuckRead {
    fn drop(&mut self) {
        let mut files = lock(&self.all.0);
        if let Some(index) = files.iter().position(|file| *file == self.file) {
            files.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_with_stuck_reads_has_less_patience_and_at_last_none() {
        let stuck = Arc::new(StuckReads::default());
        let patience = |file| stuck.patience(file, Duration::from_secs(10)).ok();
        assert_eq!(patience(0), Some(Duration::from_secs(10)));
        let mut reads = vec![stuck.add(0), stuck.add(0)];
        assert_eq!(patience(0), None, "the file is not read again");
        assert_eq!(patience(1), Some(Duration::from_secs(2)));
        reads.extend((2..MAX_STUCK_READS as u64).map(|file| stuck.add(file)));
        assert_eq!(patience(99), None, "too many are stuck");
        // One that returns is the sign that others may.
        reads.pop();
        assert_eq!((patience(0), patience(99)), (None, Some(Duration::from_secs(2))));
        reads.clear();
        assert_eq!((patience(0), stuck.count()), (Some(Duration::from_secs(10)), 0));
    }
}
