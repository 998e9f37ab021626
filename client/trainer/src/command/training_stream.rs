//! The training microbatches, whose stream is closed while the model is evaluated.
//!
//! A stream that nobody reads keeps buffers of its server, which others then lack. The server ends it after a while, and
//! counts a reader that stalls. So each stream ends where the next evaluation begins, and nothing that is computed ahead is
//! wasted.

use std::cell::RefCell;
use std::rc::Rc;

use forebay_types::Cursor;

use super::source::Batches;
use crate::batch::Batch;

/// Opens the stream at a cursor.
type Open<'a> = Box<dyn Fn(Cursor) -> anyhow::Result<Batches> + 'a>;

/// The training microbatches in order. Clones share the stream.
#[derive(Clone)]
pub(crate) struct TrainingStream<'a>(Rc<RefCell<State<'a>>>);

struct State<'a> {
    open: Open<'a>,
    /// `None` until the next microbatch is needed.
    stream: Option<Batches>,
    /// Where the stream is opened.
    from: Cursor,
}

impl<'a> TrainingStream<'a> {
    pub(crate) fn new(from: Cursor, open: impl Fn(Cursor) -> anyhow::Result<Batches> + 'a) -> Self {
        Self(Rc::new(RefCell::new(State { open: Box::new(open), stream: None, from })))
    }

    /// Closes the stream. The next microbatch opens it again, at this cursor.
    pub(crate) fn close(&self, next: Cursor) {
        let mut state = self.0.borrow_mut();
        (state.stream, state.from) = (None, next);
    }
}

impl Iterator for TrainingStream<'_> {
    type Item = anyhow::Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.0.borrow_mut();
        if state.stream.is_none() {
            match (state.open)(state.from) {
                Ok(stream) => state.stream = Some(stream),
                Err(error) => return Some(Err(error)),
            }
        }
        state.stream.as_mut()?.next()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_types::MicrobatchName;

    use super::*;
    use crate::batch::Pixels;

    #[test]
    fn a_closed_stream_is_opened_again_at_the_next_step_and_not_before() {
        let opened = RefCell::new(Vec::new());
        let open = |from: Cursor| {
            opened.borrow_mut().push(from.step);
            let batch = |step| Batch {
                name: MicrobatchName { seed: 0, epoch: 0, step, index: 0 },
                size: (0, 0),
                pixels: Pixels::Bytes(Bytes::new()),
                label_a: Vec::new(),
                label_b: Vec::new(),
                lambda: Vec::new(),
            };
            Ok(Box::new((from.step..).map(move |step| Ok(batch(step)))) as Batches)
        };
        let at = |step| Cursor { epoch: 0, step };
        let stream = TrainingStream::new(at(5), open);
        let mut reader = stream.clone();
        assert!(opened.borrow().is_empty());
        let mut step = || reader.next().unwrap().unwrap().name.step;
        assert_eq!([step(), step()], [5, 6]);
        stream.close(at(7));
        assert_eq!(*opened.borrow(), [5]);
        assert_eq!([step(), step()], [7, 8]);
        assert_eq!(*opened.borrow(), [5, 7]);
    }
}
