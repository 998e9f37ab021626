//! Gates 8 and 9: concurrent streams, of the server and of each identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Refusal;

/// The streams that a server may have at once.
#[derive(Debug)]
pub(super) struct StreamSlots {
    max: usize,
    slots: Arc<Semaphore>,
    /// Open streams by identity; identities without any are removed.
    by_identity: Mutex<BTreeMap<Arc<str>, usize>>,
}

/// The slot of an open stream, released when dropped.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    slots: Arc<StreamSlots>,
    identity: Arc<str>,
    _permit: OwnedSemaphorePermit,
}

impl StreamSlots {
    pub(super) fn new(max: usize) -> Self {
        // `all_closed` acquires all permits at once, which a semaphore takes as a `u32`.
        let max = max.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Self { max, slots: Arc::new(Semaphore::new(max)), by_identity: Mutex::default() }
    }

    /// Returns a slot, unless the server or the identity is at its limit.
    ///
    /// # Errors
    /// [`Refusal::TooManyStreams`] or [`Refusal::TooManyOfIdentity`], with the delay before a retry.
    pub(super) fn acquire(
        self: &Arc<Self>,
        identity: &Arc<str>,
        max_of_identity: usize,
        retry_after: impl FnOnce() -> Duration,
    ) -> Result<StreamSlot, Refusal> {
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            return Err(Refusal::TooManyStreams { limit: self.max, wait: retry_after() });
        };
        let mut by_identity = self.by_identity();
        let open = by_identity.get(identity).copied().unwrap_or(0);
        if open >= max_of_identity {
            return Err(Refusal::TooManyOfIdentity {
                identity: identity.to_string(),
                limit: max_of_identity,
                wait: retry_after(),
            });
        }
        by_identity.insert(Arc::clone(identity), open + 1);
        let (slots, identity) = (Arc::clone(self), Arc::clone(identity));
        Ok(StreamSlot { slots, identity, _permit: permit })
    }

    pub(super) fn open(&self) -> usize {
        self.max - self.slots.available_permits()
    }

    pub(super) async fn all_closed(&self) {
        let all = u32::try_from(self.max).expect("bounded by `new`");
        drop(self.slots.acquire_many(all).await);
    }

    /// A panic cannot leave the counts half-changed, so a poisoned lock is used as it is.
    fn by_identity(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.by_identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut by_identity = self.slots.by_identity();
        if let Some(open) = by_identity.get_mut(&self.identity) {
            *open -= 1;
            if *open == 0 {
                by_identity.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(3);

    fn acquire(
        slots: &Arc<StreamSlots>,
        identity: &str,
        max: usize,
    ) -> Result<StreamSlot, Refusal> {
        slots.acquire(&identity.into(), max, || WAIT)
    }

    #[test]
    fn an_identity_at_its_limit_is_refused_and_others_are_admitted() {
        let slots = Arc::new(StreamSlots::new(3));
        let first = acquire(&slots, "a", 1).unwrap();
        let refused = acquire(&slots, "a", 1).unwrap_err();
        assert!(matches!(refused, Refusal::TooManyOfIdentity { limit: 1, wait: WAIT, .. }));
        let others = [acquire(&slots, "b", 2).unwrap(), acquire(&slots, "b", 2).unwrap()];
        let refused = acquire(&slots, "c", 1).unwrap_err();
        assert!(matches!(refused, Refusal::TooManyStreams { limit: 3, wait: WAIT }));
        drop((first, others));
        assert_eq!(slots.open(), 0);
        assert!(slots.by_identity().is_empty(), "no identity is remembered without a stream");
        acquire(&slots, "a", 1).unwrap();
    }

    #[tokio::test]
    async fn any_limit_can_be_configured() {
        for max in [0, 1, usize::MAX] {
            let slots = Arc::new(StreamSlots::new(max));
            assert_eq!(acquire(&slots, "a", usize::MAX).is_ok(), max > 0);
            slots.all_closed().await;
        }
    }
}
