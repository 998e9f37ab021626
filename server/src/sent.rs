//! What was handed to HTTP/2 and has not been taken by the peer yet.
//!
//! The task of a call ends once HTTP/2 has queued the end of the response, and a peer that grants no window
//! leaves it there for as long as the connection lives. So what a call holds is released with the last of
//! its bytes, and a peer that does not take them loses the call, then the connection.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::access::Peer;
use crate::stream_reset::StreamReset;

/// Kept with bytes until they are sent. The last one to be dropped releases what the call holds.
#[derive(Debug)]
pub(crate) struct Unsent<H>(Arc<H>, mpsc::Sender<Infallible>);

impl<H> Clone for Unsent<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

/// Ready once every [`Unsent`] of a call has been dropped.
#[derive(Debug)]
pub(crate) struct AllSent(mpsc::Receiver<Infallible>);

/// A token for the bytes of a call, which holds `held` until they are sent.
pub(crate) fn unsent<H>(held: H) -> (Unsent<H>, AllSent) {
    let (token, all_sent) = mpsc::channel(1);
    (Unsent(Arc::new(held), token), AllSent(all_sent))
}

impl AllSent {
    /// Waits until the peer has taken everything. At the end of `patience` the call is reset, and `linger` later
    /// the connection is closed.
    pub(crate) async fn or_close(
        mut self,
        patience: impl Future<Output = ()>,
        linger: Duration,
        reset: Option<StreamReset>,
        peer: &Peer,
    ) {
        tokio::select! {
            _all_sent = self.0.recv() => return,
            () = patience => {}
        }
        reset.inspect(StreamReset::reset);
        if timeout(linger, self.0.recv()).await.is_err() {
            peer.close();
        }
    }
}

/// Bytes with the token of their call.
#[derive(Debug)]
pub(crate) struct UnsentBytes<H> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) _unsent: Unsent<H>,
}

impl<H> AsRef<[u8]> for UnsentBytes<H> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
