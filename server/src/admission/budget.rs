//! Accounting of buffer memory: the quota of each class of readers, the claims of streams, and the share of a
//! client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Quotas count memory in units of this many bytes, because semaphores count in `u32`.
pub(super) const UNIT: u64 = 4096;

/// Waits for a permit of a semaphore that is never closed.
pub(crate) async fn acquire_permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(semaphore).acquire_owned().await.expect("semaphores of admission are never closed")
}

/// Memory that the readers of a class share. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    units: Arc<Semaphore>,
    total: u32,
}

impl Quota {
    pub(super) fn new(bytes: u64) -> Self {
        let largest = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let total = u32::try_from((bytes / UNIT).max(1)).unwrap_or(u32::MAX).min(largest);
        Self { units: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits for `bytes` of the quota, or for all of it if that is less. Waiters are served in order.
    pub(super) async fn acquire(&self, bytes: u64) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.units).acquire_many_owned(self.units_of(bytes)).await;
        permit.expect("quotas are never closed")
    }

    /// As [`acquire`](Self::acquire), if there is room now.
    pub(super) fn try_acquire(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.units).try_acquire_many_owned(self.units_of(bytes)).ok()
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).map_or(self.total, |units| units.min(self.total))
    }
}

/// Bytes of buffers that streams claim: those of the microbatches that they hold, and at least one
/// microbatch for each stream whose reader is not slow.
#[derive(Debug)]
pub(super) struct BufferBudget {
    limit: u64,
    claimed: Mutex<u64>,
    clients: Mutex<BTreeMap<Arc<str>, Share>>,
    /// Bytes that clients have returned and still have.
    kept: AtomicU64,
    /// Notified when a claim shrinks or ends.
    pub(super) released: Notify,
}

/// What the streams of a client hold.
#[derive(Debug, Default)]
struct Share {
    streams: usize,
    /// Those among them that have not ended.
    running: usize,
    /// Bytes of all microbatches, those that are lent included.
    bytes: u64,
    lent: u64,
}

impl BufferBudget {
    pub(super) fn new(limit: u64) -> Self {
        let (claimed, clients, released) = (Mutex::new(0), Mutex::default(), Notify::new());
        Self { limit, claimed, clients, kept: AtomicU64::new(0), released }
    }

    /// Counts a stream of a client, until [`end`](Self::end) and [`close`](Self::close).
    pub(super) fn open(&self, client: &Arc<str>) {
        let mut clients = self.clients();
        let share = clients.entry(Arc::clone(client)).or_default();
        share.streams += 1;
        share.running += 1;
    }

    /// Counts a stream as ended. What it has is still counted.
    pub(super) fn end(&self, client: &Arc<str>) {
        if let Some(share) = self.clients().get_mut(client) {
            share.running -= 1;
        }
    }

    pub(super) fn close(&self, client: &Arc<str>) {
        let mut clients = self.clients();
        if let Some(share) = clients.get_mut(client) {
            share.streams -= 1;
            if share.streams == 0 {
                clients.remove(client);
            }
        }
    }

    /// Counts bytes that a stream of a client is to hold, unless its streams would hold more than three
    /// quarters of all buffers while other clients have streams. Returns whether they are counted.
    pub(super) fn hold(&self, client: &Arc<str>, bytes: u64) -> bool {
        let mut clients = self.clients();
        let has_others = clients.len() > 1;
        let share = clients.entry(Arc::clone(client)).or_default();
        let held = share.bytes.saturating_add(bytes);
        let granted = !has_others || share.bytes == 0 || held <= self.limit / 4 * 3;
        if granted {
            share.bytes = held;
        }
        granted
    }

    /// Counts bytes that a stream of a client holds as lent. All that is lent or kept is at most half of the buffers,
    /// and a client keeps so much of its share that each of its streams can hold another microbatch: one that the
    /// client needs before it returns others. Returns whether they are counted.
    pub(super) fn lend(&self, client: &Arc<str>, bytes: u64) -> bool {
        let mut clients = self.clients();
        // Under the lock: what becomes kept is counted so before it is no longer counted as lent.
        let kept = bytes.saturating_add(self.kept.load(Ordering::Relaxed));
        let all = clients.values().fold(kept, |sum, share| sum.saturating_add(share.lent));
        let Some(share) = clients.get_mut(client) else { return false };
        let lent = share.lent.saturating_add(bytes);
        let reserved = bytes.saturating_mul(share.running as u64);
        let granted = all <= self.limit / 2 && lent.saturating_add(reserved) <= self.limit / 4 * 3;
        if granted {
            share.lent = lent;
        }
        granted
    }

    /// Counts bytes as kept, by whomever, until [`end_keeping`](Self::end_keeping).
    pub(super) fn keep(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.replace(0, bytes, true);
    }

    pub(super) fn end_keeping(&self, bytes: u64) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
        self.replace(bytes, 0, true);
        self.released.notify_waiters();
    }

    /// Counts bytes that are lent no more.
    pub(super) fn end_loan(&self, client: &Arc<str>, bytes: u64) {
        if let Some(share) = self.clients().get_mut(client) {
            share.lent = share.lent.saturating_sub(bytes);
        }
    }

    /// Counts bytes that a stream of a client holds no more. The caller notifies those that wait.
    pub(super) fn release(&self, client: &Arc<str>, bytes: u64) {
        if let Some(share) = self.clients().get_mut(client) {
            share.bytes = share.bytes.saturating_sub(bytes);
        }
    }

    /// Replaces a claim of `before` bytes by one of `after` bytes, if all claims then fit the limit, or
    /// unconditionally if `force`. Returns whether the claim was replaced.
    pub(super) fn replace(&self, before: u64, after: u64, force: bool) -> bool {
        let mut claimed = self.lock();
        let total = claimed.saturating_sub(before).saturating_add(after);
        let granted = force || total <= self.limit;
        if granted {
            *claimed = total;
        }
        granted
    }

    #[cfg(test)]
    pub(super) fn claimed(&self) -> u64 {
        *self.lock()
    }

    /// A panic cannot leave the shares half-changed, so a poisoned lock is used as it is.
    fn clients(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Share>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic cannot leave the sum half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
