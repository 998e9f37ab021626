//! The sockets that a server listens on: TCP ports and Unix sockets.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::address::{ListenAddress, PeerAddress};
use crate::leases;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Time that another server may take to create its socket in the same folder.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listening sockets of a server.
#[derive(Debug, Default)]
pub struct Listeners {
    tcp: Vec<TcpListener>,
    local: Vec<LocalListener>,
    /// For each of the Unix sockets, the socket for leases, if memory can be shared.
    memory: Vec<LocalListener>,
    /// The socket that is asked first for the next connection, so that none of them keeps another one waiting.
    first: usize,
}

/// A Unix socket, which is removed when dropped.
#[derive(Debug)]
pub(crate) struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

/// A new connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// A connection for leases.
    Memory(UnixStream),
}

impl From<TcpListener> for Listeners {
    fn from(listener: TcpListener) -> Self {
        Self { tcp: vec![listener], ..Self::default() }
    }
}

impl Listeners {
    /// Listens on all addresses. The files of Unix sockets have the permissions `mode`. If `shares_memory`, each of
    /// them gets a second socket for microbatches in shared memory.
    ///
    /// # Errors
    /// When an address is in use or cannot be bound.
    pub async fn bind(
        addresses: &[ListenAddress],
        mode: u32,
        shares_memory: bool,
    ) -> anyhow::Result<Self> {
        let mut listeners = Self::default();
        for address in addresses {
            let context = || format!("cannot listen on {address}");
            match address {
                ListenAddress::Tcp(address) => {
                    listeners.tcp.push(TcpListener::bind(address).await.with_context(context)?);
                }
                ListenAddress::Unix(path) => {
                    let listener = LocalListener::bind(path, mode).with_context(context)?;
                    listeners.local.push(listener);
                    if shares_memory {
                        let beside = leases::path_beside(path);
                        let listener = LocalListener::bind(&beside, mode);
                        let context = || format!("cannot listen on {}", beside.display());
                        listeners.memory.push(listener.with_context(context)?);
                    }
                }
            }
        }
        Ok(listeners)
    }

    /// The addresses, with the ports that the system selected.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> io::Result<Vec<ListenAddress>> {
        let tcp = self.tcp.iter().map(|tcp| Ok(ListenAddress::Tcp(tcp.local_addr()?)));
        let local = self.local.iter().map(|local| Ok(ListenAddress::Unix(local.path.clone())));
        tcp.chain(local).collect()
    }

    /// The first Unix socket that has one for leases.
    pub(crate) fn lending(&self) -> Option<&Path> {
        self.local.first().filter(|_| !self.memory.is_empty()).map(|local| &*local.path)
    }

    /// Waits for the next connection.
    pub(crate) async fn accept(&mut self) -> io::Result<(Accepted, PeerAddress)> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn poll_accept(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(Accepted, PeerAddress)>> {
        let count = self.tcp.len() + self.local.len() + self.memory.len();
        for at in (self.first..self.first + count).map(|at| at % count) {
            let unix = at.saturating_sub(self.tcp.len());
            let memory = unix.saturating_sub(self.local.len());
            let accepted = if let Some(tcp) = self.tcp.get(at) {
                tcp.poll_accept(context).map_ok(|(stream, address)| {
                    (Accepted::Tcp(stream), PeerAddress::Network(address))
                })
            } else if let Some(local) = self.local.get(unix) {
                local.poll_accept(context).map_ok(|(stream, peer)| (Accepted::Unix(stream), peer))
            } else {
                let accepted = self.memory[memory].poll_accept(context);
                accepted.map_ok(|(stream, peer)| (Accepted::Memory(stream), peer))
            };
            if accepted.is_ready() {
                self.first = at + 1;
                return accepted;
            }
        }
        Poll::Pending
    }
}

impl LocalListener {
    /// Creates a socket. One that a dead server left there is replaced.
    pub(crate) fn bind(path: &Path, mode: u32) -> anyhow::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let _lock = lock(folder.unwrap_or(Path::new(".")))?;
        remove_stale(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets these permissions less those of the umask, so that no moment grants more.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            listener: UnixListener::from_std(net::UnixListener::from(socket))?,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        })
    }

    fn poll_accept(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<(UnixStream, PeerAddress)>> {
        self.listener.poll_accept(context).map(|accepted| {
            let (stream, _unnamed) = accepted?;
            let credentials = stream.peer_cred()?;
            // A process of another namespace has the id 0 here.
            let pid = credentials.pid().filter(|pid| *pid > 0);
            Ok((stream, PeerAddress::Process { uid: credentials.uid(), pid }))
        })
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        let metadata = std::fs::symlink_metadata(&self.path);
        // Another server may have replaced it.
        if metadata.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file) {
            // Nothing is left to do if this fails: the next server finds that nobody listens there.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

/// Locks a folder, so that two servers that start at once do not replace each other's socket.
fn lock(folder: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())
        .with_context(|| format!("cannot open its folder {}", folder.display()))?;
    let started = std::time::Instant::now();
    while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)
        == Err(rustix::io::Errno::WOULDBLOCK)
    {
        if started.elapsed() > PATIENCE {
            bail!("another process keeps its folder locked; choose another folder");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // A file system without locks has none to wait for.
    Ok(folder)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("a file that is not a socket has this name; remove it, or choose another path")
        }
        Ok(_) => {}
    }
    match net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
                .context("cannot remove the socket of a server that has ended")
        }
        Err(error) => Err(error).context("cannot find out whether a server listens there"),
        Ok(_) => bail!("another process listens there; stop it, or choose another path"),
    }
}

/// The TCP addresses among addresses.
pub(crate) fn tcp(addresses: &[ListenAddress]) -> impl Iterator<Item = SocketAddr> + '_ {
    addresses.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &Path) -> String {
        format!("{:#}", LocalListener::bind(path, 0o600).unwrap_err())
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        drop(net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed server leaves");
        let listener = LocalListener::bind(&path, 0o600).unwrap();
        assert!(error(&path).contains("another process listens there"), "{}", error(&path));
        net::UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert!(error(&path).contains("not a socket"), "{}", error(&path));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn the_file_has_the_permissions_that_were_chosen() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o666] {
            let path = folder.path().join("a.sock");
            let _listener = LocalListener::bind(&path, mode).unwrap();
            let found = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(found & 0o777, mode);
        }
    }

    #[tokio::test]
    async fn a_socket_that_another_server_created_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let first = LocalListener::bind(&path, 0o600).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = LocalListener::bind(&path, 0o600).unwrap();
        drop(first);
        net::UnixStream::connect(&path).unwrap();
    }
}
