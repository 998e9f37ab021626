//! The scratch memory of a worker: the most that a sample takes of it, and what is kept afterward.
//!
//! Each worker has a number of bytes. Half of them it may keep from sample to sample, so that a steady run
//! allocates nothing, and the other half is for what the next sample takes in addition. A picture that
//! takes more than half is *large*: its maker borrows memory from the pool of buffers before any work is
//! done.
//!
//! ```text
//!   a quarter of the room is enough for all workers   -> the workers make it, and borrow what they lack
//!   otherwise                                          -> threads of the maker make it, as many as it is
//!                                                         enough for, with memory of their own
//! ```
//!
//! The second kind takes long. A worker that makes one would keep others waiting: workers that wait for
//! each other take up any work that is there.
//!
//! The bounds follow from the index and the recipe, before a record is read.

use std::mem;

use super::reader::{ReadMemory, Reader};
use crate::augment::{self, Augmenter};
use crate::dataset::Dataset;
use crate::decode::Decoder;
use crate::geometry::Size;
use crate::resize::{self, Resizer};

/// The scratch memory of a worker.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) reader: Reader,
    pub(super) record: ReadMemory,
    pub(super) decoder: Decoder,
    pub(super) resizer: Resizer,
    pub(super) augmenter: Augmenter,
}

impl Scratch {
    /// Returns everything to the system if it is more than a worker keeps.
    pub(super) fn keep_at_most(&mut self, bytes: usize) {
        let Self { record, decoder, resizer, augmenter, .. } = self;
        let held = [
            record.held_bytes(),
            decoder.held_bytes(),
            resizer.held_bytes(),
            augmenter.held_bytes(),
        ];
        if held.iter().sum::<usize>() > bytes {
            *self = Self { reader: mem::take(&mut self.reader), ..Self::default() };
        }
    }
}

/// The most scratch memory that a worker takes for a sample of a record.
pub(super) fn bytes_for(dataset: &Dataset, record: u64, out: Size) -> usize {
    let stored = dataset.record(record).size;
    dataset.decode_bytes(record).saturating_add(pixel_bytes(stored, out))
}

/// The most scratch memory that a worker takes for a sample of any record of a dataset, in bytes.
pub fn sample_bytes(dataset: &Dataset, out: Size) -> usize {
    let (decode_bytes, largest) = dataset.most();
    decode_bytes.saturating_add(pixel_bytes(largest, out))
}

/// Bytes to resize, augment and mix. Mixing has copies of a pair and of a row.
fn pixel_bytes(stored: Size, out: Size) -> usize {
    let mix = 3 * out.rgb_bytes();
    resize::scratch_bytes(stored, out) + augment::scratch_bytes(out) + mix
}

/// The large pictures of a microbatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Large {
    /// Pictures that take more than these bytes are large.
    pub(super) above: usize,
    /// Number of threads that make them, if workers do not.
    pub(super) threads: Option<usize>,
    /// Bytes to borrow for them.
    pub(crate) loan: usize,
}

/// A loan takes at most one part in this many of the room, unless one thread needs more.
const LOANS: usize = 4;

impl Large {
    /// The loan for pictures that take up to `most` bytes, by workers that each keep `kept`, from buffers
    /// of which the payload leaves `room`; `None` if none of them is large.
    pub(crate) fn new(most: usize, kept: usize, workers: usize, room: usize) -> Option<Self> {
        let more = most.checked_sub(kept).filter(|more| *more > 0)?;
        let part = room / LOANS;
        let of_workers = more.saturating_mul(workers);
        if of_workers <= part {
            return Some(Self { above: kept, threads: None, loan: of_workers });
        }
        let threads = (part / most).clamp(1, workers);
        Some(Self { above: kept, threads: Some(threads), loan: threads * most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pictures_are_made_by_all_workers_or_by_as_many_threads_as_there_is_room_for() {
        let large = |most| Large::new(most, 100, 8, 4000);
        let borrows = |threads, loan| Some(Large { above: 100, threads, loan });
        assert_eq!(large(100), None);
        assert_eq!(large(225), borrows(None, 1000));
        assert_eq!(large(226), borrows(Some(4), 904));
        assert_eq!(large(500), borrows(Some(2), 1000));
        assert_eq!(large(3000), borrows(Some(1), 3000));
    }

    #[test]
    fn a_worker_returns_what_it_may_not_keep() {
        let mut scratch = Scratch::default();
        crate::scratch::fit(&mut scratch.record.bytes, 1000, 0);
        let address = scratch.record.bytes.as_ptr();
        scratch.keep_at_most(100_000);
        let bytes = &scratch.record.bytes;
        assert_eq!((bytes.capacity(), bytes.as_ptr()), (1000, address));
        scratch.keep_at_most(999);
        assert_eq!(scratch.record.bytes.capacity(), 0);
    }
}
