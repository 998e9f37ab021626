//! Files mapped into memory.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::DatasetError;

/// Maps a file.
#[expect(unsafe_code, reason = "a map of a file that somebody else may change")]
pub(super) fn map(path: &Path) -> Result<Mmap, DatasetError> {
    let file = File::open(path).map_err(DatasetError::io("open", path))?;
    // SAFETY: indexes are replaced by a rename and never written in place, so their bytes stay; who
    // writes into them or cuts them by hand ends the process. Tars are mapped by `forebay index`
    // alone, while it lists them: bytes that change under it are used only as numbers within bounds,
    // and one that is cut meanwhile ends that command, not a server.
    let map = unsafe { Mmap::map(&file) };
    map.map_err(DatasetError::io("map", path))
}
