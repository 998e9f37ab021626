//! The number of requests at the same time. At first it grows by one for each request that succeeds, from some number on
//! by one for each round of them, and it is halved when a bucket says to slow down: as TCP does. More requests than a
//! round trip has time for only wait in the bucket's line, so that the first phase ends early.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Requests at the same time: at the start, at least, when they grow no longer fast, and at most.
const START: f64 = 64.0;
const LEAST: f64 = 4.0;
const FAST: f64 = 128.0;
const MOST: f64 = 256.0;

/// A number of requests that may be sent at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Limit(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: f64,
    /// The limit up to which it grows fast.
    fast: f64,
    running: usize,
    /// Requests that wait, in the order in which they lined up.
    waiting: VecDeque<oneshot::Sender<Permit>>,
    /// Number of permits so far.
    permits: u64,
    /// Permits up to this number were given before the limit was halved.
    halved_at: u64,
}

/// The permission for one request.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Limit,
    number: u64,
}

/// A place in the line for a permit.
#[derive(Debug)]
pub(crate) struct Turn(oneshot::Receiver<Permit>);

impl Turn {
    /// Waits until the request may be sent.
    pub(crate) async fn permit(self) -> Permit {
        self.0.await.expect("who is in the line holds the limit")
    }
}

impl Limit {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            limit: START,
            fast: FAST,
            running: 0,
            waiting: VecDeque::new(),
            permits: 0,
            halved_at: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines up at once, so that requests are sent in the order in which they were made, on whichever threads their
    /// tasks run: what is needed first was requested first.
    pub(crate) fn line_up(&self) -> Turn {
        let (sender, receiver) = oneshot::channel();
        self.lock().waiting.push_back(sender);
        self.grant();
        Turn(receiver)
    }

    /// Waits until a request may be sent.
    pub(crate) async fn permit(&self) -> Permit {
        self.line_up().permit().await
    }

    /// A permit, if a request may be sent now.
    pub(crate) fn try_permit(&self) -> Option<Permit> {
        self.lock().take().map(|number| Permit { limit: self.clone(), number })
    }

    /// Gives permits to those who wait, as many as there is room for.
    fn grant(&self) {
        loop {
            let mut state = self.lock();
            while state.waiting.pop_front_if(|next| next.is_closed()).is_some() {}
            if state.waiting.is_empty() {
                return;
            }
            let Some(number) = state.take() else { return };
            let next = state.waiting.pop_front();
            drop(state);
            let permit = Permit { limit: self.clone(), number };
            // Who has left the line in this moment gives it back.
            if let Some(next) = next {
                drop(next.send(permit));
            }
        }
    }

    /// Number of requests that may be sent at the same time.
    #[cfg(test)]
    pub(crate) fn most(&self) -> f64 {
        self.lock().limit
    }
}

impl State {
    /// Takes a permit, if there is one, and returns its number.
    fn take(&mut self) -> Option<u64> {
        if self.running as f64 + 1.0 > self.limit {
            return None;
        }
        self.running += 1;
        self.permits += 1;
        Some(self.permits)
    }
}

impl Permit {
    /// The request succeeded.
    pub(crate) fn succeeded(self) {
        let mut state = self.limit.lock();
        let more = if state.limit < state.fast { 1.0 } else { 1.0 / state.limit };
        state.limit = (state.limit + more).min(MOST);
    }

    /// The bucket said to slow down. Requests that were on their way then say it as well, and count once.
    pub(crate) fn throttled(self) {
        let mut state = self.limit.lock();
        if self.number > state.halved_at {
            state.limit = (state.limit / 2.0).max(LEAST);
            state.fast = state.limit;
            state.halved_at = state.permits;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.lock().running -= 1;
        self.limit.grant();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn requests_that_are_throttled_together_halve_the_limit_once() {
        let limit = Limit::new();
        let permits: Vec<Permit> = std::iter::from_fn(|| limit.try_permit()).collect();
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
    fn the_limit_grows_fast_at_first_and_slowly_after_a_bucket_has_said_to_slow_down() {
        let limit = Limit::new();
        let round = || {
            let permits: Vec<Permit> = std::iter::from_fn(|| limit.try_permit()).collect();
            permits.into_iter().for_each(Permit::succeeded);
            limit.most()
        };
        assert_eq!(round().to_bits(), FAST.to_bits());
        let next = round();
        assert!(next > FAST && next < FAST + 2.0, "{next}");
        limit.try_permit().unwrap().throttled();
        let (before, after) = (limit.most(), round());
        assert!(before < FAST && after < before + 2.0, "{before} {after}");
    }

    #[test]
    fn permits_are_given_in_the_order_in_which_requests_lined_up() {
        let limit = Limit::new();
        let first: Vec<Permit> = std::iter::from_fn(|| limit.try_permit()).collect();
        let [a, b, c, d] = [(); 4].map(|()| limit.line_up());
        let mut turns = [d, c, a].map(|turn| Box::pin(turn.permit()));
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |at: usize| turns[at].as_mut().poll(&mut context);
        // One that leaves the line is passed over, whether it has its permit or not.
        drop(b);
        let mut first = first.into_iter();
        let mut end_one = || drop(first.next());
        end_one();
        assert!([poll(0), poll(1)].iter().all(Poll::is_pending));
        let held = poll(2);
        assert!(held.is_ready());
        end_one();
        let granted = limit.line_up();
        assert!(poll(0).is_pending() && poll(1).is_ready());
        end_one();
        assert!(poll(0).is_ready());
        end_one();
        drop(granted);
        assert!(limit.try_permit().is_some());
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
