//! A file system that hangs: a copy of a folder, mounted through FUSE, whose reads can be held.
//!
//! It speaks as much of the kernel's protocol (`linux/fuse.h`, version 7.31) as a reader of files needs.
//! Nothing is cached by the kernel, so that every read comes here.

use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Bytes of the header of a request.
const HEADER: usize = 40;
/// The kernel asks for a buffer of at least 8 KiB and a write, which never comes.
const BUFFER: usize = 1 << 17;
/// Reads bypass the page cache.
const DIRECT_IO: u32 = 1;

/// A mounted copy of a folder.
pub(crate) struct Hanging {
    mounted: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    device: File,
    /// Nothing is answered while this is set, as when a server of files is gone.
    frozen: AtomicBool,
    ended: AtomicBool,
    held: Mutex<Held>,
}

/// Reads of some files that are not answered.
#[derive(Default)]
struct Held {
    name: Option<String>,
    requests: Vec<Request>,
}

#[derive(Clone)]
struct Request {
    opcode: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

/// Whether this process may mount file systems.
pub(crate) fn is_possible() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    Hanging::mount(&source, &target).is_ok()
}

impl Hanging {
    /// Mounts a copy of `source` at `target`, an empty folder.
    pub(crate) fn mount(source: &Path, target: &Path) -> Result<Self, std::io::Error> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open("/dev/fuse")?;
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
        mount("forebay-test", target, "fuse", flags, Some(options.as_c_str()))?;
        let shared = Arc::new(Shared {
            device,
            frozen: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            held: Mutex::default(),
        });
        let mut server = Server { shared: Arc::clone(&shared), nodes: vec![source.to_owned()] };
        let thread = thread::Builder::new().name("fuse".into()).spawn(move || server.run())?;
        Ok(Self { mounted: target.to_owned(), shared, server: Some(thread) })
    }

    /// Answers nothing until [`release`](Self::release).
    pub(crate) fn freeze(&self) {
        self.shared.frozen.store(true, Ordering::SeqCst);
    }

    /// Holds reads of files whose names contain this, until [`release`](Self::release).
    pub(crate) fn hold(&self, name: &str) {
        self.shared.held.lock().unwrap().name = Some(name.to_owned());
    }

    /// Number of reads that are held.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.lock().unwrap().requests.len()
    }

    /// Answers everything again.
    pub(crate) fn release(&self) {
        self.shared.held.lock().unwrap().name = None;
        self.shared.frozen.store(false, Ordering::SeqCst);
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.release();
        unmount(&self.mounted, UnmountFlags::DETACH).ok();
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

struct Server {
    shared: Arc<Shared>,
    /// The path of each node; node 1 is the root.
    nodes: Vec<PathBuf>,
}

impl Server {
    fn run(&mut self) {
        let mut buffer = vec![0; BUFFER];
        while !self.shared.ended.load(Ordering::SeqCst) {
            let released = {
                let mut held = self.shared.held.lock().unwrap();
                if held.name.is_none() { std::mem::take(&mut held.requests) } else { Vec::new() }
            };
            for request in released {
                self.answer(&request);
            }
            if self.shared.frozen.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match (&self.shared.device).read(&mut buffer) {
                Ok(length) => {
                    let request = Request {
                        opcode: u32_at(&buffer, 4),
                        unique: u64_at(&buffer, 8),
                        node: u64_at(&buffer, 16),
                        body: buffer[HEADER..length].to_vec(),
                    };
                    if !self.hold(&request) {
                        self.answer(&request);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_micros(100));
                }
                // A request that was interrupted before it was taken.
                Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(_unmounted) => return,
            }
        }
    }

    fn path(&self, node: u64) -> &Path {
        &self.nodes[usize::try_from(node).unwrap() - 1]
    }

    fn hold(&self, request: &Request) -> bool {
        let mut held = self.shared.held.lock().unwrap();
        let is_held = held.name.as_ref().is_some_and(|name| {
            request.opcode == READ && self.path(request.node).to_string_lossy().contains(name)
        });
        if is_held {
            held.requests.push(request.clone());
        }
        is_held
    }

    fn answer(&mut self, request: &Request) {
        let result = match request.opcode {
            FORGET | BATCH_FORGET | INTERRUPT => return,
            INIT => Ok(init(&request.body)),
            LOOKUP => self.lookup(request),
            GETATTR => attributes_of(self.path(request.node)).map(|attributes| {
                let mut answer = vec![0; 16];
                answer.extend(attributes);
                answer
            }),
            OPEN | OPENDIR => Ok(words(&[0, u64::from(DIRECT_IO)])),
            READ => self.read(request),
            READDIR => self.list(request),
            RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
            _ => Err(Errno::NOSYS),
        };
        let (error, body) = match result {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut answer = u32::try_from(16 + body.len()).unwrap().to_le_bytes().to_vec();
        answer.extend(error.to_le_bytes());
        answer.extend(request.unique.to_le_bytes());
        answer.extend(body);
        // The process that asked may be gone.
        (&self.shared.device).write_all(&answer).ok();
    }

    fn lookup(&mut self, request: &Request) -> Result<Vec<u8>, Errno> {
        let name = request.body.strip_suffix(b"\0").unwrap();
        let path = self.path(request.node).join(OsStr::from_bytes(name));
        let attributes = attributes_of(&path)?;
        let node = self.nodes.iter().position(|known| *known == path).unwrap_or_else(|| {
            self.nodes.push(path);
            self.nodes.len() - 1
        });
        let mut answer = words(&[node as u64 + 1, 0, 0, 0, 0]);
        answer.extend(attributes);
        Ok(answer)
    }

    fn read(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        let (offset, size) = (u64_at(&request.body, 8), u32_at(&request.body, 16));
        let file = File::open(self.path(request.node)).map_err(errno)?;
        let mut bytes = vec![0; size as usize];
        let mut length = 0;
        loop {
            match file.read_at(&mut bytes[length..], offset + length as u64).map_err(errno)? {
                0 => break,
                more => length += more,
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    fn list(&self, request: &Request) -> Result<Vec<u8>, Errno> {
        let (offset, size) = (u64_at(&request.body, 8), u32_at(&request.body, 16) as usize);
        let entries = std::fs::read_dir(self.path(request.node)).map_err(errno)?;
        let mut entries: Vec<_> =
            entries.map(|entry| entry.unwrap()).map(|entry| entry.file_name()).collect();
        entries.sort();
        let mut answer = Vec::new();
        for (number, name) in (1_u64..).zip(&entries).skip(usize::try_from(offset).unwrap()) {
            let length = name.len();
            let is_folder = self.path(request.node).join(name).is_dir();
            // DT_DIR and DT_REG.
            let kind: u64 = if is_folder { 4 } else { 8 };
            let mut entry = words(&[number, number, length as u64 | kind << 32]);
            entry.extend(name.as_bytes());
            entry.resize(entry.len().next_multiple_of(8), 0);
            if answer.len() + entry.len() > size {
                break;
            }
            answer.extend(entry);
        }
        Ok(answer)
    }
}

/// The answer to the first request: the version, and no features.
fn init(body: &[u8]) -> Vec<u8> {
    let (major, minor, readahead, flags) = (7, 31, u32_at(body, 8), 0);
    // 64 requests in the background, of which 48 are congestion.
    let (background, max_write, time_granularity) = (64 | 48 << 16, 1 << 16, 1);
    let fields = [major, minor, readahead, flags, background, max_write, time_granularity];
    let mut answer: Vec<u8> = fields.iter().flat_map(|field: &u32| field.to_le_bytes()).collect();
    answer.resize(64, 0);
    answer
}

fn attributes_of(path: &Path) -> Result<Vec<u8>, Errno> {
    let found: Metadata = std::fs::metadata(path).map_err(errno)?;
    let mut answer = words(&[found.ino(), found.size(), found.size().div_ceil(512), 0, 0, 0]);
    for word in [0, 0, 0, found.mode(), 1, 0, 0, 0, 4096, 0] {
        answer.extend(word.to_le_bytes());
    }
    Ok(answer)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
