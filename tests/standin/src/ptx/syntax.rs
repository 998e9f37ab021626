//! The syntax of a module.

/// A module.
#[derive(Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) variables: Vec<Variable<'a>>,
    pub(super) functions: Vec<Function<'a>>,
}

/// A variable or parameter in a state space.
#[derive(Clone, Debug)]
pub(super) struct Variable<'a> {
    pub(super) name: &'a str,
    /// `.global`, `.const`, `.shared`, `.local` or `.param`.
    pub(super) space: &'a str,
    pub(super) align: u64,
    /// The size, which is 0 for an array without bounds: dynamic shared memory.
    pub(super) bytes: u64,
    /// The initial bytes, or empty.
    pub(super) initial: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) entry: bool,
    pub(super) returns: Vec<Variable<'a>>,
    pub(super) params: Vec<Variable<'a>>,
    pub(super) max_threads: Option<u32>,
    /// The body, or `None` for a declaration.
    pub(super) body: Option<Vec<Statement<'a>>>,
}

impl<'a> Function<'a> {
    /// All names among the operands of a function.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.body
            .iter()
            .flatten()
            .flat_map(|statement| match statement {
                Statement::Op { operands, .. } => operands.as_slice(),
                _ => &[],
            })
            .filter_map(|operand| match operand {
                Operand::Name(name) | Operand::Address(Some(name), _) => Some(*name),
                _ => None,
            })
    }
}

#[derive(Debug)]
pub(super) enum Statement<'a> {
    Open,
    Close,
    Label(&'a str),
    /// `.reg .b32 %r<47>` declares `count` names, `.reg .pred p` one.
    Registers {
        kind: &'a str,
        name: &'a str,
        count: Option<u64>,
    },
    Variable(Variable<'a>),
    Pragma(&'a str),
    Op {
        /// The line of the `.cu` file, 0 if unknown.
        line: u32,
        /// `@%p` or `@!%p`: the register, and the value that it must have.
        guard: Option<(&'a str, bool)>,
        name: &'a str,
        operands: Vec<Operand<'a>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand<'a> {
    /// A register, special register, variable, label or function.
    Name(&'a str),
    Not(&'a str),
    Int(u64),
    Single(u32),
    Double(u64),
    /// `{a, b}` and `(a, b)`
    Group(Vec<Operand<'a>>),
    /// `[base+offset]`. `[16]` has no base.
    Address(Option<&'a str>, i64),
    /// `d|p`
    Pair(Box<(Operand<'a>, Operand<'a>)>),
}

/// The size in bytes of a fundamental type, whose name includes the dot.
pub(super) fn width_of(kind: &str) -> Option<u64> {
    Some(match kind.trim_start_matches('.') {
        "b8" | "u8" | "s8" | "pred" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}
