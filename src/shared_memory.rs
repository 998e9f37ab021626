//! Memory that other processes can read and nobody but this one can write.
//!
//! An anonymous file is mapped here before it is sealed: this mapping stays writable, and every other one
//! is read-only, no matter which process makes it or how it reopens the file. A reader gets an open file of its
//! own. The kernel counts these, so that this process knows when nobody reads any more, whatever readers
//! say: only then is memory written again, or its bytes counted as free.
//!
//! ```text
//! new ──> fill ──> reader, sent to another process ──> closed there, also by its death ──> is_exclusive
//! ```

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use forebay_types::map::{FileMapMut, LARGE_PAGE};
use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fchmod, fcntl_add_seals,
    ftruncate, memfd_create,
};

use crate::sync::lock;

/// Most parts of shared memory of a process, each of which has a descriptor. More memory is not shared.
pub const MAX_SHARED: usize = 512;

/// `fcntl`'s command for the signal of a lease (`fcntl.h` of Linux), which `libc` does not have.
const F_SETSIG: i32 = 10;

/// Parts of shared memory that exist.
static SHARED: AtomicUsize = AtomicUsize::new(0);

/// Memory that other processes can read.
pub struct SharedMemory {
    map: FileMapMut,
    /// The only open file with write access, as long as there is no writer elsewhere.
    file: OwnedFd,
    /// Whether another process may have an open file. Locked while one is opened and while the kernel is asked, so that
    /// a reader that comes in between is not forgotten.
    lent: Mutex<bool>,
    _counted: Counted,
}

/// Counts one part of shared memory until dropped.
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let one_more = |count: usize| (count < MAX_SHARED).then_some(count + 1);
        SHARED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_before| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SHARED.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SharedMemory {
    /// Zeroed memory of `len` bytes, all of which is allocated.
    ///
    /// # Errors
    /// When the system lacks a part of what this needs, or has no memory left.
    pub fn new(len: usize) -> io::Result<Self> {
        let counted = Counted::new().ok_or_else(|| {
            io::Error::other(format!("{MAX_SHARED} parts of shared memory are in use"))
        })?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know the flag, and later ones may require it.
        let memory = memfd_create("forebay", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_unknown| memfd_create("forebay", flags))?;
        fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
        ftruncate(&memory, len as u64)?;
        // The kernel does not count the file that `memfd_create` returns as one with write access.
        let file = open_again(&memory, OFlags::RDWR)?;
        let map = map(&file, len)?;
        allocate(&file, &map)?;
        ignore_breaks(&file);
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        Ok(Self { map, file, lent: Mutex::new(false), _counted: counted })
    }

    /// Whether this system can share memory in this way: it has sealed memory, `/proc`, and leases of files, by
    /// which is decided whether memory is exclusive.
    pub fn is_supported() -> bool {
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        *SUPPORTED.get_or_init(|| probe().unwrap_or(false))
    }

    /// An open file for a reader, which can map the memory and not write it.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        let mut lent = lock(&self.lent);
        *lent = true;
        open_again(&self.file, OFlags::RDONLY)
    }

    /// Whether no reader has the memory any more, neither as an open file nor mapped.
    pub fn is_exclusive(&self) -> bool {
        let mut lent = lock(&self.lent);
        *lent = *lent && !has_no_other_file(&self.file);
        !*lent
    }
}

/// Whether memory is shared and found to be exclusive again as expected.
fn probe() -> io::Result<bool> {
    let memory = SharedMemory::new(1)?;
    let before = has_no_other_file(&memory.file);
    let reader = memory.reader()?;
    let lent = !memory.is_exclusive();
    let writer = open_again(&reader, OFlags::RDWR);
    let sealed =
        writer.is_err() || writer.is_ok_and(|writer| rustix::io::write(&writer, &[1]).is_err());
    drop(reader);
    Ok(before && lent && sealed && memory.is_exclusive())
}

/// Opens a file once more, so that the kernel counts it on its own.
fn open_again(file: &OwnedFd, access: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())?)
}

#[expect(unsafe_code, reason = "a memory map of a file")]
fn map(file: &OwnedFd, len: usize) -> io::Result<FileMapMut> {
    // SAFETY: the file is new and has this length, which the seals keep; nobody else has a writable mapping
    // of it or can make one after it is sealed, and it is not lent before.
    unsafe { FileMapMut::new(file, len) }
}

