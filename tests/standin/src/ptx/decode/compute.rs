//! Arithmetic, comparisons and selections.

use super::super::code::{Instr, Pure, Slot, Special, ZERO};
use super::super::ops::round::mode;
use super::super::ops::{float, half, integer, select};
use super::super::syntax::{Operand, width_of};
use super::modifiers::Modifiers;
use super::{Decoder, exactly, truncated};

/// The function of a computation on one type.
fn find(name: &str, kind: &str, mode: u64) -> Option<Pure> {
    integer::find(name, kind)
        .or_else(|| float::find(name, kind, mode))
        .or_else(|| half::find(name, kind))
}

impl<'a> Decoder<'_, 'a> {
    /// An instruction that only computes. `None` if it is not supported.
    pub(super) fn compute(
        &mut self,
        op: &str,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let sorted = Modifiers::new(modifiers);
        let Some(&kind) = sorted.kinds.last() else { return Ok(None) };
        if sorted.has("cc") || matches!(op, "addc" | "subc" | "madc") {
            return self.carried(op, kind, &sorted, operands);
        }
        let float = kind.contains('f');
        let mut name = op.to_owned();
        let sat = (sorted.has("sat") && !float).then_some("sat");
        let types = sorted.kinds.iter().copied().filter(|_| sorted.kinds.len() > 1);
        for part in sorted.rest.iter().copied().chain(sat).chain(types) {
            name.push('.');
            name.push_str(part);
        }
        let mode = sorted.mode.unwrap_or(mode::EVEN);
        let Some(f) = find(&name, kind, mode) else { return Ok(None) };
        let Some((target, sources)) = operands.split_first() else { return Ok(None) };
        let mut slots = self.packed_sources(op, sources)?;
        if sorted.has("ftz") {
            self.flush(kind, &mut slots)?;
        }
        if let ("div" | "rem", false, [_, divisor]) = (op, float, slots.as_slice()) {
            self.push(Instr::Divisor(*divisor));
        }
        let to = self.target(target)?.0;
        if float && sorted.mode.is_none() {
            self.note_fusible(op, &slots, to);
        }
        let mode = self.constant(mode)?;
        slots.resize(3, mode);
        self.pure(f, to, [slots[0], slots[1], slots[2]]);
        for name in sorted.after().filter(|_| float) {
            let Some(after) = find(name, kind, mode::EVEN) else { return Ok(None) };
            self.pure(after, to, [to, ZERO, ZERO]);
        }
        Ok(Some(()))
    }

    /// Records additions without `.rn`, which ptxas may fuse with a multiplication.
    fn note_fusible(&mut self, op: &str, sources: &[Slot], to: Slot) {
        match op {
            "mul" => drop(self.products.insert(to)),
            "add" | "sub" if sources.iter().any(|slot| self.products.contains(slot)) => {
                self.code.fusible.push(self.line);
            }
            _ => {}
        }
    }

    /// The sources of an instruction. Of five operands, two are packed into one.
    fn packed_sources(&mut self, op: &str, sources: &[Operand<'a>]) -> Result<Vec<Slot>, String> {
        let mut slots = Vec::new();
        for source in sources {
            slots.push(self.value(source)?);
        }
        if let [a, b, c, d] = slots[..] {
            let half = self.constant(32)?;
            slots = match op {
                "lop3" => vec![self.step(select::PACK, [a, b, half])?, c, d],
                _ => vec![a, b, self.step(select::PACK, [c, d, half])?],
            };
        }
        if slots.is_empty() || slots.len() > 3 {
            return Err(format!("{} source operands", slots.len()));
        }
        Ok(slots)
    }

    pub(super) fn flush(&mut self, kind: &str, slots: &mut [Slot]) -> Result<(), String> {
        let flush = find("flush", kind, mode::EVEN).ok_or_else(|| format!("`.ftz` of {kind}"))?;
        for slot in slots {
            *slot = self.step(flush, [*slot, ZERO, ZERO])?;
        }
        Ok(())
    }

    /// `add.cc`, `addc`, `mad.lo.cc` and similar instructions. The carry has a slot of its own.
    fn carried(
        &mut self,
        op: &str,
        kind: &str,
        sorted: &Modifiers<'_>,
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let Some((target, sources)) = operands.split_first() else { return Ok(None) };
        let mut slots = self.packed_sources(op, sources)?;
        let family = op.trim_end_matches('c');
        if family == "mad" {
            let name = format!("mul.{}", sorted.rest.first().unwrap_or(&"lo"));
            let Some(multiply) = find(&name, kind, mode::EVEN) else { return Ok(None) };
            let product = self.step(multiply, [slots[0], slots[1], ZERO])?;
            slots = vec![product, slots[2]];
        }
        let family = if family == "mad" { "add" } else { family };
        let tables =
            (find(&format!("carry.{family}"), kind, 0), find(&format!("{family}3"), kind, 0));
        let (Some(carry_of), Some(sum_of)) = tables else { return Ok(None) };
        let &[a, b] = slots.as_slice() else { return Ok(None) };
        let carry = self.special(Special::Carry)?;
        let carry_in = if op.ends_with('c') { carry } else { ZERO };
        let carry_out = self.step(carry_of, [a, b, carry_in])?;
        let to = self.target(target)?.0;
        self.pure(sum_of, to, [a, b, carry_in]);
        if sorted.has("cc") {
            self.pure(truncated(8), carry, [carry_out, ZERO, ZERO]);
        }
        Ok(Some(()))
    }

    /// `setp.lt.and.s32 p|q, a, b, c` and `set.lt.u32.s32 d, a, b`.
    pub(super) fn compare(
        &mut self,
        op: &str,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let sorted = Modifiers::new(modifiers);
        let (Some(&kind), [target, a, b, more @ ..]) = (sorted.kinds.last(), operands) else {
            return Ok(None);
        };
        let comparison = sorted.rest.first().copied().unwrap_or("");
        let found = find(comparison, kind, mode::EVEN).or_else(|| float::compare(comparison, kind));
        let Some(f) = found else { return Ok(None) };
        let mut slots = [self.value(a)?, self.value(b)?];
        if sorted.has("ftz") {
            self.flush(kind, &mut slots)?;
        }
        let found = self.step(f, [slots[0], slots[1], ZERO])?;
        let combine = match (sorted.rest.get(1), more) {
            (Some(name), [other]) => {
                let Some(f) = integer::find(name, "pred") else { return Ok(None) };
                Some((f, self.value(other)?))
            }
            (None, []) => None,
            _ => return Ok(None),
        };
        let not = integer::find("not", "pred").ok_or("not.pred")?;
        let second = match target {
            Operand::Pair(_) => Some(self.step(not, [found, ZERO, ZERO])?),
            _ => None,
        };
        let (first_target, second_target) = match target {
            Operand::Pair(pair) => (&pair.0, Some(&pair.1)),
            other => (other, None),
        };
        let all = [(Some(first_target), Some(found)), (second_target, second)];
        for (target, value) in all.into_iter().filter_map(|(target, value)| target.zip(value)) {
            let combined = match combine {
                Some((f, other)) => self.step(f, [value, other, ZERO])?,
                None => value,
            };
            let to = self.target(target)?.0;
            if op == "setp" {
                self.pure(truncated(8), to, [combined, ZERO, ZERO]);
            } else {
                let on = if sorted.kinds[0] == "f32" { 0x3f80_0000 } else { 0xffff_ffff };
                let on = self.constant(on)?;
                self.pure(select::choose(4), to, [on, ZERO, combined]);
            }
        }
        Ok(Some(()))
    }

    /// `selp.b32 d, a, b, p` and `slct.f32.s32 d, a, b, c`, which selects a if c is not negative.
    pub(super) fn select(
        &mut self,
        op: &str,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let [target, a, b, c] = exactly(operands)?;
        let sorted = Modifiers::new(modifiers);
        let Some(width) = sorted.kinds.first().and_then(|kind| width_of(kind)) else {
            return Ok(None);
        };
        let mut test = self.value(c)?;
        if op == "slct" {
            let Some(f) = sorted.kinds.last().and_then(|kind| find("ge", kind, mode::EVEN)) else {
                return Ok(None);
            };
            test = self.step(f, [test, ZERO, ZERO])?;
        }
        let from = [self.value(a)?, self.value(b)?, test];
        let to = self.target(target)?.0;
        self.pure(select::choose(width), to, from);
        Ok(Some(()))
    }
}
