//! The plan of a run: the number of trainers, their duration and their pace.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use forebay_types::settings::{Number, TimeSpan, duration};

use crate::random;

/// A number of trainers of a world: a step has at most as many microbatches.
pub type Trainers = Number<1, 1024>;

/// A number of steps.
pub type Steps = Number<1, 1_000_000_000_000>;

/// A part of a run in which the number of trainers stays the same: `8x60s`, or `8x100` for 100 steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Ranks of each world; must divide the microbatches of a step.
    pub trainers: u32,
    /// When it ends.
    pub length: Length,
}

/// The end of a phase, always at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this number of steps.
    Steps(u64),
    /// After the step in which this much time has passed.
    Time(Duration),
}

/// The pace at which a trainer requests microbatches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// A trainer requests the next microbatch as soon as it has the last one.
    #[default]
    Free,
    /// A trainer requests the next microbatch after it has computed on the last one, as a GPU would.
    Step(StepTime),
    /// All trainers together request this number of images per second by the clock, whether the previous
    /// ones have arrived or not. A wait begins when the microbatch is due, so that a stall
    /// counts for every microbatch that it delays, which avoids coordinated omission.
    Rate(f64),
}

/// The time that a trainer computes on a microbatch: `300ms`, or `300ms~10%` for 270 to 330 ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// The mean.
    pub mean: Duration,
    /// Fraction of the mean by which a step may be shorter or longer, from 0 to 1.
    pub jitter: f64,
}

impl FromStr for Phase {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "invalid phase {text:?}: expected trainers x time or trainers x steps, such as 8x60s or 8x100"
            )
        };
        let (trainers, length) = text.split_once('x').ok_or_else(invalid)?;
        let trainers: Trainers =
            trainers.parse().map_err(|error| format!("{}: {error}", invalid()))?;
        let length = if length.bytes().all(|byte| byte.is_ascii_digit()) {
            let steps: Steps = length.parse().map_err(|error| format!("{}: {error}", invalid()))?;
            Length::Steps(steps.get())
        } else {
            Length::Time(duration(length).map_err(|error| error.to_string())?)
        };
        Ok(Self { trainers: trainers.as_u32(), length })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.length {
            Length::Steps(steps) => write!(f, "{} x {steps} steps", self.trainers),
            Length::Time(time) => write!(f, "{} x {}", self.trainers, TimeSpan(time)),
        }
    }
}

impl FromStr for StepTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mean, jitter) = text.split_once('~').unwrap_or((text, "0%"));
        let percent = jitter.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        let invalid = || format!("invalid jitter {jitter:?}: expected 0% to 100%");
        let percent = percent.ok_or_else(invalid)?;
        let mean = duration(mean).map_err(|error| error.to_string())?;
        Ok(Self { mean, jitter: percent / 100.0 })
    }
}

impl StepTime {
    /// The time for the microbatch of that number.
    pub(crate) fn of(&self, trainer: u32, microbatch: u64) -> Duration {
        let deviation = random::fraction([trainer.into(), microbatch]) * 2.0 - 1.0;
        self.mean.mul_f64(1.0 + self.jitter * deviation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_and_step_times_are_parsed() {
        let phase = |trainers, length| Ok(Phase { trainers, length });
        assert_eq!("2x30s".parse(), phase(2, Length::Time(Duration::from_secs(30))));
        assert_eq!("8x1m30s".parse(), phase(8, Length::Time(Duration::from_secs(90))));
        assert_eq!("8x100".parse(), phase(8, Length::Steps(100)));
        for wrong in ["", "8", "0x3s", "8x", "8x-3s", "x3s", "8xs", "8x0", "2000x3s"] {
            wrong.parse::<Phase>().unwrap_err();
        }
        let step: StepTime = "300ms~10%".parse().unwrap();
        assert_eq!(step, StepTime { mean: Duration::from_millis(300), jitter: 0.1 });
        for wrong in ["300", "300ms~", "300ms~10", "300ms~101%", "~10%"] {
            wrong.parse::<StepTime>().unwrap_err();
        }
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_varies() {
        let step: StepTime = "100ms~20%".parse().unwrap();
        let times: Vec<Duration> = (0..1000).map(|at| step.of(3, at)).collect();
        let ms = |ms| Duration::from_millis(ms);
        assert!(times.iter().all(|time| (ms(80)..=ms(120)).contains(time)));
        let mean = times.iter().sum::<Duration>() / 1000;
        assert!((ms(98)..ms(102)).contains(&mean), "{mean:?}");
    }
}
