//! The peer of a connection, and the calls that it makes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The peer of a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    /// Identity of its certificate, if it had to present one.
    pub(super) certificate: Option<Arc<str>>,
    /// Number of its authenticated calls in progress.
    calls: watch::Sender<usize>,
}

impl Caller {
    pub(crate) fn new(address: SocketAddr, certificate: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { address, certificate, calls: watch::Sender::new(0) })
    }

    /// Counts a call as in progress until the guard is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> CallGuard {
        self.calls.send_modify(|calls| *calls += 1);
        CallGuard(Arc::clone(self))
    }

    /// Waits until no call has been in progress for `patience`.
    pub(crate) async fn wait_until_idle(&self, patience: Duration) {
        let mut calls = self.calls.subscribe();
        loop {
            // Cannot fail: the sender lives as long as `self`.
            drop(calls.wait_for(|calls| *calls == 0).await);
            if timeout(patience, calls.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct CallGuard(Arc<Caller>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}
