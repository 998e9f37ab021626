//! Where a trainer is: names of microbatches, and their order over the ends of epochs.

use std::fmt;
use std::sync::Arc;

use crate::{Description, Digest, Error};

/// The name of a microbatch within its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in the epoch, from 0.
    pub step: u64,
    /// The microbatch in the step, from 0.
    pub index: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, step {}, microbatch {}", self.epoch, self.step, self.index)
    }
}

/// A step of a training run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cursor {
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step in the epoch, from 0.
    pub step: u64,
}

impl Cursor {
    /// The cursor so many steps later, at so many steps an epoch (at least one).
    #[must_use]
    pub fn after(self, steps: u64, steps_per_epoch: u64) -> Self {
        let each = u128::from(steps_per_epoch.max(1));
        let total = u128::from(self.step) + u128::from(steps);
        let narrow = |value: u128| u64::try_from(value).unwrap_or(u64::MAX);
        Self { epoch: self.epoch.saturating_add(narrow(total / each)), step: narrow(total % each) }
    }

    /// Steps from here to a later cursor; 0 to an earlier one.
    pub fn steps_until(self, end: Self, steps_per_epoch: u64) -> u64 {
        let at = |cursor: Self| {
            u128::from(cursor.epoch) * u128::from(steps_per_epoch) + u128::from(cursor.step)
        };
        u64::try_from(at(end).saturating_sub(at(self))).unwrap_or(u64::MAX)
    }
}

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After so many steps.
    Steps(u64),
    /// Before this step.
    Until(Cursor),
}

/// One of the processes of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Which one, from 0.
    pub rank: u32,
    /// How many there are; must divide the microbatches of a step.
    pub world: u32,
}

impl Rank {
    /// The one process of a run that has no other.
    pub const ALONE: Self = Self { rank: 0, world: 1 };

    /// Its microbatches of a step: those with `index % world == rank`.
    pub fn indices(self, microbatches: u32) -> Result<Vec<u32>, Error> {
        let Self { rank, world } = self;
        if world == 0 || rank >= world {
            return Err(Error::Options(format!(
                "rank {rank} of a world of {world}: ranks are numbered from 0 to world - 1"
            )));
        }
        if !microbatches.is_multiple_of(world) {
            return Err(Error::Options(format!(
                "a world of {world} does not divide the {microbatches} microbatches of a step: \
                 use a world that does, or change the recipe's microbatches"
            )));
        }
        Ok((rank..microbatches).step_by(world as usize).collect())
    }
}

/// All that a checkpoint needs to go on with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct State {
    /// Digest of the dataset.
    pub dataset_digest: Digest,
    /// Digest of the recipe.
    pub recipe_digest: Digest,
    /// Seed of the job.
    pub seed: u64,
    /// Epoch of the next step.
    pub epoch: u64,
    /// The next step.
    pub step: u64,
}

impl State {
    /// The state of a job of that description and seed that goes on at a cursor.
    pub fn new(description: &Description, seed: u64, next: Cursor) -> Self {
        Self {
            dataset_digest: description.dataset_digest,
            recipe_digest: description.recipe_digest,
            seed,
            epoch: next.epoch,
            step: next.step,
        }
    }

    /// Where to go on.
    pub const fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, step: self.step }
    }
}

/// The names that a stream still has to deliver, in order.
///
/// The last step of an evaluation may have no samples left for some microbatches. Those are no
/// names: servers leave them out, and so does the walk. They are the last ones of their step.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    next: Cursor,
    steps: u64,
    description: Arc<Description>,
    indices: Arc<[u32]>,
    /// Microbatches of the next step that were delivered.
    done: usize,
}

impl Walk {
    /// Fails when the first step is not in its epoch.
    pub(crate) fn new(
        from: Cursor,
        end: End,
        rank: Rank,
        description: &Arc<Description>,
    ) -> Result<Self, Error> {
        let steps_per_epoch = description.steps_per_epoch;
        if from.step >= steps_per_epoch {
            let Cursor { epoch, step } = from;
            return Err(Error::Options(format!(
                "step {step} of epoch {epoch}: an epoch has {steps_per_epoch} steps, numbered from 0"
            )));
        }
        let mut indices = rank.indices(description.microbatches)?;
        // What the first step has no samples for, no step has.
        indices.retain(|index| description.samples(0, *index) > 0);
        let steps = match end {
            _ if indices.is_empty() => 0,
            End::Steps(steps) => steps,
            End::Until(cursor) => from.steps_until(cursor, steps_per_epoch),
        };
        let description = Arc::clone(description);
        let indices = indices.into();
        let mut walk = Self { next: from, steps, description, indices, done: 0 };
        walk.settle();
        Ok(walk)
    }

    /// The next name; `None` at the end.
    pub(crate) fn name(&self) -> Option<Name> {
        if self.steps == 0 { None } else { self.here() }
    }

    /// Leaves the next name behind.
    pub(crate) fn advance(&mut self) {
        self.done += 1;
        self.settle();
    }

    /// Goes on to the next step that has a microbatch left. One of two has: only the last step of an
    /// epoch may have none of the indices.
    fn settle(&mut self) {
        while self.steps > 0 && self.here().is_none() {
            self.done = 0;
            self.steps -= 1;
            self.next = self.next.after(1, self.description.steps_per_epoch);
        }
    }

    /// The next microbatch of the step, if it has one.
    fn here(&self) -> Option<Name> {
        let index = *self.indices.get(self.done)?;
        let Cursor { epoch, step } = self.next;
        (self.description.samples(step, index) > 0).then_some(Name { epoch, step, index })
    }

    /// Whether the next name is the last one.
    pub(crate) fn is_last(&self) -> bool {
        let mut after = self.clone();
        after.advance();
        after.name().is_none()
    }

    /// The step so many steps after the next one.
    pub(crate) fn cursor(&self, steps: u64) -> Cursor {
        self.next.after(steps, self.description.steps_per_epoch)
    }

    /// Keeps the first steps, and returns the walk of the others.
    pub(crate) fn split_off(&mut self, steps: u64) -> Self {
        let first = steps.min(self.steps);
        let mut rest = Self { next: self.cursor(first), done: 0, ..self.clone() };
        rest.steps -= first;
        self.steps = first;
        rest.settle();
        rest
    }

    /// Steps left, with the one that is begun; its delivered microbatches; those of every step.
    pub(crate) fn rest(&self) -> (u64, usize, &[u32]) {
        (self.steps, self.done, &self.indices)
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

        #[test]
        fn ranks_share_a_step(groups in 1..40_u32, world in 1..40_u32) {
            let of = |rank| Rank { rank, world }.indices(groups);
            if groups % world == 0 {
                let mut all: Vec<u32> = (0..world).flat_map(|rank| of(rank).unwrap()).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..groups).collect::<Vec<_>>());
            } else {
                prop_assert!(of(0).is_err());
            }
        }
    }

    #[test]
    fn far_cursors_do_not_overflow() {
        let far = Cursor { epoch: u64::MAX, step: 3 };
        assert_eq!(far.after(u64::MAX, 1).epoch, u64::MAX);
        assert_eq!(Cursor::default().steps_until(far, u64::MAX), u64::MAX);
        assert_eq!(far.steps_until(Cursor::default(), 7), 0);
    }
}
