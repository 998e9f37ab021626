//! What the ranks of a world know together, by NCCL, on a lane of its own beside the backward pass.

#![expect(unsafe_code, reason = "calls of NCCL")]

use std::ffi::{c_int, c_void};
use std::ops::Range;

use cudarc::nccl::{result as nccl, sys};
use forebay::gpu::{DeviceError, Gpu, Lane};
use forebay_client::Rank;

use super::layout::Layout;
use crate::Error;
use crate::ranks::Ranks;

/// Bytes of NCCL's name for a world, as numbers that go around the ring.
const WORDS: usize = 16;

/// A world of GPUs.
pub(super) struct All {
    comm: sys::ncclComm_t,
    lane: Lane,
    device: u32,
    place: Rank,
}

impl All {
    /// Meets the other ranks' GPUs; a rank alone has nobody to meet.
    pub(super) fn meet(device: &Gpu, ranks: &mut Ranks) -> Result<Option<Self>, Error> {
        let place = ranks.place();
        if place.world < 2 {
            return Ok(None);
        }
        // SAFETY: loading the library runs its initialisers, which is what they are for.
        if !unsafe { sys::is_culib_present() } {
            let help = "install NCCL 2 for CUDA 12, and have LD_LIBRARY_PATH lead to it";
            let (device, library) = (device.number(), "libnccl");
            return Err(DeviceError::NoLibrary { device, library, help }.into());
        }
        device.bind()?;
        let failed = |call| move |status| failed(device.number(), call, &status);
        let mut id = sys::ncclUniqueId { internal: [0; 8 * WORDS] };
        if place.rank == 0 {
            id = nccl::get_uniqueid().map_err(failed("ncclGetUniqueId"))?;
        }
        let mut words = [0_u64; WORDS];
        for (word, bytes) in words.iter_mut().zip(id.internal.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(bytes.map(|byte| byte.to_ne_bytes()[0]));
        }
        ranks.broadcast(&mut words)?;
        for (word, bytes) in words.iter().zip(id.internal.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes().map(|byte| std::ffi::c_char::from_ne_bytes([byte]));
        }
        let lane = device.lane(1, 256)?;
        let mut comm = std::ptr::null_mut();
        let [world, rank] = [place.world, place.rank].map(|n| c_int::try_from(n).expect("few"));
        // SAFETY: room for the result, and the name that rank 0 made.
        let made = unsafe { nccl::comm_init_rank(&raw mut comm, world, id, rank) };
        made.map_err(failed("ncclCommInitRank"))?;
        Ok(Some(Self { comm, lane, device: device.number(), place }))
    }

    pub(super) const fn world(&self) -> usize {
        self.place.world as usize
    }

    /// Gives all ranks the batch statistics of each.
    pub(super) fn gather(&self, work: &Lane, layout: &Layout) -> Result<(), DeviceError> {
        self.lane.follow(work)?;
        let (place, each) = (&layout.statistics, layout.running_numbers);
        let to = work.address(place.clone());
        let own = to + (self.place.rank as usize * each * 4) as u64;
        // SAFETY: each rank's numbers lie in the place for all of them, as NCCL wants it for work in place; the
        // lanes are ordered.
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

    /// Sums some of the gradients over all ranks, while the work lane goes on.
    pub(super) fn sum(
        &self,
        work: &Lane,
        layout: &Layout,
        place: &Range<usize>,
    ) -> Result<(), DeviceError> {
        self.lane.follow(work)?;
        let start = layout.gradients.start;
        let at = work.address(start + place.start * 4..start + place.end * 4);
        // SAFETY: numbers of the work lane, which does not touch them before `done`.
        let done = unsafe {
            nccl::all_reduce(
                at as *const c_void,
                at as *mut c_void,
                place.len(),
                sys::ncclDataType_t::ncclFloat32,
                sys::ncclRedOp_t::ncclSum,
                self.comm,
                self.lane.stream().cu_stream().cast(),
            )
        };
        done.map(drop).map_err(|status| failed(self.device, "ncclAllReduce", &status))
    }

    /// Has the work lane wait for all sums.
    pub(super) fn done(&self, work: &Lane) -> Result<(), DeviceError> {
        work.follow(&self.lane)
    }
}

fn failed(device: u32, call: &'static str, status: &nccl::NcclError) -> DeviceError {
    DeviceError::Driver { device, call, status: format!("{:?}", status.0) }
}

impl Drop for All {
    fn drop(&mut self) {
        let waited = self.lane.wait();
        // SAFETY: made once, and ended here once. What fails here has failed before, and said so.
        unsafe {
            match waited {
                Ok(()) => nccl::comm_destroy(self.comm).ok(),
                Err(_said) => nccl::comm_abort(self.comm).ok(),
            };
        }
    }
}

impl std::fmt::Debug for All {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "All({:?})", self.place)
    }
}
