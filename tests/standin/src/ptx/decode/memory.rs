//! Loads, stores and atomics.

use super::super::code::{Instr, Place, Slot, Space, ZERO};
use super::super::ops::round::mode;
use super::super::ops::{float, half, integer, select};
use super::super::syntax::{Operand, width_of};
use super::scope::Symbol;
use super::{Decoder, exactly, truncated};

/// The relevant modifiers of an access. Those for caches and eviction have no effect.
struct Access<'m> {
    space: &'m str,
    kind: &'m str,
    width: u8,
    count: u8,
    shared_freely: bool,
}

impl<'m> Access<'m> {
    fn new(modifiers: &[&'m str]) -> Result<Self, String> {
        let mut access = Self { space: "", kind: "", width: 0, count: 1, shared_freely: false };
        for &modifier in modifiers {
            match modifier {
                "global" | "shared" | "local" | "const" | "param" => access.space = modifier,
                "shared::cta" => access.space = "shared",
                "param::entry" | "param::func" => access.space = "param",
                "shared::cluster" | "v8" => return Err(format!("`.{modifier}` is not supported")),
                "v2" => access.count = 2,
                "v4" => access.count = 4,
                "volatile" | "relaxed" | "acquire" | "release" | "mmio" => {
                    access.shared_freely = true;
                }
                kind => {
                    if let Some(width) = width_of(kind) {
                        access.kind = kind;
                        access.width = u8::try_from(width).unwrap_or(0);
                    }
                }
            }
        }
        if access.width == 0 {
            return Err("an access without a type known here".to_owned());
        }
        Ok(access)
    }
}

impl<'a> Decoder<'_, 'a> {
    fn place(&mut self, access: &Access<'_>, address: &Operand<'a>) -> Result<Place, String> {
        let &Operand::Address(base, offset) = address else {
            return Err(format!("{address:?} is not an address"));
        };
        let symbol = base.and_then(|name| self.symbol(name));
        let space = match (access.space, symbol) {
            (_, Some(Symbol::Argument(_))) => Space::Argument,
            ("param", _) if !self.entry => Space::Argument,
            ("param", _) => Space::Param,
            ("shared", _) => Space::Shared,
            ("local", _) => Space::Local,
            _ => Space::Generic,
        };
        let (base, added) = match (base, symbol) {
            (_, Some(Symbol::Param(at) | Symbol::Argument(at))) => (ZERO, at.cast_signed()),
            (Some(name), _) => (self.named(name)?, 0),
            (None, _) => (ZERO, 0),
        };
        let offset = i32::try_from(offset + added)
            .map_err(|_large| "an offset of more than 32 bits".to_owned())?;
        let Access { width, count, shared_freely, .. } = *access;
        Ok(Place { base, offset, space, width, count, shared_freely })
    }

    pub(super) fn load(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let access = Access::new(modifiers)?;
        // A third operand is a cache hint.
        let [target, address, ..] = operands else { return Err("too few operands".to_owned()) };
        let place = self.place(&access, address)?;
        let targets = elements(target);
        if targets.len() != usize::from(access.count) {
            return Err(format!("{} registers for {} elements", targets.len(), access.count));
        }
        let mut to = [ZERO; 4];
        let mut signed = Vec::new();
        for (slot, target) in to.iter_mut().zip(targets) {
            let (found, width) = self.target(target)?;
            *slot = found;
            if access.kind.starts_with('s') && u64::from(access.width) < width {
                signed.push((found, width));
            }
        }
        let used = self.used.unwrap_or(u16::MAX);
        self.push(Instr::Load { place, to, used });
        for (slot, width) in signed {
            self.pure(select::sign_extend(u64::from(access.width)), slot, [slot, ZERO, ZERO]);
            self.pure(truncated(width), slot, [slot, ZERO, ZERO]);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let access = Access::new(modifiers)?;
        let [address, source, ..] = operands else { return Err("too few operands".to_owned()) };
        let place = self.place(&access, address)?;
        let sources = elements(source);
        if sources.len() != usize::from(access.count) {
            return Err(format!("{} registers for {} elements", sources.len(), access.count));
        }
        let mut from = [ZERO; 4];
        for (slot, source) in from.iter_mut().zip(sources) {
            *slot = self.value(source)?;
        }
        self.push(Instr::Store { place, from });
        Ok(())
    }

    /// `atom.global.cas.b32 d, [a], b, c`; `red` has no `d`.
    pub(super) fn atomic(
        &mut self,
        op: &str,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let mut access = Access::new(modifiers)?;
        access.shared_freely = true;
        let names = ["add", "min", "max", "inc", "dec", "exch", "cas", "and", "or", "xor"];
        let name = modifiers.iter().copied().find(|modifier| names.contains(modifier));
        let name = name.ok_or("an atomic without an operation known here")?;
        let f = integer::find(name, access.kind)
            .or_else(|| float::find(name, access.kind, mode::EVEN))
            .or_else(|| half::find(name, access.kind))
            .filter(|_| access.count == 1)
            .ok_or_else(|| format!("no atomic {name} of .{}", access.kind))?;
        let (to, rest) = match operands {
            [target, rest @ ..] if op == "atom" => (self.target(target)?.0, rest),
            rest => (self.slot()?, rest),
        };
        let [address, sources @ ..] = rest else { return Err("too few operands".to_owned()) };
        let place = self.place(&access, address)?;
        let with: [Slot; 2] = if name == "cas" {
            let [compared, new] = exactly(sources)?;
            [self.value(compared)?, self.value(new)?]
        } else {
            let first = sources.first().ok_or("too few operands")?;
            [self.value(first)?, ZERO]
        };
        self.push(Instr::Atomic { place, f, to, with });
        Ok(())
    }
}

/// `{a, b}` as two, anything else as one.
fn elements<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::Group(all) => all,
        one => std::slice::from_ref(one),
    }
}