/// Allocates all pages of a file, as large pages where the system has them, and maps them here. A reader then has one
/// page fault for each 2 MiB instead of one for each 64 KiB, and this process has none.
fn allocate(file: &OwnedFd, map: &FileMapMut) -> io::Result<()> {
    let len = map.len();
    let large = len - len % LARGE_PAGE;
    // The kernel makes a large page of a range that has at least one small one, whatever is set for shared memory.
    for at in (0..large).step_by(LARGE_PAGE) {
        fallocate(file, FallocateFlags::empty(), at as u64, 1)?;
    }
    // Kernels before 6.1 and systems without large pages refuse; what is missing gets small ones below.
    advise(&map[..large], libc::MADV_COLLAPSE).ok();
    if len > 0 {
        // A page that cannot be allocated is an error here, and would be a signal later.
        fallocate(file, FallocateFlags::empty(), 0, len as u64)?;
        // Kernels before 5.14 refuse; then pages are mapped when they are first written.
        advise(map, libc::MADV_POPULATE_WRITE).ok();
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a call of the C library that has no safe wrapper")]
fn advise(map: &[u8], advice: i32) -> io::Result<()> {
    // SAFETY: the range is mapped memory, and no advice given in this module changes its content.
    let advised = unsafe { libc::madvise(map.as_ptr().cast_mut().cast(), map.len(), advice) };
    if advised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a file is open nowhere else: only then does the kernel grant a lease for writing. The lease is returned at
/// once.
fn has_no_other_file(file: &OwnedFd) -> bool {
    control(file, libc::F_SETLEASE, libc::F_WRLCK) && control(file, libc::F_SETLEASE, libc::F_UNLCK)
}

/// Whoever opens a file while it has a lease breaks that, which the kernel tells by a signal. The default one ends the
/// process, and this one does nothing.
fn ignore_breaks(file: &OwnedFd) {
    // The kernel knows the command, and the signal exists.
    control(file, F_SETSIG, libc::SIGURG);
}

#[expect(unsafe_code, reason = "a call of the C library that has no safe wrapper")]
fn control(file: &OwnedFd, command: i32, argument: i32) -> bool {
    // SAFETY: the descriptor is open, and the commands of this module take a number.
    unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
}

impl Deref for SharedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

impl DerefMut for SharedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes)", self.map.len())
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::map::FileMap;
    use rustix::fs::fcntl_get_seals;

    use super::*;

    #[expect(unsafe_code, reason = "a test")]
    fn read(file: &OwnedFd) -> memmap2::Mmap {
        // SAFETY: the memory is not written while the test reads it.
        unsafe { memmap2::Mmap::map(file).unwrap() }
    }

    #[test]
    fn a_reader_sees_what_is_written_and_cannot_write() {
        let mut memory = SharedMemory::new(10_000).unwrap();
        memory[9_999] = 7;
        let reader = memory.reader().unwrap();
        assert_eq!(read(&reader)[9_999], 7);
        // Whoever owns the file may open it again with any access.
        fchmod(&reader, Mode::RUSR | Mode::WUSR).unwrap();
        let again = open_again(&reader, OFlags::RDWR).unwrap();
        for file in [&reader, &again] {
            assert!(rustix::io::pwrite(file, &[1], 0).is_err());
            assert!(ftruncate(file, 0).is_err() && ftruncate(file, 1 << 20).is_err());
            assert!(
                fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096)
                    .is_err()
            );
            assert!(map(file, 10_000).is_err(), "nobody else has a writable mapping");
            assert!(read(file).make_mut().is_err(), "and a mapping cannot become writable");
            assert!(fcntl_add_seals(file, SealFlags::WRITE).is_err());
        }
        assert!(fcntl_get_seals(&reader).unwrap().contains(SealFlags::SHRINK));
        memory[0] = 8;
        assert_eq!(memory[0], 8, "the first mapping stays writable");
    }

    #[test]
    fn opening_memory_during_a_check_kills_no_process() {
        let memory = SharedMemory::new(5000).unwrap();
        // What a reader may keep of a file that it has closed.
        let closed = open_again(&memory.reader().unwrap(), OFlags::PATH).unwrap();
        assert!(control(&memory.file, libc::F_SETLEASE, libc::F_WRLCK));
        let opened = open_again(&closed, OFlags::RDONLY | OFlags::NONBLOCK);
        assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(control(&memory.file, libc::F_SETLEASE, libc::F_UNLCK));
        let reopened = open_again(&closed, OFlags::RDONLY).unwrap();
        assert!(!memory.is_exclusive());
        drop(reopened);
        assert!(memory.is_exclusive());
    }

    #[test]
    fn a_reader_maps_large_pages_as_one_where_the_system_has_them() {
        let memory = SharedMemory::new(4 * LARGE_PAGE + 5000).unwrap();
        if advise(&memory[..4 * LARGE_PAGE], libc::MADV_COLLAPSE).is_err() {
            // A kernel before 6.1, or one without large pages: everything else is tested with small ones.
            return;
        }
        let reader = memory.reader().unwrap();
        // Other tests of this process map, too, and may take a boundary at times.
        // SAFETY: the memory is not written while the test reads it.
        #[expect(unsafe_code, reason = "a test")]
        let mut maps = (0..16).map(|_| unsafe { FileMap::new(&reader, memory.len()) }.unwrap());
        let map = maps.find(|map| map.as_ptr().addr().is_multiple_of(LARGE_PAGE)).unwrap();
        assert!(map.iter().all(|byte| *byte == 0));
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", map.as_ptr().addr());
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        let mapped = lines.find_map(|line| line.strip_prefix("ShmemPmdMapped:")).unwrap();
        assert_eq!(mapped.split_whitespace().next(), Some("8192"), "KiB");
    }

    #[test]
    fn memory_is_exclusive_once_every_reader_has_closed_and_unmapped_it() {
        assert!(SharedMemory::is_supported());
        let memory = SharedMemory::new(5000).unwrap();
        assert!(memory.is_exclusive());
        let (one, other) = (memory.reader().unwrap(), memory.reader().unwrap());
        assert!(!memory.is_exclusive());
        let map = read(&one);
        drop(one);
        drop(other);
        assert!(!memory.is_exclusive(), "a mapping keeps the file open");
        drop(map);
        assert!(memory.is_exclusive());
    }
}
