//! The socket at which a server of this host offers shared memory, and its greeting.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// What the path of a server's socket has at its end for the socket of leases.
pub(super) const SUFFIX: &str = ".memory";

/// The first bytes of a greeting.
const MAGIC: &[u8] = b"forebay1";

/// The name of a server or of a connection.
pub(crate) type Name = [u8; 16];

/// Where a server on this host has its socket for leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    socket: PathBuf,
    /// The name that the server must have; `None` if the user named the socket.
    server: Option<Name>,
}

impl Offer {
    /// The socket beside a server's Unix socket.
    pub(crate) fn beside(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(SUFFIX);
        Self { socket: path.into(), server: None }
    }

    /// What a server that is called over TCP says in the headers of a response. Nothing is sent to a socket before it
    /// has the greeting of that server.
    pub(crate) fn from_headers(headers: &http::HeaderMap) -> Option<Self> {
        let socket = headers.get("forebay-memory-socket")?.as_bytes();
        let socket = Path::new(OsStr::from_bytes(socket));
        let digits = headers.get("forebay-memory-server")?.to_str().ok()?;
        let bytes = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32)?;
        let is_valid =
            socket.is_absolute() && socket.as_os_str().as_bytes().ends_with(SUFFIX.as_bytes());
        is_valid.then(|| Self { socket: socket.into(), server: Some(bytes.to_be_bytes()) })
    }

    /// The same socket, at which that server is expected.
    #[cfg(test)]
    pub(crate) fn of_server(self, server: Option<Name>) -> Self {
        Self { server, ..self }
    }

    /// Connects, and reads the greeting: the name of the connection.
    ///
    /// # Errors
    /// When nobody listens there, or it is not that server.
    pub(super) async fn connect(&self) -> io::Result<(UnixStream, Name)> {
        let mut socket = UnixStream::connect(&self.socket).await?;
        let mut greeting = [0; 40];
        socket.read_exact(&mut greeting).await?;
        let (magic, names) = greeting.split_at(MAGIC.len());
        let (server, name) = names.split_at(16);
        if magic != MAGIC || self.server.is_some_and(|expected| server != expected) {
            return Err(io::Error::other("another program listens there"));
        }
        Ok((socket, name.try_into().expect("sixteen bytes")))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn an_offer_names_a_socket_for_shared_memory_and_its_server() {
        let offer = |socket: &str, server: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("forebay-memory-socket", socket.parse().unwrap());
            headers.insert("forebay-memory-server", server.parse().unwrap());
            Offer::from_headers(&headers)
        };
        let digits = "000102030405060708090a0b0c0d0e0f";
        let found = offer("/run/a.sock.memory", digits).unwrap();
        assert_eq!(
            (found.socket.to_str(), found.server.unwrap()[15]),
            (Some("/run/a.sock.memory"), 15)
        );
        for (socket, server) in [
            ("a.sock.memory", digits),
            ("/run/docker.sock", digits),
            ("/a.memory", "00"),
            ("/a.memory", "+"),
        ] {
            assert_eq!(offer(socket, server), None, "{socket} {server}");
        }
        assert_eq!(Offer::from_headers(&HeaderMap::new()), None);
    }
}
