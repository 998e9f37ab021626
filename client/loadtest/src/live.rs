//! What is seen while a run goes on: waits, intervals of a second, and what followed each kill.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::locked;
use crate::report::WaitMs;

/// What happened in an interval, of about a second.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// Its end, in seconds from the run's start.
    pub at: f64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Trainers at its end.
    pub trainers: usize,
    /// Images received.
    pub images: u64,
    /// Waits of the microbatches received; none: no microbatch came.
    pub wait_ms: Option<WaitMs>,
    /// Resident memory of this process.
    pub rss_bytes: u64,
    /// What the servers say of themselves; none: no answer.
    pub servers: Vec<Option<ServerInterval>>,
}

/// What a server did in an interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerInterval {
    /// Images sent.
    pub images: f64,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// Resident memory at its end.
    pub rss_bytes: f64,
}

/// A server killed, and how long it took.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// In seconds from the run's start.
    pub at: f64,
    /// Which server.
    pub server: usize,
    /// Until some trainer had its next microbatch.
    pub next_ms: Option<f64>,
    /// Until every trainer had its next microbatch; none: the phase ended before.
    pub all_next_ms: Option<f64>,
    /// Until the server listened again.
    pub restarted_ms: Option<f64>,
    #[serde(skip)]
    waiting: BTreeSet<u32>,
}

/// Shared by all trainers of a run.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Microseconds, of the phase and of the run.
    phase: Histogram<u64>,
    all: Histogram<u64>,
    /// Of the interval.
    images: u64,
    waits: Histogram<u64>,
    closed: f64,
    trainers: BTreeSet<u32>,
    intervals: Vec<Interval>,
    kills: Vec<Kill>,
}

/// Longer waits count as this, in microseconds: 12 days.
const MOST: u64 = 1 << 40;

/// Three significant digits, growing as needed.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

impl Live {
    pub(crate) fn new() -> Self {
        let state = State {
            phase: histogram(),
            all: histogram(),
            images: 0,
            waits: histogram(),
            closed: 0.0,
            trainers: BTreeSet::new(),
            intervals: Vec::new(),
            kills: Vec::new(),
        };
        Self { start: Instant::now(), state: Mutex::new(state) }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub(crate) fn enter(&self, trainer: u32) {
        locked(&self.state).trainers.insert(trainer);
    }

    pub(crate) fn leave(&self, trainer: u32) {
        let mut state = locked(&self.state);
        state.trainers.remove(&trainer);
        for kill in &mut state.kills {
            kill.waiting.remove(&trainer);
        }
    }

    /// A trainer received a microbatch.
    pub(crate) fn note(&self, trainer: u32, wait: Duration, images: u64) {
        let at = self.seconds();
        let wait = u64::try_from(wait.as_micros()).map_or(MOST, |wait| wait.min(MOST));
        let mut state = locked(&self.state);
        let State { phase, waits, .. } = &mut *state;
        for histogram in [phase, waits] {
            histogram.record(wait).expect("a histogram that grows takes a wait of days");
        }
        state.images += images;
        for kill in state.kills.iter_mut().filter(|kill| kill.waiting.contains(&trainer)) {
            let ms = (at - kill.at) * 1e3;
            kill.next_ms.get_or_insert(ms);
            kill.waiting.remove(&trainer);
            if kill.waiting.is_empty() {
                kill.all_next_ms = Some(ms);
            }
        }
    }

    /// Ends an interval.
    pub(crate) fn close(&self, rss_bytes: u64, servers: Vec<Option<ServerInterval>>) {
        let at = self.seconds();
        let mut state = locked(&self.state);
        let interval = Interval {
            at,
            seconds: at - state.closed,
            trainers: state.trainers.len(),
            images: std::mem::take(&mut state.images),
            wait_ms: (!state.waits.is_empty()).then(|| WaitMs::of(&state.waits)),
            rss_bytes,
            servers,
        };
        state.waits.reset();
        state.closed = at;
        state.intervals.push(interval);
    }

    /// The waits of the phase that ends.
    pub(crate) fn end_phase(&self) -> WaitMs {
        let mut state = locked(&self.state);
        let waits = WaitMs::of(&state.phase);
        let State { phase, all, .. } = &mut *state;
        all.add(&*phase).expect("histograms that grow take every value");
        phase.reset();
        waits
    }

    /// A server was killed now; its place among the kills.
    pub(crate) fn killed(&self, server: usize) -> usize {
        let at = self.seconds();
        let mut state = locked(&self.state);
        let waiting = state.trainers.clone();
        let kill =
            Kill { at, server, next_ms: None, all_next_ms: None, restarted_ms: None, waiting };
        state.kills.push(kill);
        state.kills.len() - 1
    }

    /// The server of that kill listens again.
    pub(crate) fn restarted(&self, kill: usize) {
        let at = self.seconds();
        let kill = &mut locked(&self.state).kills[kill];
        kill.restarted_ms = Some((at - kill.at) * 1e3);
    }

    /// The waits of all phases that ended, the intervals and the kills.
    pub(crate) fn seen(&self) -> (WaitMs, Vec<Interval>, Vec<Kill>) {
        let state = locked(&self.state);
        (WaitMs::of(&state.all), state.intervals.clone(), state.kills.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_over_when_every_trainer_has_had_its_next_microbatch() {
        let live = Live::new();
        let wait = Duration::from_millis(3);
        (0..3).for_each(|trainer| live.enter(trainer));
        let kill = live.killed(1);
        live.note(0, wait, 4);
        live.note(0, wait, 4);
        live.leave(2);
        let (_, _, kills) = live.seen();
        assert!(kills[0].next_ms.is_some() && kills[0].all_next_ms.is_none());
        live.note(1, wait, 4);
        live.restarted(kill);
        let (_, _, kills) = live.seen();
        let Kill { next_ms, all_next_ms, restarted_ms, .. } = kills[0];
        assert!(next_ms < all_next_ms && all_next_ms <= restarted_ms, "{kills:?}");
        live.close(7, vec![None]);
        live.close(7, vec![None]);
        let waits = live.end_phase();
        assert!((waits.p50 - 3.0).abs() < 0.01, "{waits:?}");
        let (waits, intervals, _) = live.seen();
        assert!((waits.max - 3.0).abs() < 0.01);
        assert_eq!((intervals[0].images, intervals[1].images), (12, 0));
        assert!(intervals[0].wait_ms.is_some() && intervals[1].wait_ms.is_none());
    }
}
