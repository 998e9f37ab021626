//! The code that the interpreter executes: small instructions on numbered slots.
//!
//! A slot is a `u64` with a register, a constant, a special register or an intermediate value, zero-extended from its own width.
//! Every operand is therefore a slot, and everything that only computes is one instruction: a function of three slots.

/// The number of a slot in a frame.
pub(super) type Slot = u16;

/// The slot that always holds 0.
pub(super) const ZERO: Slot = 0;

/// A computation. It uses the bits of each operand that its type has.
pub(super) type Pure = fn(u64, u64, u64) -> u64;

#[derive(Clone, Copy, Debug)]
pub(super) enum Instr {
    Pure {
        f: Pure,
        to: Slot,
        from: [Slot; 3],
    },
    Jump {
        to: u32,
    },
    JumpIf {
        test: Slot,
        wanted: bool,
        to: u32,
    },
    Load {
        place: Place,
        to: [Slot; 4],
        used: u16,
    },
    Store {
        place: Place,
        from: [Slot; 4],
    },
    Atomic {
        place: Place,
        f: Pure,
        to: Slot,
        with: [Slot; 2],
    },
    /// Index into [`Code::convergences`].
    Converge(u32),
    /// Index into [`Code::barriers`].
    Barrier(u32),
    /// Index into [`Code::calls`].
    Call(u32),
    /// An integer divisor, which must not be zero.
    Divisor(Slot),
    Return,
    Exit,
    Trap,
    Clock {
        to: Slot,
    },
    /// Index into [`Code::unsupported`].
    Unsupported(u32),
}

/// The memory of an access: `count` elements of `width` bytes from `base + offset` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) base: Slot,
    pub(super) offset: i32,
    pub(super) space: Space,
    pub(super) width: u8,
    pub(super) count: u8,
    /// Whether the access is `.volatile`, or another one that threads may make concurrently.
    pub(super) shared_freely: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Global, constant or generic, which the address distinguishes.
    Generic,
    Shared,
    Local,
    /// The parameters of the kernel.
    Param,
    /// The parameters and results of functions, in the frame.
    Argument,
}

/// A warp-level operation, at which the lanes of a mask must converge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Converge {
    pub(super) what: WarpOp,
    pub(super) to: Slot,
    /// A second result, a predicate.
    pub(super) flag: Slot,
    pub(super) value: Slot,
    pub(super) mask: Slot,
    /// For a shuffle: the lane, and the clamp with the segment mask.
    pub(super) lane: Slot,
    pub(super) clamp: Slot,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum WarpOp {
    ShuffleIndex,
    ShuffleUp,
    ShuffleDown,
    ShuffleXor,
    Ballot,
    Any,
    All,
    Uniform,
    MatchAny,
    MatchAll,
    /// A reduction of all values.
    Reduce(Pure),
    ActiveMask,
    Sync,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    pub(super) id: Slot,
    /// The number of threads that it waits for. `None` for all.
    pub(super) count: Option<Slot>,
    /// Whether it is `bar.arrive`, which counts the thread but does not wait.
    pub(super) arrive: bool,
    /// For `bar.red`: the predicate, the reduction, and the slot of the result.
    pub(super) vote: Option<(Slot, Vote, Slot)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    Count,
    And,
    Or,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The index of the function in the program.
    pub(super) code: usize,
    /// The bytes to copy in and, on return, out: (caller's offset, callee's offset, count), in the argument space of both frames.
    pub(super) params: Vec<(usize, usize, usize)>,
    pub(super) returns: Vec<(usize, usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    Lane,
    Warp,
    Warps,
    LanesEqual,
    LanesBelow,
    LanesUpTo,
    LanesAbove,
    LanesFrom,
    DynamicShared,
    /// The carry flag of `add.cc`; 0 at first.
    Carry,
    /// The address of a variable in local memory.
    Local(u64),
}

/// A decoded function.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) instrs: Vec<Instr>,
    /// The line in the `.cu` file of each instruction, 0 if unknown.
    pub(super) lines: Vec<u32>,
    /// The initial values of the slots of a frame: constants and zeros.
    pub(super) slots: Vec<u64>,
    pub(super) specials: Vec<(Slot, Special)>,
    pub(super) convergences: Vec<Converge>,
    pub(super) barriers: Vec<Barrier>,
    pub(super) calls: Vec<Call>,
    pub(super) unsupported: Vec<String>,
    /// The lines of additions that ptxas may fuse with a preceding multiplication.
    pub(super) fusible: Vec<u32>,
    pub(super) local_bytes: u64,
    pub(super) argument_bytes: usize,
}

impl Code {
    /// The line in the `.cu` file of an instruction.
    pub(super) fn line(&self, at: usize) -> Option<u32> {
        self.lines.get(at).copied().filter(|&line| line > 0)
    }
}

/// Generic addresses have their space in the upper 16 bits, which are zero for device memory.
pub(super) mod window {
    pub(in super::super) const SHIFT: u32 = 48;
    pub(in super::super) const SHARED: u64 = 1 << SHIFT;
    pub(in super::super) const LOCAL: u64 = 2 << SHIFT;
    /// The module's variables in `.global`.
    pub(in super::super) const GLOBAL: u64 = 3 << SHIFT;
    /// The module's variables in `.const`.
    pub(in super::super) const CONST: u64 = 4 << SHIFT;
    pub(in super::super) const PARAM: u64 = 5 << SHIFT;
}
