//! The names of a stream, in order, across the ends of epochs.

use std::sync::Arc;

use forebay_proto::types::{Cursor, MicrobatchName, Rank};

use crate::description::Description;
use crate::error::Error;
use crate::wire::expected::Expected;

/// The start of a stream. A [`Cursor`] is the start of its step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// The first step.
    pub cursor: Cursor,
    /// Number of the rank's microbatches of that step to leave out: those that were read before.
    pub done: u32,
}

impl From<Cursor> for Start {
    fn from(cursor: Cursor) -> Self {
        Self { cursor, done: 0 }
    }
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// After this number of steps.
    Steps(u64),
    /// Before this step.
    Until(Cursor),
}

/// The names that a stream still has to deliver, in order.
///
/// The last step of an evaluation may have no samples left for some microbatches, the last ones of
/// the step. These do not exist: servers leave them out, and so does the walk.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    next: Cursor,
    steps: u64,
    seed: u64,
    description: Arc<Description>,
    indices: Arc<[u32]>,
    /// Number of microbatches of the next step that were delivered.
    done: usize,
}

impl Walk {
    /// A rank's names from a start on.
    ///
    /// # Errors
    /// When the step is not in its epoch, the rank does not fit the microbatches of a step, or more
    /// of these are done than it has.
    pub(crate) fn new(
        Start { cursor: from, done }: Start,
        end: End,
        rank: Rank,
        expected: &Expected,
    ) -> Result<Self, Error> {
        let Expected { description, seed, .. } = expected;
        let steps_per_epoch = description.steps_per_epoch;
        if from.step >= steps_per_epoch {
            let Cursor { epoch, step } = from;
            return Err(Error::Options(format!(
                "invalid step {step} of epoch {epoch}: an epoch has {steps_per_epoch} steps, \
                 numbered from 0"
            )));
        }
        let indices = rank.microbatches(description.microbatches);
        let mut indices = indices.map_err(|error| Error::Options(error.to_string()))?;
        let each = indices.len();
        let done = usize::try_from(done).ok().filter(|done| *done <= each).ok_or_else(|| {
            Error::Options(format!(
                "invalid number of microbatches {done} that are done of {from}: the rank has {each} \
                 in a step"
            ))
        })?;
        // A microbatch without samples in the first step has none in any step.
        indices.retain(|index| description.samples(0, *index) > 0);
        let steps = match end {
            _ if indices.is_empty() => 0,
            End::Steps(steps) => steps,
            End::Until(cursor) => from.steps_until(cursor, steps_per_epoch),
        };
        let description = Arc::clone(description);
        let indices = indices.into();
        let mut walk = Self { next: from, steps, seed: *seed, description, indices, done };
        walk.skip_finished_steps();
        Ok(walk)
    }

    /// The next name; `None` at the end.
    pub(crate) fn name(&self) -> Option<MicrobatchName> {
        if self.steps == 0 { None } else { self.name_in_step() }
    }

    /// Moves past the next name.
    pub(crate) fn advance(&mut self) {
        self.done += 1;
        self.skip_finished_steps();
    }

    /// Moves to the next step that has a microbatch left. It skips at most one step without any,
    /// because only the last step of an epoch may have none of the indices.
    fn skip_finished_steps(&mut self) {
        while self.steps > 0 && self.name_in_step().is_none() {
            self.done = 0;
            self.steps -= 1;
            self.next = self.next.after(1, self.description.steps_per_epoch);
        }
    }

    /// The next name of the step, if one is left.
    fn name_in_step(&self) -> Option<MicrobatchName> {
        let index = *self.indices.get(self.done)?;
        let Cursor { epoch, step } = self.next;
        let name = MicrobatchName { seed: self.seed, epoch, step, index };
        (self.description.samples(step, index) > 0).then_some(name)
    }

    /// The step of the next name, or the one after the last.
    pub(crate) const fn next(&self) -> Cursor {
        self.next
    }

    /// The step that is `steps` steps after the next one.
    pub(crate) fn cursor(&self, steps: u64) -> Cursor {
        self.next.after(steps, self.description.steps_per_epoch)
    }

    /// Keeps the first steps, and returns the walk of the others.
    pub(crate) fn split_off(&mut self, steps: u64) -> Self {
        let first = steps.min(self.steps);
        let mut rest = Self { next: self.cursor(first), done: 0, ..self.clone() };
        rest.steps -= first;
        self.steps = first;
        rest.skip_finished_steps();
        rest
    }

    /// The number of steps left, including the one in progress.
    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    /// The number of microbatches of the next step that were delivered.
    pub(crate) const fn done(&self) -> usize {
        self.done
    }

    /// The rank's microbatches of a step.
    pub(crate) fn indices(&self) -> &[u32] {
        &self.indices
    }
}
