//! The number of requests at the same time. It grows by one for each round of requests that succeed, and is halved
//! when a bucket says to slow down: as TCP does.

use std::sync::Mutex;

use tokio::sync::Notify;

/// Requests at the same time: at the start, at least and at most.
const START: f64 = 64.0;
const LEAST: f64 = 4.0;
const MOST: f64 = 256.0;

/// A number of requests that may be sent at the same time.
#[derive(Debug)]
pub(crate) struct Limit {
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: usize,
    /// Number of permits so far.
    permits: u64,
    /// Permits up to this number were given before the limit was halved.
    halved_at: u64,
}

/// The permission for one request.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limit: &'a Limit,
    number: u64,
}

impl Limit {
    pub(crate) fn new() -> Self {
        let state = State { limit: START, running: 0, permits: 0, halved_at: 0 };
        Self { state: Mutex::new(state), released: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until a request may be sent.
    pub(crate) async fn permit(&self) -> Permit<'_> {
        loop {
            let released = self.released.notified();
            if let Some(permit) = self.try_permit() {
                // The limit may have been raised: then one request that ended makes room for two.
                self.wake();
                return permit;
            }
            released.await;
        }
    }

    /// Wakes the next that waits, if a request may be sent.
    fn wake(&self) {
        let state = self.lock();
        let has_room = state.running as f64 + 1.0 <= state.limit;
        drop(state);
        if has_room {
            self.released.notify_one();
        }
    }

    /// A permit, if a request may be sent now.
    pub(crate) fn try_permit(&self) -> Option<Permit<'_>> {
        let mut state = self.lock();
        if state.running as f64 + 1.0 > state.limit {
            return None;
        }
        state.running += 1;
        state.permits += 1;
        Some(Permit { limit: self, number: state.permits })
    }

    /// Number of requests that may be sent at the same time.
    #[cfg(test)]
    pub(crate) fn most(&self) -> f64 {
        self.lock().limit
    }
}

impl Permit<'_> {
    /// The request succeeded.
    pub(crate) fn succeeded(self) {
        let mut state = self.limit.lock();
        state.limit = (state.limit + 1.0 / state.limit).min(MOST);
    }

    /// The bucket said to slow down. Requests that were on their way then say it as well, and count once.
    pub(crate) fn throttled(self) {
        let mut state = self.limit.lock();
        if self.number > state.halved_at {
            state.limit = (state.limit / 2.0).max(LEAST);
            state.halved_at = state.permits;
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limit.lock().running -= 1;
        self.limit.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn requests_that_are_throttled_together_halve_the_limit_once() {
        let limit = Limit::new();
        let permits: Vec<Permit<'_>> = std::iter::from_fn(|| limit.try_permit()).collect();
        assert_eq!(permits.len(), 64);
        permits.into_iter().for_each(Permit::throttled);
        assert_eq!(limit.most().to_bits(), 32.0_f64.to_bits());
        for _ in 0..10 {
            limit.try_permit().unwrap().throttled();
        }
        assert_eq!(limit.most().to_bits(), LEAST.to_bits());
        // A round of requests that succeed adds about one.
        for _ in 0..4 {
            limit.try_permit().unwrap().succeeded();
        }
        assert!(limit.most() > 4.8 && limit.most() < 5.0, "{}", limit.most());
    }

    #[test]
    fn a_raised_limit_lets_all_go_that_it_has_room_for() {
        let limit = Limit::new();
        limit.lock().limit = 1.0;
        let first = limit.try_permit().unwrap();
        let mut waiting = [(); 3].map(|()| Box::pin(limit.permit()));
        let mut context = Context::from_waker(Waker::noop());
        for permit in &mut waiting {
            assert!(permit.as_mut().poll(&mut context).is_pending());
        }
        limit.lock().limit = 2.0;
        drop(first);
        let mut poll = |at: usize| waiting[at].as_mut().poll(&mut context);
        let permits = [poll(0), poll(1)];
        assert!(permits.iter().all(Poll::is_ready) && poll(2).is_pending());
    }
}
