//! Files mapped into memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::DatasetError;

/// Maps a file.
#[expect(unsafe_code, reason = "a map of a file that somebody else may change")]
pub(super) fn map(path: &Path) -> Result<Mmap, DatasetError> {
    let file = File::open(path).map_err(DatasetError::io("open", path))?;
    // SAFETY: indexes are replaced by a rename and never written in place, so their bytes stay.
    // Shards are the user's: bytes that change under the map are caught by the record's checksum
    // before they are used, and used only as numbers. A shard that is cut while it is mapped ends
    // the process with SIGBUS, as with every program that maps files.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(DatasetError::io("map", path))
}
