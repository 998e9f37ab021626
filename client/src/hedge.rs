//! When to ask another server as well: after a quantile of the recent waits, within a budget.
//!
//! The budget is a part of the microbatches that arrive, so that servers which are all slow, and would
//! all be asked twice, are not.

use std::collections::VecDeque;
use std::time::Duration;

/// Waits that are remembered.
const RECENT: usize = 128;
/// With fewer, nothing is known, and [`UNKNOWN`] is waited.
const FEW: usize = 16;
const UNKNOWN: Duration = Duration::from_secs(10);
/// Hedges that may be saved up, and that there are at the start.
const SAVED: f64 = 4.0;

/// When to ask another server for a microbatch that does not arrive.
#[derive(Clone, Copy, Debug)]
pub struct Hedge {
    /// The quantile of the last 128 waits after which another server is asked as well; 0 never asks.
    /// Until 16 are known it is asked after 10 s. Default 0.95.
    pub quantile: f64,
    /// The least to wait. Default 100 ms.
    pub floor: Duration,
    /// Hedges a microbatch that arrived, at most; 4 can be saved up. One that goes to see whether a
    /// failed server is well again is free. Default 0.05.
    pub budget: f64,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { quantile: 0.95, floor: Duration::from_millis(100), budget: 0.05 }
    }
}

/// Recent waits, and what is left of the budget.
#[derive(Debug)]
pub(crate) struct Hedging {
    policy: Hedge,
    recent: VecDeque<Duration>,
    saved: f64,
}

impl Hedging {
    pub(crate) fn new(policy: Hedge) -> Self {
        Self { policy, recent: VecDeque::with_capacity(RECENT), saved: SAVED }
    }

    /// A microbatch arrived after so long.
    pub(crate) fn note(&mut self, wait: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(wait);
        self.saved = (self.saved + self.policy.budget).min(SAVED);
    }

    /// After how long to ask another server; `None`: never.
    pub(crate) fn delay(&self) -> Option<Duration> {
        let Hedge { quantile, floor, .. } = self.policy;
        if quantile <= 0.0 {
            return None;
        }
        if self.recent.len() < FEW {
            return Some(UNKNOWN.max(floor));
        }
        let mut waits: Vec<_> = self.recent.iter().copied().collect();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number from 0 to RECENT"
        )]
        let at = ((waits.len() as f64 * quantile.min(1.0)) as usize).min(waits.len() - 1);
        let (_, wait, _) = waits.select_nth_unstable(at);
        Some((*wait).max(floor))
    }

    /// Whether a hedge may be sent.
    pub(crate) fn spend(&mut self) -> bool {
        let may = self.saved >= 1.0;
        if may {
            self.saved -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_delay_is_the_quantile_of_the_last_waits_and_not_below_the_floor() {
        let mut hedging = Hedging::new(Hedge { quantile: 0.9, ..Hedge::default() });
        assert_eq!(hedging.delay(), Some(UNKNOWN));
        (0..1000).for_each(|i| hedging.note(ms(5000 + i)));
        (0..128).for_each(|i| hedging.note(ms(500 + i)));
        assert_eq!(hedging.recent.len(), RECENT);
        assert_eq!(hedging.delay(), Some(ms(500 + 115)));
        (0..128).for_each(|_| hedging.note(ms(3)));
        assert_eq!(hedging.delay(), Some(ms(100)));
        let off = Hedging::new(Hedge { quantile: 0.0, ..Hedge::default() });
        assert_eq!(off.delay(), None);
    }

    #[test]
    fn a_fleet_that_is_slow_is_not_asked_twice_for_everything() {
        let mut hedging = Hedging::new(Hedge::default());
        let mut sent = 0;
        for _ in 0..10_000 {
            sent += u32::from(hedging.spend());
            hedging.note(ms(700));
        }
        assert!((490..=505).contains(&sent), "{sent}");
    }
}
