//! Reads of a dataset that do not return.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::store::StoreError;
use crate::sync::lock;

/// Stuck reads of a dataset at which its other reads are refused. Reads that began before may get stuck
/// as well, one for each worker.
pub const MAX_STUCK_READS: usize = 8;

/// The numbers of the files whose reads are stuck. A file may be there several times. Reads from a bucket have none:
/// one that is stuck says nothing about the next, which is another request.
#[derive(Debug, Default)]
pub(crate) struct StuckReads(Mutex<Vec<Option<u64>>>);

impl StuckReads {
    pub(crate) fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// The time that the next read of a file may take: `timeout`, or a fifth of it while a read of the
    /// dataset is stuck. One from a bucket has all of it.
    ///
    /// # Errors
    /// When a read of the file is stuck, or too many reads of the dataset are.
    pub(crate) fn patience(
        &self,
        file: Option<u64>,
        timeout: Duration,
    ) -> Result<Duration, StoreError> {
        let files = lock(&self.0);
        let is_stuck = file.is_some() && files.contains(&file);
        if is_stuck || files.len() >= MAX_STUCK_READS {
            return Err(StoreError::StuckBefore { reads: files.len() });
        }
        // Of a mix, a part in a bucket says nothing about those on disks.
        let is_patient = file.is_none() || files.iter().all(Option::is_none);
        Ok(if is_patient { timeout } else { timeout / 5 })
    }

    pub(crate) fn add(self: &Arc<Self>, file: Option<u64>) -> StuckRead {
        lock(&self.0).push(file);
        StuckRead { all: Arc::clone(self), file }
    }
}

/// A read that counts as stuck until this is dropped.
#[derive(Debug)]
pub(crate) struct StuckRead {
    all: Arc<StuckReads>,
    file: Option<u64>,
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
        let patience = |file| stuck.patience(Some(file), Duration::from_secs(10)).ok();
        assert_eq!(patience(0), Some(Duration::from_secs(10)));
        let mut reads = vec![stuck.add(Some(0)), stuck.add(Some(0))];
        assert_eq!(patience(0), None, "the file is not read again");
        assert_eq!(patience(1), Some(Duration::from_secs(2)));
        reads.extend((2..MAX_STUCK_READS as u64).map(|file| stuck.add(Some(file))));
        assert_eq!(patience(99), None, "too many are stuck");
        // One that returns is the sign that others may.
        reads.pop();
        assert_eq!((patience(0), patience(99)), (None, Some(Duration::from_secs(2))));
        reads.clear();
        assert_eq!((patience(0), stuck.count()), (Some(Duration::from_secs(10)), 0));
    }

    #[test]
    fn a_stuck_read_from_a_bucket_leaves_others_their_time_until_too_many_are() {
        let stuck = Arc::new(StuckReads::default());
        let patience = || stuck.patience(None, Duration::from_secs(10)).ok();
        let mut reads: Vec<StuckRead> = Vec::new();
        while reads.len() < MAX_STUCK_READS {
            assert_eq!(patience(), Some(Duration::from_secs(10)));
            reads.push(stuck.add(None));
        }
        assert_eq!(patience(), None);
        reads.pop();
        assert_eq!(
            (patience(), stuck.count()),
            (Some(Duration::from_secs(10)), MAX_STUCK_READS - 1)
        );
    }
}
