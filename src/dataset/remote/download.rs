//! Reads whole objects into files.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use forebay_types::file;

use crate::store::{Bucket, Object, StoreError, url_of};

/// Bytes of a request, and requests of an object at the same time.
const RANGE: u64 = 8 << 20;
const REQUESTS: usize = 4;

/// Reads an object into a file, several ranges at a time.
///
/// # Errors
/// When the bucket does not answer or refuses, or the file cannot be written.
pub(super) fn download(
    bucket: &dyn Bucket,
    object: &Object,
    path: &Path,
) -> Result<(), StoreError> {
    let failed = StoreError::io("write", path);
    let (file, _metadata) = file::open_to_write(path).map_err(io::Error::from).map_err(&failed)?;
    file.set_len(object.size).map_err(&failed)?;
    let step = usize::try_from(RANGE).expect("a small number");
    let starts = (0..object.size).step_by(step);
    let mut left = starts.map(|start| start..object.size.min(start + RANGE));
    let (sender, receiver) = sync_channel::<(u64, Result<Vec<u8>, StoreError>)>(REQUESTS);
    let fetch = |range: Range<u64>| {
        let (sender, start) = (sender.clone(), range.start);
        // There is room for each request that is sent.
        let on_fetched = move |result| drop(sender.try_send((start, result)));
        bucket.fetch(object, range, Box::new(on_fetched));
    };
    let mut running = left.by_ref().take(REQUESTS).map(&fetch).count();
    while running > 0 {
        let stopped = || StoreError::Remote {
            action: "read",
            url: url_of(bucket, &object.key),
            what: "the process is shutting down".to_owned(),
        };
        let (start, bytes) = receiver.recv().map_err(|_dropped| stopped())?;
        file.write_all_at(&bytes?, start).map_err(&failed)?;
        running -= 1;
        running += left.by_ref().take(1).map(&fetch).count();
    }
    Ok(())
}
