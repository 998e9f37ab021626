//! Maps of files in shared memory that start at the boundary of a large page, if they can.
//!
//! The kernel maps a large page of a file as one, instead of as 512 small ones, where file and address are both at a
//! boundary of two mebibytes. It aligns addresses by itself only where the administrator has turned large pages on for
//! all of shared memory. So a larger range is reserved here and given back, and the kernel is asked to map the file at the
//! boundary in it:
//!
//! ```text
//! free:  |------|======================|-----|
//!               ^ boundary: the file
//! ```

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::ptr::{NonNull, null_mut};

use rustix::fs::fstatfs;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Bytes of a large page where small ones have 4 KiB. Where they have more, maps are aligned for nothing.
pub const LARGE_PAGE: usize = 2 << 20;

/// `HUGETLBFS_MAGIC` of Linux.
const HUGETLBFS: i64 = 0x9584_58f6;

/// A file that is mapped for reading.
pub struct FileMap {
    start: NonNull<u8>,
    len: usize,
}

/// A file that is mapped for reading and writing.
#[derive(Debug)]
pub struct FileMapMut(FileMap);

impl FileMap {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// When the system does not map it, or the file is of hugetlbfs, whose maps are longer than asked for.
    ///
    /// # Safety
    /// Until the map is dropped, the file must have at least `len` bytes, and nobody may write them while they are
    /// read here.
    #[expect(unsafe_code, reason = "a memory map of a file")]
    pub unsafe fn new(file: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: what this needs is what the caller promises.
        unsafe { Self::with(&file, len, ProtFlags::READ) }
    }

    /// # Safety
    /// As for [`new`](Self::new).
    #[expect(unsafe_code, reason = "a memory map of a file")]
    unsafe fn with(file: &impl AsFd, len: usize, access: ProtFlags) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len });
        }
        if fstatfs(file)?.f_type == HUGETLBFS {
            return Err(io::Error::other("a file of hugetlbfs"));
        }
        let reserved = len.checked_add(2 * LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let (none, private) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: the kernel chooses where, so nothing else is there.
        let range = unsafe { mmap_anonymous(null_mut(), reserved, none, private) }?.cast::<u8>();
        let boundary = range.wrapping_add(range.align_offset(LARGE_PAGE));
        // SAFETY: the range was just reserved, and nothing uses it.
        unsafe { munmap(range.cast(), reserved) }?;
        // SAFETY: the boundary is a hint. If another thread has mapped something there meanwhile, the kernel chooses
        // another address: then small pages are mapped, and nothing is overwritten.
        let start = unsafe { mmap(boundary.cast(), len, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    /// Whether processes that are forked from now on inherit the map, which they do unless told otherwise.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    #[expect(unsafe_code, reason = "advice on a memory map")]
    pub fn inherit(&self, is_inherited: bool) -> io::Result<()> {
        if self.len == 0 {
            return Ok(());
        }
        let advice = if is_inherited { Advice::LinuxDoFork } else { Advice::LinuxDontFork };
        // SAFETY: the range is this map, and what it holds does not change.
        Ok(unsafe { madvise(self.start.as_ptr().cast(), self.len, advice) }?)
    }
}

impl FileMapMut {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// When the system does not map it.
    ///
    /// # Safety
    /// Until the map is dropped, the file must have at least `len` bytes, and nobody else may write them, or read
    /// them while they are written here.
    #[expect(unsafe_code, reason = "a memory map of a file")]
    pub unsafe fn new(file: impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: what this needs is what the caller promises.
        unsafe { FileMap::with(&file, len, ProtFlags::READ | ProtFlags::WRITE) }.map(Self)
    }
}

impl Drop for FileMap {
    #[expect(unsafe_code, reason = "the end of a memory map")]
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the range is this map, and every reference to it has ended. This fails only where the kernel has
            // no memory to split a map, which this does not.
            unsafe { munmap(self.start.as_ptr().cast(), self.len) }.ok();
        }
    }
}

impl Deref for FileMap {
    type Target = [u8];

    #[expect(unsafe_code, reason = "the bytes of a memory map")]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is valid for `len` bytes, and by the contract of `new` they are not written while borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Deref for FileMapMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for FileMapMut {
    #[expect(unsafe_code, reason = "the bytes of a memory map")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is writable and valid for `len` bytes, and by the contract of `new` this is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr(), self.0.len) }
    }
}

impl fmt::Debug for FileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMap({} bytes)", self.len)
    }
}

// SAFETY: a map is memory, which any thread may read.
#[expect(unsafe_code, reason = "a pointer is not sent by itself")]
unsafe impl Send for FileMap {}

// SAFETY: a shared reference only reads.
#[expect(unsafe_code, reason = "a pointer is not shared by itself")]
unsafe impl Sync for FileMap {}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[expect(unsafe_code, reason = "a test")]
    #[test]
    fn a_map_starts_at_the_boundary_of_a_large_page_and_has_the_bytes_of_its_file() {
        for len in
            [0, 1, 4096, 4097, LARGE_PAGE - 1, LARGE_PAGE, LARGE_PAGE + 1, 5 * LARGE_PAGE + 77]
        {
            let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
            ftruncate(&file, len as u64).unwrap();
            // SAFETY: the file has this length, and only this test has it.
            let mut map = unsafe { FileMapMut::new(&file, len) }.unwrap();
            assert_eq!(map.len(), len);
            let last = len.saturating_sub(1);
            if let [first, ..] = &mut map[..] {
                *first = 3;
            }
            if len > 1 {
                map[last] = 4;
            }
            drop(map);
            // Other tests of this process map, too, and may take the boundary at times.
            // SAFETY: nobody writes the file any more.
            let maps: Vec<_> =
                (0..16).map(|_| unsafe { FileMap::new(&file, len) }.unwrap()).collect();
            let is_aligned = |map: &&FileMap| map.as_ptr().addr().is_multiple_of(LARGE_PAGE);
            let map = if len == 0 { &maps[0] } else { maps.iter().find(is_aligned).unwrap() };
            assert_eq!(map.first().copied(), (len > 0).then_some(3));
            assert!(len < 2 || map[last] == 4);
            map.inherit(false).unwrap();
        }
    }

    #[expect(unsafe_code, reason = "a test")]
    #[test]
    fn a_file_of_hugetlbfs_is_refused() {
        // A file system, which is there without any page.
        let Ok(file) = memfd_create("test", MemfdFlags::HUGETLB) else { return };
        // SAFETY: nothing is read.
        let refused = unsafe { FileMap::new(&file, 5000) }.unwrap_err();
        assert!(refused.to_string().contains("hugetlbfs"), "{refused}");
    }

    #[expect(unsafe_code, reason = "a test")]
    #[test]
    fn maps_and_failed_maps_give_back_every_address() {
        let ranges = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, 1 << 20).unwrap();
        let nothing = File::open("/dev/null").unwrap();
        let before = ranges();
        for _ in 0..1000 {
            // SAFETY: the file has this length, and nobody writes it.
            drop(unsafe { FileMap::new(&file, 1 << 20) }.unwrap());
            // SAFETY: the bytes of a map that cannot be made are never read.
            assert!(unsafe { FileMap::new(&nothing, 1 << 20) }.is_err());
            // SAFETY: as before.
            assert!(unsafe { FileMap::new(&file, usize::MAX - 4096) }.is_err());
        }
        // Other tests of this process map, too.
        assert!(ranges() < before + 500);
    }
}
