//! Where a trainer is: names of microbatches, and their order over the ends of epochs.

use std::sync::Arc;

use crate::receive::Wanted;
use crate::{Cursor, Description, Digest, Error, MicrobatchName, Rank};

/// Where a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After so many steps.
    Steps(u64),
    /// Before this step.
    Until(Cursor),
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
    seed: u64,
    description: Arc<Description>,
    indices: Arc<[u32]>,
    /// Microbatches of the next step that were delivered.
    done: usize,
}

impl Walk {
    /// Fails when the first step is not in its epoch.
    pub(crate) fn new(from: Cursor, end: End, rank: Rank, wanted: &Wanted) -> Result<Self, Error> {
        let Wanted { description, seed, .. } = wanted;
        let steps_per_epoch = description.steps_per_epoch;
        if from.step >= steps_per_epoch {
            let Cursor { epoch, step } = from;
            return Err(Error::Options(format!(
                "step {step} of epoch {epoch}: an epoch has {steps_per_epoch} steps, numbered from 0"
            )));
        }
        let mut indices = rank.microbatches(description.microbatches)?;
        // What the first step has no samples for, no step has.
        indices.retain(|index| description.samples(0, *index) > 0);
        let steps = match end {
            _ if indices.is_empty() => 0,
            End::Steps(steps) => steps,
            End::Until(cursor) => from.steps_until(cursor, steps_per_epoch),
        };
        let description = Arc::clone(description);
        let indices = indices.into();
        let mut walk = Self { next: from, steps, seed: *seed, description, indices, done: 0 };
        walk.settle();
        Ok(walk)
    }

    /// The next name; `None` at the end.
    pub(crate) fn name(&self) -> Option<MicrobatchName> {
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
    fn here(&self) -> Option<MicrobatchName> {
        let index = *self.indices.get(self.done)?;
        let Cursor { epoch, step } = self.next;
        let name = MicrobatchName { seed: self.seed, epoch, step, index };
        (self.description.samples(step, index) > 0).then_some(name)
    }

    /// Whether the next name is the last one.
    pub(crate) fn is_last(&self) -> bool {
        let mut after = self.clone();
        after.advance();
        after.name().is_none()
    }

    /// The step of the next name, or where the walk ends.
    pub(crate) const fn next(&self) -> Cursor {
        self.next
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
