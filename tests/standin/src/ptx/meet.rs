//! Lanes of a warp that wait for each other.

use super::block::{Blocks, Status};
use super::code::Together;
use super::trouble::Trouble;
use super::warp::{Given, result};
use crate::engine::{Fault, FaultKind};

impl Blocks<'_> {
    /// Lets one group of lanes that all wait for each other go on.
    pub(super) fn meet(&mut self, first: usize, count: usize) -> Result<bool, Fault> {
        let lanes = |of: &dyn Fn(usize) -> bool| {
            (0..count).filter(|lane| of(first + lane)).fold(0_u32, |all, lane| all | 1 << lane)
        };
        let live = lanes(&|index| self.threads[index].status != Status::Done);
        let mut active = None;
        for lane in 0..count {
            let index = first + lane;
            let Status::Meet(meet) = self.threads[index].status else { continue };
            let site = self.site(index);
            let here = lanes(&|other| self.waits_at(other, meet, site));
            let Some(what) = self.what(index, meet) else { continue };
            if matches!(what, Together::ActiveMask) {
                active.get_or_insert((here, meet));
                continue;
            }
            let mask = self.mask(index, meet);
            if mask >> lane & 1 == 0 {
                let what = format!("lane {lane} is not in its own mask {mask:#x}");
                let trouble = Trouble::new(FaultKind::LaunchFailed, what);
                return Err(self.fault(index, self.line(index), trouble));
            }
            let group = mask & live;
            let agree = lanes(&|other| {
                let at_sync = matches!(what, Together::Sync) && self.syncs(other);
                (at_sync || self.waits_at(other, meet, site)) && self.mask_of(other) == Some(mask)
            });
            if group & !agree == 0 {
                self.resolve(first, group)
                    .map_err(|trouble| self.fault(index, self.line(index), trouble))?;
                return Ok(true);
            }
        }
        let ready =
            lanes(&|index| matches!(self.threads[index].status, Status::Ready | Status::Fresh));
        match active {
            // The most that can be active together: all that will get there.
            Some((here, _)) if ready == 0 => {
                self.resolve(first, here).map_err(|trouble| self.fault(first, None, trouble))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn waits_at(&self, index: usize, meet: u32, site: Option<(usize, usize)>) -> bool {
        self.threads[index].status == Status::Meet(meet) && self.site(index) == site
    }

    fn what(&self, index: usize, meet: u32) -> Option<Together> {
        let (code, _) = self.site(index)?;
        self.program.codes[code].meets.get(meet as usize).map(|meet| meet.what)
    }

    fn syncs(&self, index: usize) -> bool {
        match self.threads[index].status {
            Status::Meet(meet) => matches!(self.what(index, meet), Some(Together::Sync)),
            _ => false,
        }
    }

    pub(super) fn mask_of(&self, index: usize) -> Option<u32> {
        match self.threads[index].status {
            Status::Meet(meet) => Some(self.mask(index, meet)),
            _ => None,
        }
    }

    fn mask(&self, index: usize, meet: u32) -> u32 {
        let thread = self.threads[index].thread.as_ref();
        let found = self.site(index).zip(thread).map(|((code, _), thread)| {
            let meet = self.program.codes[code].meets[meet as usize];
            thread.get(meet.mask) & 0xffff_ffff
        });
        u32::try_from(found.unwrap_or(0)).unwrap_or(0)
    }

    /// Gives each lane of `group`, all waiting, its result.
    fn resolve(&mut self, first: usize, group: u32) -> Result<(), Trouble> {
        let codes = &self.program.codes;
        let lanes = || (0..32_usize).filter(|lane| group >> lane & 1 == 1);
        let mut given = [Given::default(); 32];
        for lane in lanes() {
            let slot = &self.threads[first + lane];
            if let (Status::Meet(meet), Some(thread)) = (slot.status, &slot.thread) {
                let meet = codes[thread.frame().code].meets[meet as usize];
                let get = |slot| thread.get(slot);
                given[lane] =
                    Given { value: get(meet.value), lane: get(meet.lane), clamp: get(meet.clamp) };
            }
        }
        for lane in lanes() {
            let slot = &mut self.threads[first + lane];
            if let (Status::Meet(meet), Some(thread)) = (slot.status, &mut slot.thread) {
                let meet = codes[thread.frame().code].meets[meet as usize];
                let (value, flag) = result(&meet, group, &given, u32::try_from(lane).unwrap_or(0))?;
                if matches!(meet.what, Together::Sync) {
                    self.spaces.shared.warp_barrier(u32::try_from(first / 32).unwrap_or(0));
                } else {
                    thread.set(meet.to, value);
                    thread.set(meet.flag, flag);
                }
                thread.advance();
                slot.status = Status::Ready;
            }
        }
        Ok(())
    }
}
