//! Names of microbatches and steps.

use std::fmt;

/// The name of a microbatch, within a dataset and a recipe: its content is a pure function of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MicrobatchName {
    /// Seed of the training run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Microbatch of the step, from 0.
    pub index: u32,
}

impl MicrobatchName {
    /// The step that the microbatch belongs to.
    pub const fn cursor(self) -> Cursor {
        Cursor { epoch: self.epoch, step: self.step }
    }
}

/// Leaves out the seed, which is the same for all microbatches of a training run.
impl fmt::Display for MicrobatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, step {}, microbatch {}", self.epoch, self.step, self.index)
    }
}

/// A step of a training run: the position from which it resumes. The default is the first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cursor {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
}

impl Cursor {
    /// The cursor `steps` steps later. Saturates at the last epoch that a `u64` holds.
    #[must_use]
    pub fn after(self, steps: u64, steps_per_epoch: u64) -> Self {
        let each = u128::from(steps_per_epoch.max(1));
        let total = u128::from(self.step) + u128::from(steps);
        let narrow = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Self { epoch: self.epoch.saturating_add(narrow(total / each)), step: narrow(total % each) }
    }

    /// Steps from here to a later cursor, 0 to an earlier one.
    pub fn steps_until(self, end: Self, steps_per_epoch: u64) -> u64 {
        let total = |cursor: Self| {
            u128::from(cursor.epoch) * u128::from(steps_per_epoch) + u128::from(cursor.step)
        };
        u64::try_from(total(end).saturating_sub(total(self))).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, step {}", self.epoch, self.step)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_add_up(epoch in 0..1000_u64, step in 0..50_u64, n in 0..500_u64, each in 1..50_u64) {
            let from = Cursor { epoch, step: step % each };
            let to = from.after(n, each);
            prop_assert!(to.step < each);
            prop_assert_eq!(from.steps_until(to, each), n);
            prop_assert_eq!((0..n).fold(from, |cursor, _| cursor.after(1, each)), to);
        }
    }

    #[test]
    fn distant_cursors_saturate() {
        let far = Cursor { epoch: u64::MAX, step: 3 };
        assert_eq!(far.after(u64::MAX, 1).epoch, u64::MAX);
        assert_eq!(Cursor::default().steps_until(far, u64::MAX), u64::MAX);
        assert_eq!(far.steps_until(Cursor::default(), 7), 0);
    }
}
