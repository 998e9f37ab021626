//! A thread: its frames, and the loop that runs it until it must wait.

use super::access::{atomic, load, store};
use super::code::{Code, Instr, Slot};
use super::position::Position;
use super::spaces::{Spaces, ThreadMemory};
use super::thread_fault::ThreadFault;
use crate::engine::FaultKind;

/// The contents of uninitialized local memory: a NaN, as in device memory.
const POISON: [u8; 4] = 0x7fba_dbad_u32.to_le_bytes();
/// The maximum depth of nested calls.
const DEPTH: usize = 1000;
/// The number of instructions in a time slice, after which other threads run.
const TURN: u64 = 1 << 20;

/// Why a thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Exit,
    /// It waits at such an instruction, whose index in the list of the code this is.
    Barrier(u32),
    Converge(u32),
    /// It used up its time slice, possibly while it waits for another thread in a loop.
    TimeSlice,
}

/// The frame of a function call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) code: usize,
    /// The next instruction. After a stop or a fault, the instruction where it happened.
    pub(super) at: usize,
    slots: usize,
    local: usize,
    arguments: usize,
}

#[derive(Debug, Default)]
pub(super) struct Thread {
    pub(super) position: Position,
    frames: Vec<Frame>,
    slots: Vec<u64>,
    local: Vec<u8>,
    arguments: Vec<u8>,
    /// The number of executed instructions.
    pub(super) steps: u64,
}

impl Thread {
    /// Resets the thread to the start of the kernel.
    pub(super) fn start(&mut self, position: Position, codes: &[Code]) -> Result<(), ThreadFault> {
        self.position = position;
        self.frames.clear();
        self.slots.clear();
        self.local.clear();
        self.arguments.clear();
        self.steps = 0;
        self.enter(0, &codes[0])
    }

    /// The innermost frame. That of a thread that has ended is at its end.
    pub(super) fn frame(&self) -> Frame {
        let none = Frame { code: 0, at: usize::MAX, slots: 0, local: 0, arguments: 0 };
        self.frames.last().copied().unwrap_or(none)
    }

    pub(super) fn get(&self, slot: Slot) -> u64 {
        self.slots[self.frame().slots + usize::from(slot)]
    }

    pub(super) fn set(&mut self, slot: Slot, value: u64) {
        let start = self.frame().slots;
        self.slots[start + usize::from(slot)] = value;
    }

