//! The position of a thread, which special registers hold.

use super::code::Special;

/// The position of a thread in the launch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    pub(super) tid: [u32; 3],
    pub(super) ntid: [u32; 3],
    pub(super) ctaid: [u32; 3],
    pub(super) nctaid: [u32; 3],
    /// The index in the block.
    pub(super) index: u32,
    pub(super) dynamic_shared: u32,
}

impl Position {
    pub(super) fn special(&self, special: Special, local: u64) -> u64 {
        let lane = self.index % 32;
        let below = (1_u32 << lane) - 1;
        u64::from(match special {
            Special::Tid(axis) => self.tid[axis],
            Special::Ntid(axis) => self.ntid[axis],
            Special::Ctaid(axis) => self.ctaid[axis],
            Special::Nctaid(axis) => self.nctaid[axis],
            Special::Lane => lane,
            Special::Warp => self.index / 32,
            Special::Warps => self.ntid.iter().product::<u32>().div_ceil(32),
            Special::LanesEqual => 1 << lane,
            Special::LanesBelow => below,
            Special::LanesUpTo => below | 1 << lane,
            Special::LanesAbove => !(below | 1 << lane),
            Special::LanesFrom => !below,
            Special::DynamicShared => self.dynamic_shared,
            Special::Carry => 0,
            Special::Local(offset) => return local + offset,
        })
    }
}
