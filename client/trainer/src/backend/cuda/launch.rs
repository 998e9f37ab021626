//! Launches the kernels of kernels/*.cu: their grids and arguments.

#![expect(unsafe_code, reason = "launches of kernels")]

mod input;
mod loss;
mod norm;
mod optimizer;
mod pool;
mod scalars;

use std::ops::Range;

use forebay::gpu::{Arg, DeviceError, Grid, Kernel, Lane};

pub(super) use norm::BatchNormArgs;

use super::Precision;
use super::kernels::Kernels;
use super::memory_map::MemoryMap;

/// Threads per block, the same as in prelude.cuh.
const THREADS: usize = 256;

/// Channels per block of `norm_finish` and `norm_gradients`, and classes per block of `bias_gradient`.
const CHANNELS_PER_BLOCK: usize = 16;

/// The kernels and the lane that they run on.
#[derive(Clone, Copy)]
pub(super) struct Launcher<'a> {
    pub(super) lane: &'a Lane,
    pub(super) kernels: &'a Kernels,
    /// The kernel that mixes samples, which the pipeline shares.
    pub(super) mix_kernel: &'a Kernel,
    pub(super) memory: &'a MemoryMap,
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a tensor has fewer than 2^32 values")
}

const fn u32_arg(value: u32) -> Arg {
    Arg::U32(value)
}

impl Launcher<'_> {
    /// Launches blocks of a kernel. Does nothing for an empty grid, which CUDA refuses.
    fn run(&self, kernel: &Kernel, blocks: [usize; 2], args: &[Arg]) -> Result<(), DeviceError> {
        if blocks.contains(&0) {
            return Ok(());
        }
        let grid = Grid { blocks: blocks.map(to_u32), threads: to_u32(THREADS) };
        // SAFETY: every caller passes the arguments of the kernel's signature, and addresses of ranges of the
        // lane's memory that are as large as what the kernel accesses.
        unsafe { self.lane.launch(kernel, grid, args) }
    }

    /// Launches one thread per item.
    fn each(&self, kernel: &Kernel, items: usize, args: &[Arg]) -> Result<(), DeviceError> {
        self.run(kernel, [items.div_ceil(THREADS), 1], args)
    }

    /// Address of an f32 value in a range of the memory.
    fn address(&self, range: &Range<usize>, index: usize) -> Arg {
        let start = range.start + index * 4;
        assert!(start <= range.end, "value {index} of {range:?}");
        Arg::Address(self.lane.address(start..range.end))
    }

    const fn precision(&self) -> Precision {
        self.memory.precision
    }

    /// Values of 16 bytes, which one thread of most kernels processes.
    const fn values_per_thread(&self) -> usize {
        16 / self.precision().bytes()
    }
}
