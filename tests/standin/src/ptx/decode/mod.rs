//! Decodes the statements of a function to instructions of the interpreter.
//!
//! An instruction of PTX becomes one instruction if possible, otherwise a few: `.ftz`, `.sat` and negated predicates are separate
//! steps. An unsupported instruction becomes [`Instr::Unsupported`], which is a fault only if a thread reaches it.

mod compute;
mod control;
mod convert;
mod layout;
mod memory;
mod modifiers;
mod moves;
mod operand;
mod program;
mod scope;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::layout::Globals;
use self::layout::{ARGUMENT_ALIGN, Layout};
pub(super) use self::program::{Program, program};
use self::scope::{Scopes, Symbol};
use super::code::{Code, Instr, Pure, Slot, ZERO};
use super::ops::select;
use super::syntax::{Function, Operand, Statement, Variable, width_of};

struct Decoder<'p, 'a> {
    layout: &'p Layout<'a>,
    entry: bool,
    code: Code,
    scopes: Scopes<'a>,
    constants: BTreeMap<u64, Slot>,
    /// Jumps whose label may follow later: instruction, scope, label.
    jumps: Vec<(usize, usize, &'a str)>,
    line: u32,
    /// Registers with a product that has no explicit rounding.
    products: BTreeSet<Slot>,
    /// The bytes that the next load needs, from the last `used_bytes_mask` pragma.
    used: Option<u16>,
}

/// Decodes one function.
fn function<'a>(layout: &Layout<'a>, function: &Function<'a>) -> Result<Code, String> {
    let mut decoder = Decoder {
        layout,
        entry: function.entry,
        code: Code { slots: vec![0], ..Code::default() },
        scopes: Scopes::default(),
        constants: BTreeMap::from([(0, ZERO)]),
        jumps: Vec::new(),
        line: 0,
        products: BTreeSet::new(),
        used: None,
    };
    decoder.params(function)?;
    for statement in function.body.iter().flatten() {
        decoder.statement(statement)?;
    }
    decoder.push(if function.entry { Instr::Exit } else { Instr::Return });
    decoder.link()?;
    Ok(decoder.code)
}

