//! What the interpreter runs: small instructions on numbered slots.
//!
//! A slot is a `u64` and holds a register, a constant, a special register or an intermediate value; a value is
//! zero-extended from its own width. So an operand is a slot and nothing else, and everything that only computes is
//! one instruction: a function of three slots.

/// Number of a slot in a frame.
pub(super) type Slot = u16;

/// Always holds 0.
pub(super) const ZERO: Slot = 0;

/// A computation. It reads of each operand the bits that its type has.
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
    /// Index into [`Code::meets`].
    Meet(u32),
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
    /// Index into [`Code::refused`].
    Refuse(u32),
}

/// Where an access goes: `count` elements of `width` bytes from `base + offset` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) base: Slot,
    pub(super) offset: i32,
    pub(super) space: Space,
    pub(super) width: u8,
    pub(super) count: u8,
    /// `.volatile`, or another access that threads may make at the same time.
    pub(super) shared_freely: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Global, constant or generic: the address says which.
    Generic,
    Shared,
    Local,
    /// Parameters of the kernel.
    Param,
    /// Parameters and results of functions, in the frame.
    Argument,
}

/// Something that lanes of a warp do together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meet {
    pub(super) what: Together,
    pub(super) to: Slot,
    /// A second result, a predicate.
    pub(super) flag: Slot,
    pub(super) value: Slot,
    pub(super) mask: Slot,
    /// Of a shuffle: which lane, and the clamp with the segment mask.
    pub(super) lane: Slot,
    pub(super) clamp: Slot,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Together {
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
    /// A fold of all values.
    Reduce(Pure),
    ActiveMask,
    Sync,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Barrier {
    pub(super) id: Slot,
    /// Threads that it waits for; absent for all.
    pub(super) count: Option<Slot>,
    /// `bar.arrive`: counted, but does not wait.
    pub(super) arrive: bool,
    /// `bar.red`: the predicate, what of it, and where the result goes.
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
    /// Index of the function in the program.
    pub(super) code: usize,
    /// Bytes to copy in and, on return, out: (ours, theirs, how many), in the argument space of both frames.
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
    /// Address of a variable in local memory.
    Local(u64),
}

/// A function, decoded.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) instrs: Vec<Instr>,
    /// For each instruction its line in the `.cu` file, 0 if unknown.
    pub(super) lines: Vec<u32>,
    /// What slots hold when a frame starts: constants, and zeros.
    pub(super) slots: Vec<u64>,
    pub(super) specials: Vec<(Slot, Special)>,
    pub(super) meets: Vec<Meet>,
    pub(super) barriers: Vec<Barrier>,
    pub(super) calls: Vec<Call>,
    pub(super) refused: Vec<String>,
    /// Lines of additions that ptxas may fuse with a multiplication before them.
    pub(super) fusible: Vec<u32>,
    pub(super) local_bytes: u64,
    pub(super) argument_bytes: usize,
}

impl Code {
    /// Line of the `.cu` file of an instruction.
    pub(super) fn line(&self, at: usize) -> Option<u32> {
        self.lines.get(at).copied().filter(|&line| line > 0)
    }
}

/// Generic addresses carry their space in the upper 16 bits; device memory has zeros there.
pub(super) mod window {
    pub(in super::super) const SHIFT: u32 = 48;
    pub(in super::super) const SHARED: u64 = 1 << SHIFT;
    pub(in super::super) const LOCAL: u64 = 2 << SHIFT;
    /// Variables of the module in `.global`.
    pub(in super::super) const GLOBAL: u64 = 3 << SHIFT;
    /// Variables of the module in `.const`.
    pub(in super::super) const CONST: u64 = 4 << SHIFT;
    pub(in super::super) const PARAM: u64 = 5 << SHIFT;
}
