//! Exchanges between the GPUs of the ranks, by NCCL. They run on a lane of their own, in parallel with the
//! backward pass.

#![expect(unsafe_code, reason = "calls of NCCL")]

use std::ffi::{c_int, c_void};
use std::ops::Range;

use cudarc::nccl::{result as nccl, sys};
use forebay::gpu::{DeviceError, Gpu, Lane};
use forebay_types::Rank;

use super::memory_map::MemoryMap;
use crate::Error;
use crate::process_group::ProcessGroup;

/// Length of NCCL's unique id in words of 8 bytes, as which it is broadcast.
const WORDS: usize = 16;

/// The communicator of a world of GPUs.
pub(super) struct Collectives {
    comm: sys::ncclComm_t,
    lane: Lane,
    device: u32,
    rank: Rank,
}

impl Collectives {
    /// Connects to the GPUs of the other ranks. Returns `None` in a world of one.
    pub(super) fn connect(device: &Gpu, group: &mut ProcessGroup) -> Result<Option<Self>, Error> {
        let own = group.rank();
        if own.world < 2 {
            return Ok(None);
        }
        // SAFETY: loading the library runs its initializers, which have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            let help = "install NCCL 2 for CUDA 12 and add its folder to LD_LIBRARY_PATH";
            let (device, library) = (device.number(), "libnccl");
            return Err(DeviceError::NoLibrary { device, library, help }.into());
        }
        device.bind()?;
        let failed = |call| move |status| failed(device.number(), call, &status);
        let mut id = sys::ncclUniqueId { internal: [0; 8 * WORDS] };
        if own.rank == 0 {
            id = nccl::get_uniqueid().map_err(failed("ncclGetUniqueId"))?;
        }
        let mut words = [0_u64; WORDS];
        for (word, bytes) in words.iter_mut().zip(id.internal.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(bytes.map(|byte| byte.to_ne_bytes()[0]));
        }
        group.broadcast(&mut words)?;
        for (word, bytes) in words.iter().zip(id.internal.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes().map(|byte| std::ffi::c_char::from_ne_bytes([byte]));
        }
        let lane = device.lane(1, 256)?;
        let mut comm = std::ptr::null_mut();
        let [world, rank] = [own.world, own.rank].map(|n| c_int::try_from(n).expect("below 2^31"));
        // SAFETY: a place for the result, and the id that rank 0 created.
        let created = unsafe { nccl::comm_init_rank(&raw mut comm, world, id, rank) };
        created.map_err(failed("ncclCommInitRank"))?;
        Ok(Some(Self { comm, lane, device: device.number(), rank: own }))
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
        // SAFETY: the rank's own values are at their position among those of all ranks, as NCCL requires for
        // in-place operation; the lanes are ordered by `follow`.
        let done = unsafe {
            nccl::all_gather(
                own as *const c_void,
                to as *mut c_void,
                each,
                sys::ncclDataType_t::ncclFloat32,
                self.comm,
                self.lane.stream().cu_stream().cast(),
            )
        };
        done.map_err(|status| failed(self.device, "ncclAllGather", &status))?;
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
        // SAFETY: memory of the work lane, which does not access the range before `wait_before`.
        let done = unsafe {
            nccl::all_reduce(
                gradients as *const c_void,
                gradients as *mut c_void,
                range.len(),
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.lane.stream().cu_stream().cast(),
            )
        };
        done.map(drop).map_err(|status| failed(self.device, "ncclAllReduce", &status))
    }

    /// Makes the work lane wait for all exchanges before its next work.
    pub(super) fn wait_before(&self, work: &Lane) -> Result<(), DeviceError> {
        work.follow(&self.lane)
    }
}

fn failed(device: u32, call: &'static str, status: &nccl::NcclError) -> DeviceError {
    DeviceError::Driver { device, call, status: format!("{:?}", status.0) }
}

impl Drop for Collectives {
    fn drop(&mut self) {
        let waited = self.lane.wait();
        // SAFETY: the communicator was created once and is destroyed once. A failure has no consequence here.
        unsafe {
            match waited {
                Ok(()) => nccl::comm_destroy(self.comm).ok(),
                Err(_reported) => nccl::comm_abort(self.comm).ok(),
            };
        }
    }
}

impl std::fmt::Debug for Collectives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collectives({:?})", self.rank)
    }
}
