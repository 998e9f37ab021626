//! Turns of answers, which threads of low priority make: a few at once, and of each owner one.
//!
//! ```text
//!   owner a: [answer] [answer] [answer] ─┐ one of each
//!   owner b: [answer] ───────────────────┴─> [first] [second] ─> made
//! ```
//!
//! Whoever requests many answers waits for their own. Others wait at most for one answer of each owner that
//! came before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::acquire_permit;
use crate::low_priority::LowPriority;

/// The turns of one kind of answer.
#[derive(Debug)]
pub(crate) struct Turns {
    at_once: Arc<Semaphore>,
    /// Owners that wait or have a turn.
    owners: Mutex<BTreeMap<Arc<str>, Weak<Semaphore>>>,
    /// Make the answers, each of which has a turn.
    pub(crate) threads: LowPriority,
}

/// A turn, which ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_owner: OwnedSemaphorePermit,
    _at_once: OwnedSemaphorePermit,
}

impl Turns {
    /// Turns of as many answers at once as there are threads.
    pub(super) fn new(threads: LowPriority) -> Self {
        let at_once = Arc::new(Semaphore::new(threads.count()));
        Self { at_once, owners: Mutex::default(), threads }
    }

    /// Waits for a turn of an owner.
    pub(crate) async fn turn(&self, owner: &Arc<str>) -> Turn {
        let of_owner = acquire_permit(&self.owner(owner)).await;
        Turn { _of_owner: of_owner, _at_once: acquire_permit(&self.at_once).await }
    }

    /// The line of an owner. A panic cannot leave the map half-changed, so a poisoned lock is used as it is.
    fn owner(&self, owner: &Arc<str>) -> Arc<Semaphore> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|_owner, line| line.strong_count() > 0);
        let line = owners.get(owner).and_then(Weak::upgrade);
        line.unwrap_or_else(|| {
            let line = Arc::new(Semaphore::new(1));
            owners.insert(Arc::clone(owner), Arc::downgrade(&line));
            line
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn an_owner_of_many_answers_delays_others_by_one() {
        let turns = Turns::new(LowPriority::new("low", 0, 2));
        let [a, b, c] = ["a", "b", "c"].map(Arc::<str>::from);
        let first = turns.turn(&a).await;
        let mut line: Vec<_> = (0..64).map(|_| Box::pin(turns.turn(&a))).collect();
        for waiting in &mut line {
            assert!(poll(waiting.as_mut()).is_pending(), "an owner has one turn");
        }
        let second = turns.turn(&b).await;
        let mut third = Box::pin(turns.turn(&c));
        assert!(poll(third.as_mut()).is_pending(), "two turns at once");
        drop(second);
        let Poll::Ready(third) = poll(third.as_mut()) else { panic!("the others are before it") };
        drop(first);
        let next = line.remove(0).await;
        drop((third, next, line));
        drop(turns.turn(&a).await);
        let _line = turns.owner(&b);
        assert_eq!(turns.owners.lock().unwrap().len(), 1, "only owners that wait are remembered");
    }
}
