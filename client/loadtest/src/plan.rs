//! How many trainers read, how long, and how fast: what a run's flags say, as values.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use crate::locked;

/// A part of a run in which the number of trainers stays the same: `8x60s`, or `8x100` for 100 steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Ranks of each world; must divide the microbatches of a step.
    pub trainers: u32,
    /// When it ends.
    pub length: Length,
}

/// When a phase ends: at the end of a step, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many steps.
    Steps(u64),
    /// After the step in which this much time has passed.
    Time(Duration),
}

/// When a trainer asks for its next microbatch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// At once.
    #[default]
    Free,
    /// When it has computed on the last one, as a GPU would.
    Step(StepTime),
    /// By the clock: all trainers together ask for so many images a second, whether the ones before
    /// have come or not. A microbatch's wait begins when it was due, so a stall counts for every
    /// microbatch that it delayed and not for one alone (coordinated omission).
    Rate(f64),
}

/// How long a trainer computes on a microbatch: `300ms`, or `300ms~10%` for 270 to 330 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// In the mean.
    pub mean: Duration,
    /// By which part of it a step may be shorter or longer, from 0 to 1.
    pub jitter: f64,
}

/// A length of time with its unit: `300ms`, `2s`, `5m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: give a number with ms, s or m, such as 300ms");
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let seconds = match &text[unit..] {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..unit].parse().map_err(|_error| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_error| wrong())
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no phase: give trainers x time or trainers x steps, such as 8x60s or 8x100"
            )
        };
        let (trainers, length) = text.split_once('x').ok_or_else(wrong)?;
        let trainers = trainers.parse().ok().filter(|trainers| *trainers > 0).ok_or_else(wrong)?;
        let length = match length.parse() {
            Ok(steps) => Length::Steps(steps),
            Err(_) => Length::Time(duration(length)?),
        };
        Ok(Self { trainers, length })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            Length::Steps(steps) => write!(f, "{} x {steps} steps", self.trainers),
            Length::Time(time) => write!(f, "{} x {time:?}", self.trainers),
        }
    }
}

impl FromStr for StepTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mean, jitter) = text.split_once('~').unwrap_or((text, "0%"));
        let percent = jitter.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let percent = percent.ok_or_else(|| format!("{jitter:?} is no part: give 0% to 100%"))?;
        Ok(Self { mean: duration(mean)?, jitter: percent / 100.0 })
    }
}

impl StepTime {
    /// How long it computes on the microbatch of that number.
    pub(crate) fn of(&self, trainer: u32, microbatch: u64) -> Duration {
        let part = part([trainer.into(), microbatch]) * 2.0 - 1.0;
        self.mean.mul_f64(1.0 + self.jitter * part)
    }
}

/// A random number, by what it is for: the same in each run.
pub(crate) fn draw(what: [u64; 2]) -> u64 {
    xxh3_64(&what.map(u64::to_le_bytes).concat())
}

