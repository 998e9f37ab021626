//! Files that look like records and cannot be read as such. One of them must not refuse a dataset of a
//! million images, so they are skipped and counted.

use std::io::ErrorKind;

use crate::store::StoreError;

pub(super) const NOT_UTF8: &str = "a name that is not UTF-8 (rename them)";
pub(super) const TOO_LARGE: &str = "more than 1 GiB (shrink or remove them)";
pub(super) const SPARSE: &str =
    "an image that is stored as a sparse file (make the tar without --sparse)";
const NOT_A_FILE: &str = "a pipe, a device or a socket in place of a file";
const NO_TARGET: &str = "a symbolic link whose target does not exist (fix or remove them)";
const DENIED: &str = "no permission to read them";

/// The reason why a file is skipped that cannot be read. `None` for errors that other files may have next:
/// those of a disk, of a network file system, or of a limit of this process.
pub(in crate::dataset) fn reason(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::NotRegular { .. } => Some(NOT_A_FILE),
        StoreError::TooLarge { .. } => Some(TOO_LARGE),
        StoreError::Io { error, path, .. } => match error.kind() {
            ErrorKind::NotFound if path.is_symlink() => Some(NO_TARGET),
            ErrorKind::PermissionDenied => Some(DENIED),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;
    use std::path::Path;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_is_skipped_and_a_failing_disk_is_an_error() {
        let reason = |errno: Errno| reason(&StoreError::io("open", Path::new("x"))(errno.into()));
        assert_eq!(reason(Errno::ACCESS), Some(DENIED));
        assert_eq!(reason(Errno::PERM), Some(DENIED));
        // The file was removed since it was listed.
        assert_eq!(reason(Errno::NOENT), None);
        for errno in [Errno::IO, Errno::STALE, Errno::MFILE, Errno::NOMEM] {
            assert_eq!(reason(errno), None, "{}", Error::from(errno));
        }
    }
}