    /// Moves past the instruction where the thread waited.
    pub(super) fn advance(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    fn enter(&mut self, index: usize, code: &Code) -> Result<(), ThreadFault> {
        if self.frames.len() >= DEPTH {
            let what = format!("{DEPTH} calls deep: the stack overflows");
            return Err(ThreadFault::new(FaultKind::LaunchFailed, what));
        }
        let slots = self.slots.len();
        self.slots.extend_from_slice(&code.slots);
        let local = self.local.len().next_multiple_of(16);
        let local_end = local + usize::try_from(code.local_bytes).unwrap_or(0).next_multiple_of(4);
        self.local.resize(local, 0);
        while self.local.len() < local_end {
            self.local.extend_from_slice(&POISON);
        }
        let arguments = self.arguments.len().next_multiple_of(16);
        self.arguments.resize(arguments + code.argument_bytes, 0);
        for &(slot, special) in &code.specials {
            self.slots[slots + usize::from(slot)] = self.position.special(special, local as u64);
        }
        self.frames.push(Frame { code: index, at: 0, slots, local, arguments });
        Ok(())
    }

    fn call(&mut self, index: u32, codes: &[Code]) -> Result<(), ThreadFault> {
        let from = self.frame();
        let call = &codes[from.code].calls[index as usize];
        self.enter(call.code, &codes[call.code])?;
        let to = self.frame();
        for &(ours, theirs, bytes) in &call.params {
            let start = from.arguments + ours;
            self.arguments.copy_within(start..start + bytes, to.arguments + theirs);
        }
        Ok(())
    }

    /// Returns from a function to the instruction after the call.
    fn leave(&mut self, codes: &[Code]) {
        let Some(from) = self.frames.pop() else { return };
        let to = self.frame();
        if let Some(Instr::Call(index)) = codes[to.code].instrs.get(to.at.wrapping_sub(1)) {
            for &(ours, theirs, bytes) in &codes[to.code].calls[*index as usize].returns {
                let start = from.arguments + theirs;
                self.arguments.copy_within(start..start + bytes, to.arguments + ours);
            }
        }
        self.slots.truncate(from.slots);
        self.local.truncate(from.local);
        self.arguments.truncate(from.arguments);
    }

    /// Runs until the thread ends or must wait.
    pub(super) fn run(
        &mut self,
        codes: &[Code],
        spaces: &mut Spaces<'_>,
    ) -> Result<Stop, ThreadFault> {
        let until = self.steps + TURN;
        loop {
            let code = &codes[self.frame().code];
            match self.run_frame(code, spaces, until)? {
                Next::Call(index) => self.call(index, codes)?,
                Next::Return => self.leave(codes),
                Next::Stop(stop) => return Ok(stop),
            }
        }
    }

    /// Runs within one function.
    fn run_frame(
        &mut self,
        code: &Code,
        spaces: &mut Spaces<'_>,
        until: u64,
    ) -> Result<Next, ThreadFault> {
        let Self { position, frames, slots, local, arguments, steps } = self;
        let Some(frame) = frames.last_mut() else { return Ok(Next::Stop(Stop::Exit)) };
        let mut count = *steps;
        let mut at = frame.at;
        let s = &mut slots[frame.slots..frame.slots + code.slots.len()];
        let (index, frame_arguments) = (position.index, frame.arguments);
        // It stops at the instruction or after it.
        let (next, stands) = loop {
            let Some(&instr) = code.instrs.get(at) else { break (Ok(Next::Stop(Stop::Exit)), at) };
            let here = at;
            at += 1;
            count += 1;
            match instr {
                Instr::Pure { f, to, from: [a, b, c] } => {
                    s[usize::from(to)] = f(s[usize::from(a)], s[usize::from(b)], s[usize::from(c)]);
                }
                Instr::Jump { to } => {
                    at = to as usize;
                    if count > until {
                        break (Ok(Next::Stop(Stop::TimeSlice)), at);
                    }
                }
                Instr::JumpIf { test, wanted, to } => {
                    if (s[usize::from(test)] & 1 == 1) == wanted {
                        at = to as usize;
                        if count > until {
                            break (Ok(Next::Stop(Stop::TimeSlice)), at);
                        }
                    }
                }
                Instr::Load { ref place, to, used } => {
                    let own = ThreadMemory { local, arguments, frame_arguments, index };
                    if let Err(fault) = load(place, to, used, s, spaces, &own) {
                        break (Err(fault), here);
                    }
                }
                Instr::Store { ref place, from } => {
                    let mut own = ThreadMemory { local, arguments, frame_arguments, index };
                    if let Err(fault) = store(place, from, s, spaces, &mut own) {
                        break (Err(fault), here);
                    }
                }
                Instr::Atomic { ref place, f, to, with } => {
                    let mut own = ThreadMemory { local, arguments, frame_arguments, index };
                    let [b, c] = with.map(|slot| s[usize::from(slot)]);
                    match atomic(place, |old| f(old, b, c), s, spaces, &mut own) {
                        Ok(old) => s[usize::from(to)] = old,
                        Err(fault) => break (Err(fault), here),
                    }
                }
                Instr::Clock { to } => s[usize::from(to)] = count,
                Instr::Divisor(slot) if s[usize::from(slot)] != 0 => {}
                Instr::Converge(index) => break (Ok(Next::Stop(Stop::Converge(index))), here),
                Instr::Barrier(index) => break (Ok(Next::Stop(Stop::Barrier(index))), here),
                Instr::Call(index) => break (Ok(Next::Call(index)), at),
                Instr::Return => break (Ok(Next::Return), at),
                Instr::Exit => break (Ok(Next::Stop(Stop::Exit)), at),
                Instr::Divisor(_) | Instr::Trap | Instr::Unsupported(_) => {
                    break (Err(instruction_fault(instr, code)), here);
                }
            }
        };
        frame.at = stands;
        *steps = count;
        next
    }
}

/// The fault of an instruction that cannot be executed.
fn instruction_fault(instr: Instr, code: &Code) -> ThreadFault {
    let (kind, what) = match instr {
        Instr::Trap => (FaultKind::Assert, "the kernel trapped"),
        Instr::Unsupported(index) => {
            (FaultKind::IllegalInstruction, code.unsupported[index as usize].as_str())
        }
        _ => (FaultKind::OnlyHere, "integer division by zero"),
    };
    ThreadFault::new(kind, what)
}

enum Next {
    Call(u32),
    Return,
    Stop(Stop),
}
