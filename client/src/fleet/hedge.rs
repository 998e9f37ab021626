//! Hedges: a late microbatch is requested from another server as well, after a quantile of the recent
//! waits and within a budget.
//!
//! The budget is a fraction of the received microbatches, so that load does not double when all servers
//! are slow.

use std::collections::VecDeque;
use std::time::Duration;

use crate::options::Hedge;

/// Number of waits that are kept.
const RECENT: usize = 128;
/// Number of waits below which their quantile says little, and [`DEFAULT_DELAY`] is used.
const MIN_RECENT: usize = 16;
const DEFAULT_DELAY: Duration = Duration::from_secs(10);
/// Hedges that can be saved up; a stream starts with as many.
const MAX_SAVED: f64 = 4.0;

/// Recent waits, and the rest of the budget.
#[derive(Debug)]
pub(crate) struct HedgeState {
    policy: Hedge,
    recent: VecDeque<Duration>,
    saved: f64,
}

impl HedgeState {
    pub(crate) fn new(policy: Hedge) -> Self {
        Self { policy, recent: VecDeque::with_capacity(RECENT), saved: MAX_SAVED }
    }

    /// Records how long the trainer waited for a microbatch.
    pub(crate) fn record(&mut self, wait: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(wait);
        self.saved = (self.saved + self.policy.budget).min(MAX_SAVED);
    }

    /// The delay after which another server is used; `None` turns hedging off.
    pub(crate) fn delay(&self) -> Option<Duration> {
        let Hedge { quantile, min_delay, .. } = self.policy;
        if quantile <= 0.0 {
            return None;
        }
        if self.recent.len() < MIN_RECENT {
            return Some(DEFAULT_DELAY.max(min_delay));
        }
        let mut waits: Vec<_> = self.recent.iter().copied().collect();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number from 0 to RECENT"
        )]
        let at = ((waits.len() as f64 * quantile.min(1.0)) as usize).min(waits.len() - 1);
        let (_, wait, _) = waits.select_nth_unstable(at);
        Some((*wait).max(min_delay))
    }

    /// Takes a hedge from the budget; false if the budget is used up.
    pub(crate) fn try_spend(&mut self) -> bool {
        let allowed = self.saved >= 1.0;
        if allowed {
            self.saved -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_delay_is_the_quantile_of_recent_waits_and_at_least_the_minimum() {
        let mut hedges = HedgeState::new(Hedge { quantile: 0.9, ..Hedge::default() });
        assert_eq!(hedges.delay(), Some(DEFAULT_DELAY));
        (0..1000).for_each(|i| hedges.record(ms(5000 + i)));
        (0..128).for_each(|i| hedges.record(ms(500 + i)));
        assert_eq!(hedges.recent.len(), RECENT);
        assert_eq!(hedges.delay(), Some(ms(500 + 115)));
        (0..128).for_each(|_| hedges.record(ms(3)));
        assert_eq!(hedges.delay(), Some(ms(100)));
        let off = HedgeState::new(Hedge { quantile: 0.0, ..Hedge::default() });
        assert_eq!(off.delay(), None);
    }

    #[test]
    fn hedges_stay_within_the_budget_when_all_servers_are_slow() {
        let mut hedges = HedgeState::new(Hedge::default());
        let mut sent = 0;
        for _ in 0..10_000 {
            sent += u32::from(hedges.try_spend());
            hedges.record(ms(700));
        }
        assert!((490..=505).contains(&sent), "{sent}");
    }
}
