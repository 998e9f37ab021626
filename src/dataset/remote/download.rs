//! Reads whole objects into files.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use forebay_types::file;

use crate::store::{Bucket, Object, StoreError, stopped};

/// Bytes of a request, and requests of an object at the same time.
const RANGE: u64 = 8 << 20;
const REQUESTS: usize = 4;

/// Longest time between two calls of `between`.
const TICK: Duration = Duration::from_millis(100);

/// Bytes that arrived, and where they start.
type Fetched = (u64, Result<Vec<u8>, StoreError>);

/// Tells how a request ended, even if it is dropped without an answer.
struct Fetch {
    sender: SyncSender<Fetched>,
    start: u64,
    dropped: Option<StoreError>,
}

impl Fetch {
    fn end(mut self, result: Result<Vec<u8>, StoreError>) {
        self.dropped = None;
        self.send(result);
    }

    fn send(&self, result: Result<Vec<u8>, StoreError>) {
        // There is room for each request that is sent.
        drop(self.sender.try_send((self.start, result)));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(error) = self.dropped.take() {
            self.send(Err(error));
        }
    }
}

/// Reads an object into a file, several ranges at a time. `between` is called again and again while it waits for the
/// bucket, and may unwind to end that.
///
/// # Errors
/// When the bucket does not answer or refuses, or the file cannot be written.
pub(super) fn download(
    bucket: &dyn Bucket,
    object: &Object,
    path: &Path,
    between: impl Fn(),
) -> Result<(), StoreError> {
    let failed = StoreError::io("write", path);
    let (file, _metadata) = file::open_to_write(path).map_err(io::Error::from).map_err(&failed)?;
    file.set_len(object.size).map_err(&failed)?;
    let step = usize::try_from(RANGE).expect("a small number");
    let starts = (0..object.size).step_by(step);
    let mut left = starts.map(|start| start..object.size.min(start + RANGE));
    let (sender, receiver) = sync_channel(REQUESTS);
    let fetch = |range: Range<u64>| {
        let dropped = Some(stopped(bucket, object));
        let fetch = Fetch { sender: sender.clone(), start: range.start, dropped };
        bucket.fetch(object, range, Box::new(move |result| fetch.end(result)));
    };
    let mut running = left.by_ref().take(REQUESTS).map(&fetch).count();
    while running > 0 {
        between();
        // Never disconnected, because this function has a sender.
        let Ok((start, bytes)) = receiver.recv_timeout(TICK) else { continue };
        file.write_all_at(&bytes?, start).map_err(&failed)?;
        running -= 1;
        running += left.by_ref().take(1).map(&fetch).count();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;
    use crate::store::{OnFetched, Traffic};

    /// A bucket whose threads have ended.
    #[derive(Debug)]
    struct Ended;

    impl Bucket for Ended {
        fn url(&self) -> &'static str {
            "s3://ended"
        }

        fn has_lists(&self) -> bool {
            true
        }

        fn list(&self, _folder: &str) -> Result<Vec<Object>, StoreError> {
            unreachable!()
        }

        fn find(&self, _keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
            unreachable!()
        }

        fn fetch(&self, _object: &Object, _range: Range<u64>, on_fetched: OnFetched) {
            drop(on_fetched);
        }

        fn write(&self, _key: &str, _file: &Path) -> Result<(), StoreError> {
            unreachable!()
        }

        fn traffic(&self) -> Traffic {
            Traffic::default()
        }
    }

    /// A bucket that never answers.
    #[derive(Debug)]
    struct Silent;

    impl Bucket for Silent {
        fn url(&self) -> &'static str {
            "s3://silent"
        }

        fn has_lists(&self) -> bool {
            true
        }

        fn list(&self, _folder: &str) -> Result<Vec<Object>, StoreError> {
            unreachable!()
        }

        fn find(&self, _keys: &[String]) -> Result<Vec<Option<Object>>, StoreError> {
            unreachable!()
        }

        fn fetch(&self, _object: &Object, _range: Range<u64>, on_fetched: OnFetched) {
            std::mem::forget(on_fetched);
        }

        fn write(&self, _key: &str, _file: &Path) -> Result<(), StoreError> {
            unreachable!()
        }

        fn traffic(&self) -> Traffic {
            Traffic::default()
        }
    }

    #[test]
    fn a_download_is_ended_while_the_bucket_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let object = Object { key: "a.tar".to_owned(), size: 1, tag: String::new() };
        let (path, looks) = (folder.path().join("a"), Cell::new(0));
        let between = || {
            looks.set(looks.get() + 1);
            if looks.get() == 3 {
                resume_unwind(Box::new("cancelled"));
            }
        };
        let download = || download(&Silent, &object, &path, between);
        let payload = catch_unwind(AssertUnwindSafe(download)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"cancelled"));
    }

    #[test]
    fn a_request_that_is_dropped_without_an_answer_ends_the_download() {
        let folder = tempfile::tempdir().unwrap();
        let object = Object { key: "a.tar".to_owned(), size: 2 * RANGE, tag: String::new() };
        let error =
            download(&Ended, &object, &folder.path().join("a"), || {}).unwrap_err().to_string();
        assert!(error.contains("read s3://ended/a.tar: the process is shutting down"), "{error}");
    }
}
