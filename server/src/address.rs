//! Addresses: those that a server listens on, and those of its peers.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::admission::Origin;

/// Longest path of a Unix socket in bytes, so that the socket for shared memory, whose name is a little
/// longer, has one that the kernel accepts, too.
const MAX_PATH: usize = 100;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A path, at which a socket is created.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Tcp).map_err(|_syntax| {
                "expected an IP address and a port, such as 0.0.0.0:50051, or unix:PATH".to_owned()
            });
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.len() > MAX_PATH || Path::new(path).file_name().is_none() {
            return Err(format!(
                "expected unix:PATH, with the path of a file that has 1 to {MAX_PATH} bytes"
            ));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The permissions of a socket's file, in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for SocketMode {
    /// Nobody but the server's own user.
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        let expected = || "expected permissions in octal from 000 to 777, such as 660".to_owned();
        mode.map(Self).ok_or_else(expected)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads one address, or a list of them.
pub(crate) fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<ListenAddress>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let texts = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    };
    let parse = |text: &String| {
        let wrong =
            |expected| serde::de::Error::custom(format!("invalid address {text:?}: {expected}"));
        text.parse().map_err(wrong)
    };
    texts.iter().map(parse).collect()
}

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerAddress {
    /// Over TCP.
    Network(SocketAddr),
    /// A process of this host, over a Unix socket. A process of another namespace has no id here.
    Process { uid: u32, pid: Option<i32> },
}

impl PeerAddress {
    /// The unit of limits.
    pub(crate) fn origin(self) -> Origin {
        match self {
            Self::Network(address) => address.ip().into(),
            Self::Process { uid, .. } => Origin::User(uid),
        }
    }

    /// The name of the host or of the user, which is the same for all of their connections.
    pub(crate) fn host(self) -> String {
        match self {
            Self::Network(address) => address.ip().to_string(),
            Self::Process { uid, .. } => Origin::User(uid).to_string(),
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Process { uid, pid: Some(pid) } => write!(f, "uid {uid}, process {pid}"),
            Self::Process { uid, pid: None } => write!(f, "uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_tcp_or_paths() {
        for (text, shown) in [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("[::1]:7", "[::1]:7"),
            ("unix:/run/forebay.sock", "unix:/run/forebay.sock"),
            ("unix:///run/forebay.sock", "unix:/run/forebay.sock"),
            ("unix:a.sock", "unix:a.sock"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        let long = format!("unix:/{}", "x".repeat(MAX_PATH));
        for text in ["", "localhost:1", "127.0.0.1", "unix:", "unix:/", "unix:..", &long] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains("unix:PATH"), "{text}: {error}");
        }
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!("660".parse(), Ok(SocketMode(0o660)));
        for text in ["", "8", "rw", "1000", "-1"] {
            let error = text.parse::<SocketMode>().unwrap_err();
            assert!(error.contains("such as 660"), "{text}: {error}");
        }
    }

    #[test]
    fn peers_of_one_user_have_one_origin() {
        let [one, other] = [Some(1), None].map(|pid| PeerAddress::Process { uid: 7, pid });
        assert_eq!((one.origin(), one.host()), (other.origin(), other.host()));
        assert_eq!(one.to_string(), "uid 7, process 1");
    }
}