impl<'a> Decoder<'_, 'a> {
    fn params(&mut self, function: &Function<'a>) -> Result<(), String> {
        if function.entry {
            for (param, &(offset, _)) in function.params.iter().zip(&self.layout.params) {
                self.scopes.define(param.name, Symbol::Param(offset as u64));
            }
            return Ok(());
        }
        for param in function.returns.iter().chain(&function.params) {
            self.argument(param)?;
        }
        Ok(())
    }

    /// Allocates a parameter of a function, or of a call, in the frame.
    fn argument(&mut self, variable: &Variable<'a>) -> Result<(), String> {
        if variable.space != ".param" {
            return Err(format!("`{}`: parameters in registers are not supported", variable.name));
        }
        let offset = self.code.argument_bytes.next_multiple_of(ARGUMENT_ALIGN);
        self.code.argument_bytes = offset + usize::try_from(variable.bytes).unwrap_or(0);
        self.scopes.define(variable.name, Symbol::Argument(offset as u64));
        Ok(())
    }

    fn statement(&mut self, statement: &Statement<'a>) -> Result<(), String> {
        match statement {
            Statement::Open => self.scopes.open(),
            Statement::Close => self.scopes.close(),
            Statement::Label(name) => self.scopes.label(name, self.code.instrs.len())?,
            Statement::Registers { kind, name, count } => {
                self.scopes.registers(name, *count, width_of(kind).unwrap_or(8));
            }
            Statement::Variable(variable) => self.variable(variable)?,
            Statement::Pragma(text) => {
                let mask = text.strip_prefix("used_bytes_mask ");
                self.used = mask.and_then(|mask| mask.trim().parse().ok());
            }
            Statement::Op { line, guard, name, operands } => {
                self.line = *line;
                self.guarded(*guard, name, operands);
                self.used = None;
            }
        }
        Ok(())
    }

    fn variable(&mut self, variable: &Variable<'a>) -> Result<(), String> {
        match variable.space {
            ".param" => self.argument(variable)?,
            ".local" => {
                let offset = self.code.local_bytes.next_multiple_of(variable.align);
                self.code.local_bytes = offset + variable.bytes;
                self.scopes.define(variable.name, Symbol::Local(offset));
            }
            // Shared variables are allocated for the whole kernel.
            ".shared" => {}
            space => return Err(format!("`{}`: {space} inside a function", variable.name)),
        }
        Ok(())
    }

    /// Decodes an instruction and its `@%p`.
    fn guarded(&mut self, guard: Option<(&'a str, bool)>, name: &'a str, operands: &[Operand<'a>]) {
        let start = self.code.instrs.len();
        if let Err(why) = self.try_guarded(guard, name, operands) {
            self.code.instrs.truncate(start);
            self.code.lines.truncate(start);
            self.jumps.retain(|jump| jump.0 < start);
            let index = next_index(&self.code.unsupported);
            self.code.unsupported.push(why);
            self.push(Instr::Unsupported(index));
        }
    }

    fn try_guarded(
        &mut self,
        guard: Option<(&'a str, bool)>,
        name: &'a str,
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let Some((test, wanted)) = guard else { return self.op(name, operands) };
        let test = self.register(test)?.0;
        if name == "bra" || name == "bra.uni" {
            return self.jump(operands, |to| Instr::JumpIf { test, wanted, to });
        }
        let skip = self.code.instrs.len();
        self.push(Instr::JumpIf { test, wanted: !wanted, to: 0 });
        self.op(name, operands)?;
        self.set_target(skip, self.code.instrs.len())
    }

    fn op(&mut self, name: &'a str, operands: &[Operand<'a>]) -> Result<(), String> {
        let mut parts = name.split('.');
        let op = parts.next().unwrap_or(name);
        let modifiers: Vec<&str> = parts.collect();
        let unknown = || format!("no such instruction here: `{name}`");
        match op {
            "bra" => self.jump(operands, |to| Instr::Jump { to }),
            "ret" | "exit" => {
                let leaves = op == "exit" || self.entry;
                self.push(if leaves { Instr::Exit } else { Instr::Return });
                Ok(())
            }
            "trap" | "brkpt" => {
                self.push(Instr::Trap);
                Ok(())
            }
            "call" => self.call(operands),
            // Memory is sequentially consistent, and nothing takes time.
            "membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" | "discard" => Ok(()),
            "ld" | "ldu" => self.load(&modifiers, operands),
            "st" => self.store(&modifiers, operands),
            "atom" | "red" => self.atomic(op, &modifiers, operands),
            "bar" | "barrier" => {
                self.barrier(&modifiers, operands).and_then(|known| known.ok_or_else(unknown))
            }
            "shfl" | "vote" | "match" | "redux" | "activemask" => {
                self.warp_op(op, &modifiers, operands)?.ok_or_else(unknown)
            }
            "mov" => self.mov(&modifiers, operands),
            "cvta" => self.cvta(&modifiers, operands),
            "isspacep" => self.isspacep(&modifiers, operands),
            "cvt" => self.cvt(&modifiers, operands)?.ok_or_else(unknown),
            "setp" | "set" => self.compare(op, &modifiers, operands)?.ok_or_else(unknown),
            "selp" | "slct" => self.select(op, &modifiers, operands)?.ok_or_else(unknown),
            _ => self.compute(op, &modifiers, operands)?.ok_or_else(unknown),
        }
    }

    fn push(&mut self, instr: Instr) {
        self.code.instrs.push(instr);
        self.code.lines.push(self.line);
    }

    fn pure(&mut self, f: Pure, to: Slot, from: [Slot; 3]) {
        self.push(Instr::Pure { f, to, from });
    }

    /// Emits a computation into a new slot.
    fn step(&mut self, f: Pure, from: [Slot; 3]) -> Result<Slot, String> {
        let to = self.slot()?;
        self.pure(f, to, from);
        Ok(to)
    }
}

fn next_index<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// The operands, which must be exactly `N`.
fn exactly<'o, 'a, const N: usize>(
    operands: &'o [Operand<'a>],
) -> Result<&'o [Operand<'a>; N], String> {
    operands.try_into().map_err(|_other| format!("{} operands instead of {N}", operands.len()))
}

/// The width of the last modifier, which is the type.
fn last_width(modifiers: &[&str]) -> Result<u64, String> {
    let kind = modifiers.last().copied().unwrap_or("");
    width_of(kind).ok_or_else(|| format!("`.{kind}` is no type known here"))
}

fn truncated(width: u64) -> Pure {
    select::truncate(width)
}