/// From 0 to 1.
pub(crate) fn part(what: [u64; 2]) -> f64 {
    (draw(what) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Keeps the trainers of a world in step, as the exchange of gradients does, and ends their phase: all
/// of them after the same step.
#[derive(Debug)]
pub(crate) struct Gate {
    length: Length,
    begin: Instant,
    first: u64,
    world: u32,
    /// Trainers who wait for the next step.
    waiting: Mutex<u32>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    /// After the last step that was begun.
    begun: u64,
    ended: bool,
}

impl Gate {
    /// Of a phase that begins now, at a step counted from the run's first.
    pub(crate) fn new(phase: Phase, first: u64) -> Self {
        let Phase { trainers: world, length } = phase;
        let progress = watch::Sender::new(Progress { begun: first, ended: false });
        Self { length, begin: Instant::now(), first, world, waiting: Mutex::new(0), progress }
    }

    /// Whether a trainer is to read this step; known when all trainers have read the one before.
    pub(crate) async fn enter(&self, step: u64, interrupt: &AtomicBool) -> bool {
        let mut progress = self.progress.subscribe();
        {
            let mut waiting = locked(&self.waiting);
            *waiting += 1;
            if *waiting == self.world {
                *waiting = 0;
                let over = interrupt.load(Ordering::Relaxed) || self.over(step);
                self.progress.send_modify(|progress| {
                    progress.ended |= over;
                    progress.begun += u64::from(!progress.ended);
                });
            }
        }
        let decided = progress.wait_for(|now| now.begun > step || now.ended).await;
        decided.is_ok_and(|now| now.begun > step)
    }

    fn over(&self, step: u64) -> bool {
        match self.length {
            Length::Steps(steps) => step - self.first >= steps,
            // At least one, so that each phase shows something.
            Length::Time(time) => step > self.first && self.begin.elapsed() >= time,
        }
    }

    /// A trainer cannot go on, and so none can.
    pub(crate) fn abandon(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Where the next phase begins, once all trainers have left.
    pub(crate) fn end(&self) -> u64 {
        self.progress.borrow().begun
    }

    /// The most steps that a stream from this one on can have.
    pub(crate) fn steps_from(&self, step: u64) -> u64 {
        match self.length {
            Length::Steps(steps) => (self.first + steps).saturating_sub(step),
            // What is asked for and not read costs nothing.
            Length::Time(_) => u32::MAX.into(),
        }
    }

    pub(crate) const fn begin(&self) -> Instant {
        self.begin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_times_are_read_as_they_are_written() {
        let phase = |trainers, length| Ok(Phase { trainers, length });
        assert_eq!("2x30s".parse(), phase(2, Length::Time(Duration::from_secs(30))));
        assert_eq!("8x1.5m".parse(), phase(8, Length::Time(Duration::from_secs(90))));
        assert_eq!("8x100".parse(), phase(8, Length::Steps(100)));
        for wrong in ["", "8", "0x3s", "8x", "8x3h", "8x-3s", "x3s", "8xs"] {
            wrong.parse::<Phase>().unwrap_err();
        }
        let step: StepTime = "300ms~10%".parse().unwrap();
        assert_eq!(step, StepTime { mean: Duration::from_millis(300), jitter: 0.1 });
        for wrong in ["300", "300ms~", "300ms~10", "300ms~101%", "~10%"] {
            wrong.parse::<StepTime>().unwrap_err();
        }
    }

    #[test]
    fn jitter_stays_within_its_part_and_differs() {
        let step: StepTime = "100ms~20%".parse().unwrap();
        let times: Vec<Duration> = (0..1000).map(|at| step.of(3, at)).collect();
        let ms = |ms| Duration::from_millis(ms);
        assert!(times.iter().all(|time| (ms(80)..=ms(120)).contains(time)));
        let mean = times.iter().sum::<Duration>() / 1000;
        assert!((ms(98)..ms(102)).contains(&mean), "{mean:?}");
    }

    #[tokio::test]
    async fn trainers_of_a_world_go_in_step_and_leave_after_the_same_one() {
        let go_on = AtomicBool::new(false);
        let time = |time| Gate::new(Phase { trainers: 2, length: Length::Time(time) }, 5);
        let gate = time(Duration::ZERO);
        assert_eq!(tokio::join!(gate.enter(5, &go_on), gate.enter(5, &go_on)), (true, true));
        assert_eq!(tokio::join!(gate.enter(6, &go_on), gate.enter(6, &go_on)), (false, false));
        assert_eq!(gate.end(), 6);

        let gate = time(Duration::from_secs(100));
        let alone = tokio::time::timeout(Duration::from_millis(20), gate.enter(5, &go_on)).await;
        assert!(alone.is_err(), "it waits for the other one");
        assert!(gate.enter(5, &go_on).await);
        let stop = AtomicBool::new(true);
        assert_eq!(tokio::join!(gate.enter(6, &stop), gate.enter(6, &stop)), (false, false));

        let gate = time(Duration::from_secs(100));
        let abandon = async { gate.abandon() };
        assert_eq!(tokio::join!(gate.enter(5, &go_on), abandon), (false, ()));
    }
}
