//! The other end of a connection, and the calls that it makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep_until, timeout};

use crate::address::PeerAddress;
use crate::admission::{Admission, ConnectionBytes, FrameBudget, Limits, Place};
use crate::status::Refusal;

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: PeerAddress,
    /// Whether it is on this host and came over TCP, although shared memory is closer.
    pub(crate) is_same_host: bool,
    /// Identity of its certificate, if it had to present one.
    pub(super) certificate: Option<Arc<str>>,
    /// Number of its authenticated calls in progress.
    calls: watch::Sender<usize>,
    /// Whether it has a certificate, or has made a call that was accepted.
    authenticated: AtomicBool,
    place: Place,
    /// Notified when the peer has not taken the end of a response.
    stalled: Notify,
    pub(crate) frames: Arc<FrameBudget>,
    /// The bytes that the connection holds.
    pub(crate) bytes: Arc<ConnectionBytes>,
}

/// The reason why the server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// It has not authenticated in time.
    Unauthenticated,
    /// Another connection took its place.
    Evicted,
    /// It has had no call in progress for too long.
    Idle,
    /// It has sent too many frames.
    Frames,
    /// It has not taken the end of a response.
    Stalled,
}

impl CloseReason {
    pub(crate) const ALL: [Self; 5] =
        [Self::Unauthenticated, Self::Evicted, Self::Idle, Self::Frames, Self::Stalled];

    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Evicted => "evicted",
            Self::Idle => "idle",
            Self::Frames => "frames",
            Self::Stalled => "stalled",
        }
    }
}

impl Peer {
    /// The peer of a new connection, which is authenticated if it has a certificate.
    pub(crate) fn new(
        address: PeerAddress,
        certificate: Option<Arc<str>>,
        place: Place,
        is_same_host: bool,
        admission: &Admission,
    ) -> Arc<Self> {
        let peer = Self {
            address,
            is_same_host,
            certificate,
            calls: watch::Sender::new(0),
            authenticated: AtomicBool::new(false),
            place,
            stalled: Notify::new(),
            frames: Arc::new(FrameBudget::new()),
            bytes: admission.connection_bytes(address.origin()),
        };
        if let Some(identity) = &peer.certificate {
            // If there is no place, its calls try again and are refused.
            drop(peer.authenticate(Some(identity), &admission.limits));
        }
        Arc::new(peer)
    }

    /// Gives the connection what authenticated ones may have: it has a known token or, where calls need
    /// no identity, has made a valid one.
    ///
    /// # Errors
    /// [`Refusal::TooManyConnections`] if they are too many.
    pub(crate) fn authenticate(
        &self,
        identity: Option<&Arc<str>>,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        if !self.is_authenticated() {
            self.place.authenticate(identity)?;
            self.bytes.set_limit(limits.connection_bytes);
            self.authenticated.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts a call as in progress until the guard is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> CallGuard {
        self.frames.earn_call();
        self.place.begin_call();
        self.calls.send_modify(|calls| *calls += 1);
        CallGuard(Arc::clone(self))
    }

    /// Ends the connection, whose peer has not taken the end of a response.
    pub(crate) fn close(&self) {
        self.stalled.notify_one();
    }

    /// Waits until the connection has to end.
    pub(crate) async fn wait_until_overdue(&self, limits: &Limits) -> CloseReason {
        let unauthenticated = async {
            sleep_until((self.place.accepted + limits.authentication_timeout).into()).await;
            if self.is_authenticated() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = unauthenticated => CloseReason::Unauthenticated,
            () = self.place.evicted() => CloseReason::Evicted,
            () = self.stalled.notified() => CloseReason::Stalled,
            () = self.wait_until_idle(limits.idle_timeout) => CloseReason::Idle,
        }
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

    /// Whether it has a certificate, or has made a call that was accepted.
    fn is_authenticated(&self) -> bool {
        self.authenticated.load(Ordering::Relaxed)
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct CallGuard(Arc<Peer>);

impl CallGuard {
    pub(crate) const fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.place.end_call();
        self.0.calls.send_modify(|calls| *calls -= 1);
    }
}
