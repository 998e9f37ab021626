//! Exchanges between the GPUs of the ranks, by NCCL. They run on a lane of their own, in parallel with the
//! backward pass.

use std::ops::Range;

use cudarc::nccl::sys::ncclUniqueId;
use forebay::gpu::{DeviceError, Gpu, Lane};
use forebay_types::Rank;

use super::communicator::Communicator;
use super::memory_map::MemoryMap;
use super::nccl::Nccl;
use crate::Error;
use crate::process_group::ProcessGroup;

/// Length of NCCL's unique id in words of 8 bytes, as which it is broadcast.
const WORDS: usize = 16;

/// The communicator of a world of GPUs.
#[derive(Debug)]
pub(super) struct Collectives {
    communicator: Communicator,
    lane: Lane,
    rank: Rank,
}

impl Collectives {
    /// Connects to the GPUs of the other ranks. Returns `None` in a world of one.
    pub(super) fn connect(device: &Gpu, group: &mut ProcessGroup) -> Result<Option<Self>, Error> {
        let Rank { rank, world } = group.rank();
        if world < 2 {
            return Ok(None);
        }
        let nccl = Nccl::open(device)?;
        device.bind()?;
        let lane = device.lane(1, 256)?;
        // A rank that fails before this point is reported by the group. One that fails after it leaves the others waiting in
        // NCCL, until the group ends them.
        group.all_gather(&[0_u64], &mut vec![0; world as usize])?;
        let mut words = [0_u64; WORDS];
        if rank == 0 {
            let id = nccl.unique_id()?;
            for (word, bytes) in words.iter_mut().zip(id.internal.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(bytes.map(|byte| byte.to_ne_bytes()[0]));
            }
        }
        group.broadcast(&mut words)?;
        let mut internal = [0; 8 * WORDS];
        for (word, bytes) in words.iter().zip(internal.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes().map(|byte| std::ffi::c_char::from_ne_bytes([byte]));
        }
        let id = ncclUniqueId { internal };
        let comm = nccl.connect(id, [rank, world])?;
        let communicator = Communicator::watch(nccl, comm, device, group.failure_watch())?;
        Ok(Some(Self { communicator, lane, rank: Rank { rank, world } }))
    }

    pub(super) const fn world(&self) -> usize {
        self.rank.world as usize
    }

    /// Collects the batch statistics of all ranks on each of them.
    pub(super) fn all_gather_statistics(
        &self,
        work: &Lane,
        memory: &MemoryMap,
    ) -> Result<(), DeviceError> {
        self.lane.follow(work)?;
        let (all, each) = (&memory.statistics, memory.running_len);
        let to = work.address(all.clone());
        let own = to + (self.rank.rank as usize * each * 4) as u64;
        let call = |nccl: &Nccl, comm: &_| nccl.all_gather(comm, &self.lane, (own, to, each));
        self.communicator.call(call)?;
        work.follow(&self.lane)
    }

    /// Sums a range of the gradients over all ranks, while the work lane continues.
    pub(super) fn all_reduce_gradients(
        &self,
        work: &Lane,
        memory: &MemoryMap,
        range: &Range<usize>,
    ) -> Result<(), DeviceError> {
        self.lane.follow(work)?;
        let start = memory.gradients.start;
        let gradients = work.address(start + range.start * 4..start + range.end * 4);
        let gradients = gradients..gradients + range.len() as u64 * 4;
        self.communicator.call(|nccl, comm| nccl.all_reduce(comm, &self.lane, &gradients))
    }

    /// Returns an error if another rank was lost: then waits have ended before their work was done.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        self.communicator.check()
    }

    /// Makes the work lane wait for all exchanges before its next work.
    pub(super) fn wait_before(&self, work: &Lane) -> Result<(), DeviceError> {
        work.follow(&self.lane)
    }
}

impl Drop for Collectives {
    fn drop(&mut self) {
        self.communicator.close(&self.lane);
    }
}
