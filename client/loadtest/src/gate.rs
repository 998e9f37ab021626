//! The barrier between the steps of a world.

use std::sync::Mutex;
use std::time::Instant;

use tokio::sync::watch;

use crate::plan::{Length, Phase};
use crate::sync::{Interrupt, locked};

/// Keeps the trainers of a world in step, as the exchange of gradients does, and ends their phase after
/// the same step for all.
#[derive(Debug)]
pub(crate) struct Gate {
    length: Length,
    begin: Instant,
    first: u64,
    world: u32,
    /// Number of trainers that wait for the next step.
    waiting: Mutex<u32>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    /// The step after the last one that began.
    begun: u64,
    ended: bool,
}

impl Gate {
    /// The gate of a phase that begins now. `first` is its first step, counted from the run's first.
    pub(crate) fn new(phase: Phase, first: u64) -> Self {
        let Phase { trainers: world, length } = phase;
        let progress = watch::Sender::new(Progress { begun: first, ended: false });
        Self { length, begin: Instant::now(), first, world, waiting: Mutex::new(0), progress }
    }

    /// Waits until all trainers have read the previous step. Returns whether to read this one.
    pub(crate) async fn enter(&self, step: u64, interrupt: &Interrupt) -> bool {
        let mut progress = self.progress.subscribe();
        {
            let mut waiting = locked(&self.waiting);
            *waiting += 1;
            if *waiting == self.world {
                *waiting = 0;
                let is_over = interrupt.is_set() || self.is_over(step);
                self.progress.send_modify(|progress| {
                    progress.ended |= is_over;
                    progress.begun += u64::from(!progress.ended);
                });
            }
        }
        let decided = progress.wait_for(|now| now.begun > step || now.ended).await;
        decided.is_ok_and(|now| now.begun > step)
    }

    fn is_over(&self, step: u64) -> bool {
        match self.length {
            Length::Steps(steps) => step - self.first >= steps,
            // At least one step, so that each phase has figures.
            Length::Time(time) => step > self.first && self.begin.elapsed() >= time,
        }
    }

    /// Ends the phase, because a trainer cannot continue.
    pub(crate) fn abandon(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Ends the phase, because a trainer left in the middle of a step, which then counts as not begun.
    pub(crate) fn leave_unfinished(&self, step: u64) {
        self.progress.send_modify(|progress| {
            progress.ended = true;
            progress.begun = progress.begun.min(step);
        });
    }

    /// The first step of the next phase, once all trainers have left.
    pub(crate) fn end(&self) -> u64 {
        self.progress.borrow().begun
    }

    /// Largest number of steps that a stream from this step on can have.
    pub(crate) fn steps_from(&self, step: u64) -> u64 {
        match self.length {
            Length::Steps(steps) => self.first.saturating_add(steps).saturating_sub(step),
            // Steps that are requested and not read cost nothing.
            Length::Time(_) => u32::MAX.into(),
        }
    }

    pub(crate) const fn begin(&self) -> Instant {
        self.begin
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn trainers_of_a_world_stay_in_step_and_leave_after_the_same_step() {
        let go_on = Interrupt::default();
        let time = |time| Gate::new(Phase { trainers: 2, length: Length::Time(time) }, 5);
        let gate = time(Duration::ZERO);
        assert_eq!(tokio::join!(gate.enter(5, &go_on), gate.enter(5, &go_on)), (true, true));
        assert_eq!(tokio::join!(gate.enter(6, &go_on), gate.enter(6, &go_on)), (false, false));
        assert_eq!(gate.end(), 6);

        let gate = time(Duration::from_secs(100));
        let first = tokio::time::timeout(Duration::from_millis(20), gate.enter(5, &go_on)).await;
        assert!(first.is_err(), "the first trainer waits for the second one");
        assert!(gate.enter(5, &go_on).await);
        let stop = Interrupt::default();
        stop.set();
        assert_eq!(tokio::join!(gate.enter(6, &stop), gate.enter(6, &stop)), (false, false));

        let gate = time(Duration::from_secs(100));
        let abandon = async { gate.abandon() };
        assert_eq!(tokio::join!(gate.enter(5, &go_on), abandon), (false, ()));
    }
}
