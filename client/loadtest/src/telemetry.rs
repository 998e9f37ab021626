//! Measurements during a run: waits, intervals of a second, recoveries after kills.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::figures::WaitMs;
use crate::sync::locked;

/// Measurements of an interval of about a second.
#[derive(Clone, Debug, Serialize)]
pub struct Interval {
    /// End of the interval, in seconds since the start of the run.
    pub at: f64,
    /// Length in seconds.
    pub seconds: f64,
    /// Number of trainers at its end.
    pub trainers: usize,
    /// Number of images received.
    pub images: u64,
    /// Waits for the microbatches received; `None` if there were none.
    pub wait_ms: Option<WaitMs>,
    /// Resident memory of this process.
    pub rss_bytes: u64,
    /// Metrics of each server; `None` if it did not answer.
    pub servers: Vec<Option<ServerInterval>>,
}

/// A server's metrics of an interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerInterval {
    /// Number of images sent.
    pub images: f64,
    /// CPU seconds.
    pub cpu_seconds: f64,
    /// Resident memory at the end of the interval.
    pub rss_bytes: f64,
}

/// A killed server, and how long the recovery took.
#[derive(Clone, Debug, Serialize)]
pub struct Kill {
    /// Time of the kill, in seconds since the start of the run.
    pub at: f64,
    /// Number of the server.
    pub server: usize,
    /// Time until the first trainer received its next microbatch.
    pub next_ms: Option<f64>,
    /// Time until every trainer received its next microbatch; `None` if the phase ended before.
    pub all_next_ms: Option<f64>,
    /// Time until the server accepted connections again.
    pub restarted_ms: Option<f64>,
    #[serde(skip)]
    waiting: BTreeSet<u32>,
}

/// The measurements of a run, shared by all of its trainers.
#[derive(Debug)]
pub(crate) struct Telemetry {
    pub(crate) start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Waits of the phase and of the run, in microseconds.
    phase: Histogram<u64>,
    all: Histogram<u64>,
    /// Images and waits of the interval, and when the previous interval ended.
    images: u64,
    waits: Histogram<u64>,
    closed: f64,
    trainers: BTreeSet<u32>,
    intervals: Vec<Interval>,
    kills: Vec<Kill>,
}

/// Longest wait in microseconds, 12 days. Longer ones count as this.
const MAX_WAIT: u64 = 1 << 40;

/// A histogram with three significant digits that grows as needed.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

impl Telemetry {
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

    /// Records that a trainer received a microbatch.
    pub(crate) fn record(&self, trainer: u32, wait: Duration, images: u64) {
        let at = self.seconds();
        let wait = u64::try_from(wait.as_micros()).map_or(MAX_WAIT, |wait| wait.min(MAX_WAIT));
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

    /// Ends a phase, and returns its waits.
    pub(crate) fn end_phase(&self) -> WaitMs {
        let mut state = locked(&self.state);
        let waits = WaitMs::of(&state.phase);
        let State { phase, all, .. } = &mut *state;
        all.add(&*phase).expect("histograms that grow take every value");
        phase.reset();
        waits
    }

    /// Records that a server was killed now. Returns the number of the kill.
    pub(crate) fn killed(&self, server: usize) -> usize {
        let at = self.seconds();
        let mut state = locked(&self.state);
        let waiting = state.trainers.clone();
        let kill =
            Kill { at, server, next_ms: None, all_next_ms: None, restarted_ms: None, waiting };
        state.kills.push(kill);
        state.kills.len() - 1
    }

    /// Records that the server of a kill accepts connections again.
    pub(crate) fn restarted(&self, kill: usize) {
        let at = self.seconds();
        let kill = &mut locked(&self.state).kills[kill];
        kill.restarted_ms = Some((at - kill.at) * 1e3);
    }

    /// The time to wait for another kill: `None` if every trainer that was there at the last one has received a
    /// microbatch since, or left, and has had twice the time of that recovery to receive more.
    pub(crate) fn until_next_kill(&self) -> Option<Duration> {
        let at = self.seconds();
        let state = locked(&self.state);
        let kill = state.kills.last()?;
        if !kill.waiting.is_empty() {
            return Some(Duration::ZERO);
        }
        let end = kill.at + 3.0 * kill.all_next_ms.unwrap_or(0.0) / 1e3;
        (at < end).then(|| Duration::from_secs_f64(end - at))
    }

    /// The waits of all phases that ended, the intervals and the kills.
    pub(crate) fn results(&self) -> (WaitMs, Vec<Interval>, Vec<Kill>) {
        let state = locked(&self.state);
        (WaitMs::of(&state.all), state.intervals.clone(), state.kills.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thirds_of_the_time_between_kills_are_for_what_is_received() {
        let telemetry = Telemetry::new();
        assert_eq!(telemetry.until_next_kill(), None, "the first one");
        telemetry.enter(0);
        telemetry.killed(1);
        telemetry.record(0, Duration::ZERO, 4);
        let recovered = |ms| locked(&telemetry.state).kills[0].all_next_ms = Some(ms);
        recovered(1e9);
        let left = telemetry.until_next_kill().unwrap();
        assert!((2.9e6..3e6).contains(&left.as_secs_f64()), "{left:?}");
        recovered(0.0);
        assert_eq!(telemetry.until_next_kill(), None);
    }

    #[test]
    fn a_recovery_ends_when_every_trainer_has_received_its_next_microbatch() {
        let telemetry = Telemetry::new();
        let wait = Duration::from_millis(3);
        (0..3).for_each(|trainer| telemetry.enter(trainer));
        let kill = telemetry.killed(1);
        assert_eq!(telemetry.until_next_kill(), Some(Duration::ZERO));
        telemetry.record(0, wait, 4);
        telemetry.record(0, wait, 4);
        telemetry.leave(2);
        let (_, _, kills) = telemetry.results();
        assert!(kills[0].next_ms.is_some() && kills[0].all_next_ms.is_none());
        telemetry.record(1, wait, 4);
        telemetry.restarted(kill);
        let (_, _, kills) = telemetry.results();
        let Kill { next_ms, all_next_ms, restarted_ms, .. } = kills[0];
        assert!(next_ms <= all_next_ms && all_next_ms <= restarted_ms, "{kills:?}");
        telemetry.close(7, vec![None]);
        telemetry.close(7, vec![None]);
        let waits = telemetry.end_phase();
        assert!((waits.p50 - 3.0).abs() < 0.01, "{waits:?}");
        let (waits, intervals, _) = telemetry.results();
        assert!((waits.max - 3.0).abs() < 0.01);
        assert_eq!((intervals[0].images, intervals[1].images), (12, 0));
        assert!(intervals[0].wait_ms.is_some() && intervals[1].wait_ms.is_none());
    }
}
