//! Replacements for DNS and TCP, for tests.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

/// Sends requests to one server. A status with a source stands for a broken connection, a status
/// without one is the server's answer.
pub type Connection = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

type Resolve = dyn Fn(String) -> Lookup + Send + Sync;
type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;
type Connect = dyn Fn(&str) -> Connection + Send + Sync;

/// Replacements for parts of the network. The default is the real network.
#[derive(Clone, Default)]
pub struct Network {
    resolve: Option<Arc<Resolve>>,
    connect: Option<Arc<Connect>>,
    pub(crate) seed: Option<u64>,
}

impl Network {
    /// Resolves `host:port` of `dns+` endpoints with this function instead of the system's resolver.
    #[must_use]
    pub fn resolver<F, L>(mut self, lookup: F) -> Self
    where
        F: Fn(String) -> L + Send + Sync + 'static,
        L: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        self.resolve = Some(Arc::new(move |host| Box::pin(lookup(host))));
        self
    }

    /// Connects to a server, given its URL, with this function instead of over TCP.
    #[must_use]
    pub fn connector<F>(mut self, connect: F) -> Self
    where
        F: Fn(&str) -> Connection + Send + Sync + 'static,
    {
        self.connect = Some(Arc::new(connect));
        self
    }

    /// Draws the random part of backoffs from this seed. It does not influence the data.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Resolves `host:port`.
    pub(crate) async fn lookup(&self, host: String) -> io::Result<Vec<SocketAddr>> {
        match &self.resolve {
            Some(resolve) => resolve(host).await,
            None => Ok(tokio::net::lookup_host(host).await?.collect()),
        }
    }

    /// Connects with the replacement, if there is one.
    pub(crate) fn connection(&self, url: &str) -> Option<Connection> {
        self.connect.as_ref().map(|connect| connect(url))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("resolver", &self.resolve.is_some())
            .field("connector", &self.connect.is_some())
            .field("seed", &self.seed)
            .finish()
    }
}
