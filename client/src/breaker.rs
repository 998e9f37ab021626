//! When to leave a server alone: a circuit breaker.
//!
//! ```text
//! closed -- failure --> open: not asked until a wait is over --> half-open: asked by one
//!    ^                   ^                                            |          |
//!    |                   +------- failure: twice the wait -----------+          |
//!    +------------------------------- success -----------------------------------+
//! ```
//!
//! The first failure opens it: any other server has the same bytes, so there is nothing to lose.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::Retry;

/// The circuit of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaker {
    /// Outages in a row.
    failures: u32,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Attempts from before are part of the failure that opened it.
    since: Instant,
    until: Instant,
    probing: bool,
}

/// Whether a server may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Yes,
    /// To see whether it is well again.
    Probe,
    /// Not before.
    No(Instant),
}

/// What a server's circuit is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum Circuit {
    /// It is asked.
    Closed,
    /// It failed, and is left alone for a while.
    Open,
    /// It failed, and is asked by one to see whether it is well again.
    HalfOpen,
}

impl fmt::Display for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

impl Breaker {
    pub(crate) fn circuit(&self, now: Instant) -> Circuit {
        match self.open {
            None => Circuit::Closed,
            Some(open) if open.probing || now >= open.until => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
        }
    }

    /// Whether the server may be asked now. A probe that nothing is heard of is followed by another
    /// one after the longest wait.
    pub(crate) fn admit(&mut self, now: Instant, policy: Retry) -> Admission {
        match &mut self.open {
            None => Admission::Yes,
            Some(open) if now < open.until => Admission::No(open.until),
            Some(open) => {
                *open = Open { since: now, until: now + policy.most, probing: true };
                Admission::Probe
            }
        }
    }

    /// An attempt that was begun at `asked` failed. `jitter` is the part of the wait that is taken.
    pub(crate) fn failed(&mut self, asked: Instant, now: Instant, policy: Retry, jitter: f64) {
        if self.open.is_some_and(|open| asked < open.since) {
            return;
        }
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let wait = policy.first.saturating_mul(doubled).min(policy.most).mul_f64(jitter);
        self.open = Some(Open { since: now, until: now + wait, probing: false });
    }

    /// The server asks for a rest. It is well.
    pub(crate) fn rest(&mut self, now: Instant, wait: Duration) {
        let until = self.open.map_or(now, |open| open.until).max(now + wait);
        self.open = Some(Open { since: now, until, probing: false });
    }

    /// Something arrived.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry {
        first: Duration::from_millis(100),
        most: Duration::from_secs(1),
        give_up: Duration::from_secs(30),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_double_to_their_bound_and_one_probe_goes_at_a_time() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for wait in [100, 200, 400, 800, 1000, 1000] {
            breaker.failed(now, now, POLICY, 1.0);
            assert_eq!(breaker.circuit(now), Circuit::Open);
            let until = now + ms(wait);
            assert_eq!(breaker.admit(until - ms(1), POLICY), Admission::No(until));
            now = until;
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
            assert_eq!(breaker.admit(now, POLICY), Admission::Probe);
            assert_eq!(breaker.admit(now, POLICY), Admission::No(now + POLICY.most));
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
        }
        assert_eq!(breaker.admit(now + POLICY.most, POLICY), Admission::Probe, "the probe is lost");
        breaker.succeeded();
        assert_eq!(breaker.circuit(now), Circuit::Closed);
        assert_eq!(breaker.admit(now, POLICY), Admission::Yes);
        breaker.failed(now, now, POLICY, 0.5);
        assert_eq!(breaker.admit(now, POLICY), Admission::No(now + ms(50)));
    }

    #[test]
    fn attempts_that_fail_together_are_one_failure() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        for at in 1..9 {
            breaker.failed(now, now + ms(at), POLICY, 1.0);
        }
        assert_eq!(breaker.admit(now + ms(9), POLICY), Admission::No(now + ms(101)));
    }

    #[test]
    fn a_rest_that_is_asked_for_is_given() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        breaker.rest(now, ms(2500));
        assert_eq!(breaker.admit(now + ms(2499), POLICY), Admission::No(now + ms(2500)));
        assert_eq!(breaker.admit(now + ms(2500), POLICY), Admission::Probe);
    }
}
