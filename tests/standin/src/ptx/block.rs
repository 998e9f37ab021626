//! The execution of a block: threads run in turn, each to its next barrier or to where its warp must converge.

use super::code::Code;
use super::decode::Program;
use super::position::Position;
use super::spaces::Spaces;
use super::thread::{Stop, Thread};
use super::thread_fault::ThreadFault;
use crate::engine::{Fault, FaultKind, Order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Fresh,
    Ready,
    Converge(u32),
    Barrier(u32),
    Done,
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) status: Status,
    /// The thread, while it runs or waits.
    pub(super) thread: Option<Box<Thread>>,
    /// The time slices used since the last barrier.
    pub(super) turns: u32,
}

/// Runs the blocks of a launch sequentially.
pub(super) struct Blocks<'l> {
    pub(super) program: &'l Program,
    pub(super) spaces: Spaces<'l>,
    pub(super) order: Order,
    pub(super) threads: Vec<Turn>,
    /// Finished threads, whose memory is reused.
    #[expect(clippy::vec_box, reason = "they come from and go to `threads`, and are large")]
    pool: Vec<Box<Thread>>,
    position: Position,
    /// The number of threads that arrived at each named barrier without waiting.
    pub(super) arrived: [u64; 16],
    /// The time slices that a thread may use between two barriers, before it counts as hanging.
    patience: u32,
    /// The number of executed instructions.
    pub(super) steps: u64,
}

impl<'l> Blocks<'l> {
    pub(super) fn new(
        program: &'l Program,
        spaces: Spaces<'l>,
        order: Order,
        patience: u32,
    ) -> Self {
        Self {
            program,
            spaces,
            order,
            threads: Vec::new(),
            pool: Vec::new(),
            position: Position::default(),
            arrived: [0; 16],
            patience,
            steps: 0,
        }
    }

    /// Runs the block at a position, whose thread is ignored.
    pub(super) fn run(&mut self, position: Position) -> Result<(), Fault> {
        self.position = position;
        self.arrived = [0; 16];
        let dynamic = (self.program.dynamic, u64::from(position.dynamic_shared));
        self.spaces.shared.reset(&self.program.shared, dynamic);
        self.threads.clear();
        let count = position.ntid.iter().product::<u32>() as usize;
        self.threads.resize_with(count, || Turn { status: Status::Fresh, thread: None, turns: 0 });
        let warps = count.div_ceil(32);
        loop {
            for warp in 0..warps {
                self.run_warp(self.turn(warp, warps))?;
            }
            let is = |status| self.threads.iter().filter(|t| t.status == status).count();
            if is(Status::Done) == count {
                return Ok(());
            }
            if is(Status::Ready) == 0 && !self.release_barriers() {
                return Err(self.divergence());
            }
        }
    }

    /// The index that is at `index` of `count` in the order of this launch.
    fn turn(&self, index: usize, count: usize) -> usize {
        match self.order {
            Order::Forward => index,
            Order::Reverse => count - 1 - index,
        }
    }

    /// Runs a warp until each lane has ended, waits at a barrier, or has used up its time slice.
    fn run_warp(&mut self, warp: usize) -> Result<(), Fault> {
        let first = warp * 32;
        let count = (self.threads.len() - first).min(32);
        loop {
            let mut ran = false;
            let mut time_slice_over = false;
            for lane in 0..count {
                let index = first + self.turn(lane, count);
                if matches!(self.threads[index].status, Status::Fresh | Status::Ready) {
                    time_slice_over |= self.run_thread(index)?;
                    ran = true;
                }
            }
            let converged = self.converge(first, count)?;
            if time_slice_over || !(ran || converged) {
                break;
            }
        }
        let waits = |t: &Turn| matches!(t.status, Status::Converge(_));
        let ready = |t: &Turn| t.status == Status::Ready;
        let lanes = &self.threads[first..first + count];
        match lanes.iter().position(waits) {
            Some(lane) if !lanes.iter().any(ready) => Err(self.absent_lane(first, first + lane)),
            _ => Ok(()),
        }
    }

    /// Runs a thread. Returns whether it used up its time slice.
    fn run_thread(&mut self, index: usize) -> Result<bool, Fault> {
        let codes = &self.program.codes;
        let mut thread = self.threads[index].thread.take();
        if thread.is_none() {
            let mut fresh = self.pool.pop().unwrap_or_default();
            let position = self.position_of(index);
            fresh.start(position, codes).map_err(|fault| self.fault(index, None, fault))?;
            thread = Some(fresh);
        }
        let Some(mut thread) = thread else { return Ok(false) };
        let before = thread.steps;
        let stop = thread.run(codes, &mut self.spaces);
        self.steps += thread.steps - before;
        let stop = stop.map_err(|fault| self.fault(index, line(codes, &thread), fault))?;
        let slot = &mut self.threads[index];
        slot.status = match stop {
            Stop::Exit => {
                self.pool.push(thread);
                slot.status = Status::Done;
                return Ok(false);
            }
            Stop::TimeSlice => {
                slot.turns += 1;
                if slot.turns > self.patience {
                    let what =
                        format!("{} instructions without end: the kernel hangs", thread.steps);
                    let fault = ThreadFault::new(FaultKind::LaunchFailed, what);
                    return Err(self.fault(index, line(codes, &thread), fault));
                }
                Status::Ready
            }
            Stop::Converge(op) => Status::Converge(op),
            Stop::Barrier(barrier) => Status::Barrier(barrier),
        };
        slot.thread = Some(thread);
        if let Stop::Barrier(_) = stop {
            self.arrive(index);
        }
        Ok(stop == Stop::TimeSlice)
    }

    /// `bar.arrive` counts the thread, which continues.
    fn arrive(&mut self, index: usize) {
        let Some((barrier, id)) = self.barrier(index) else { return };
        if barrier.arrive {
            self.arrived[id] += 1;
            let slot = &mut self.threads[index];
            slot.status = Status::Ready;
            slot.thread.iter_mut().for_each(|thread| thread.advance());
        }
    }

    fn position_of(&self, index: usize) -> Position {
        let index = u32::try_from(index).unwrap_or(0);
        let [x, y, _] = self.position.ntid;
        Position { tid: [index % x, index / x % y, index / x / y], index, ..self.position }
    }

    pub(super) fn fault(&self, index: usize, line: Option<u32>, fault: ThreadFault) -> Fault {
        let at = Some((self.position.ctaid, self.position_of(index).tid));
        Fault { kind: fault.kind, what: fault.what, at, line }
    }

    /// The function and the instruction of a thread.
    pub(super) fn site(&self, index: usize) -> Option<(usize, usize)> {
        let frame = self.threads[index].thread.as_ref()?.frame();
        Some((frame.code, frame.at))
    }
}

pub(super) fn line(codes: &[Code], thread: &Thread) -> Option<u32> {
    let frame = thread.frame();
    codes[frame.code].line(frame.at)
}
