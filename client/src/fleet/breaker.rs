//! A circuit breaker, which keeps a failed server from being used.
//!
//! ```text
//! closed -- failure, or late twice in a row --> open: not used until its backoff is over
//!    ^                                           |  ^
//!    |                                           v  | failure: twice the backoff
//!    +------------- something arrived -------- half-open: used by one attempt, the probe
//! ```
//!
//! The first failure opens the circuit, because any other server returns the same bytes, so that
//! avoiding this one costs little. A server that is late once stays in use: it may be slow and not
//! down, and its next step may already be in its caches. A server that is late twice with nothing in
//! between may hang.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::options::Retry;

/// Times that a server may be late in a row until its circuit opens.
const LATE_IN_A_ROW: u32 = 2;

/// The circuit of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaker {
    /// Outages in a row.
    failures: u32,
    /// Times that the server was late since something arrived from it.
    late: u32,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// Attempts that began earlier belong to the outage that opened the circuit.
    since: Instant,
    until: Instant,
    probing: bool,
}

/// Whether a server may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Allowed,
    /// Allowed for one attempt that finds out whether the server works again.
    Probe,
    /// Not before this time.
    NotBefore(Instant),
}

/// State of a server's circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum Circuit {
    /// The server is used.
    Closed,
    /// The server failed, and is not used for a while.
    Open,
    /// The server failed, and is used by one attempt that finds out whether it works again.
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

    /// Whether the server may be used now. If a probe reports neither success nor failure, another
    /// one is allowed after the longest backoff.
    pub(crate) fn admit(&mut self, now: Instant, policy: Retry) -> Admission {
        match &mut self.open {
            None => Admission::Allowed,
            Some(open) if now < open.until => Admission::NotBefore(open.until),
            Some(open) => {
                *open = Open { since: now, until: now + policy.max_backoff, probing: true };
                Admission::Probe
            }
        }
    }

    /// Records that an attempt that started at `started` failed. `jitter` scales the backoff.
    pub(crate) fn failed(&mut self, started: Instant, now: Instant, policy: Retry, jitter: f64) {
        if self.open.is_some_and(|open| started < open.since) {
            return;
        }
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let longest = policy.initial_backoff.saturating_mul(doubled).min(policy.max_backoff);
        self.open = Some(Open { since: now, until: now + longest.mul_f64(jitter), probing: false });
    }

    /// Records that a hedge to another server won against an attempt at this one.
    pub(crate) fn late(&mut self, started: Instant, now: Instant, policy: Retry, jitter: f64) {
        self.late = self.late.saturating_add(1);
        if self.late >= LATE_IN_A_ROW || self.open.is_some() {
            self.failed(started, now, policy, jitter);
        }
    }

    /// Records that the server, which works, asked for a delay.
    pub(crate) fn back_off(&mut self, now: Instant, delay: Duration) {
        let until = self.open.map_or(now, |open| open.until).max(now + delay);
        self.open = Some(Open { since: now, until, probing: false });
    }

    /// Records that something arrived from the server.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Retry = Retry {
        initial_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(1),
        give_up_after: Duration::from_secs(30),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn backoffs_double_up_to_the_maximum_and_one_probe_runs_at_a_time() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        for backoff in [100, 200, 400, 800, 1000, 1000] {
            breaker.failed(now, now, POLICY, 1.0);
            assert_eq!(breaker.circuit(now), Circuit::Open);
            let until = now + ms(backoff);
            assert_eq!(breaker.admit(until - ms(1), POLICY), Admission::NotBefore(until));
            now = until;
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
            assert_eq!(breaker.admit(now, POLICY), Admission::Probe);
            assert_eq!(breaker.admit(now, POLICY), Admission::NotBefore(now + POLICY.max_backoff));
            assert_eq!(breaker.circuit(now), Circuit::HalfOpen);
        }
        assert_eq!(
            breaker.admit(now + POLICY.max_backoff, POLICY),
            Admission::Probe,
            "the first probe was lost"
        );
        breaker.succeeded();
        assert_eq!(breaker.circuit(now), Circuit::Closed);
        assert_eq!(breaker.admit(now, POLICY), Admission::Allowed);
        breaker.failed(now, now, POLICY, 0.5);
        assert_eq!(breaker.admit(now, POLICY), Admission::NotBefore(now + ms(50)));
    }

    #[test]
    fn attempts_that_fail_together_count_as_one_failure() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        for at in 1..9 {
            breaker.failed(now, now + ms(at), POLICY, 1.0);
        }
        assert_eq!(breaker.admit(now + ms(9), POLICY), Admission::NotBefore(now + ms(101)));
    }

    #[test]
    fn a_delay_that_the_server_asks_for_is_kept() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        breaker.back_off(now, ms(2500));
        assert_eq!(breaker.admit(now + ms(2499), POLICY), Admission::NotBefore(now + ms(2500)));
        assert_eq!(breaker.admit(now + ms(2500), POLICY), Admission::Probe);
    }

    #[test]
    fn a_server_that_is_late_twice_in_a_row_is_not_used_and_one_that_is_late_once_is() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..3 {
            breaker.late(now, now, POLICY, 1.0);
            assert_eq!(breaker.circuit(now), Circuit::Closed);
            breaker.succeeded();
        }
        breaker.late(now, now, POLICY, 1.0);
        breaker.late(now, now, POLICY, 1.0);
        assert_eq!(breaker.admit(now, POLICY), Admission::NotBefore(now + ms(100)));
        assert_eq!(breaker.admit(now + ms(100), POLICY), Admission::Probe);
        breaker.late(now + ms(100), now + ms(150), POLICY, 1.0);
        let until = now + ms(150 + 200);
        assert_eq!(breaker.admit(until - ms(1), POLICY), Admission::NotBefore(until), "late probe");
    }
}
