//! Moves: of whole registers, of their parts, and between address spaces.

use super::super::code::{Instr, Slot, ZERO, window};
use super::super::ops::{integer, select};
use super::super::syntax::Operand;
use super::{Decoder, exactly, last_width, truncated};

impl<'a> Decoder<'_, 'a> {
    pub(super) fn mov(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let [target, source] = exactly(operands)?;
        let width = last_width(modifiers)?;
        match (target, source) {
            (Operand::Group(parts), _) => {
                let from = self.value(source)?;
                self.unpack(parts, from, width)
            }
            (_, Operand::Group(parts)) => self.pack(target, parts, width),
            (_, Operand::Name("%clock" | "%clock64" | "%clock_hi" | "%globaltimer")) => {
                let to = self.target(target)?.0;
                self.push(Instr::Clock { to });
                self.pure(truncated(width), to, [to, ZERO, ZERO]);
                Ok(())
            }
            _ => {
                let mut from = self.cut(source, width)?;
                if modifiers == ["pred"] && matches!(source, Operand::Int(_)) {
                    from = self.constant(u64::from(*source != Operand::Int(0)))?;
                }
                let to = self.target(target)?.0;
                self.pure(truncated(8), to, [from, ZERO, ZERO]);
                Ok(())
            }
        }
    }

    /// `mov.b32 {lo, hi}, x`
    fn unpack(&mut self, parts: &[Operand<'a>], from: Slot, width: u64) -> Result<(), String> {
        let bits = 8 * width / (parts.len() as u64).max(1);
        let mask = self.constant((1_u64 << bits.min(63)) - 1)?;
        for (index, part) in parts.iter().enumerate() {
            let at = self.constant(index as u64 * bits)?;
            let to = self.target(part)?.0;
            self.pure(select::UNPACK, to, [from, at, mask]);
        }
        Ok(())
    }

    /// `mov.b32 x, {lo, hi}`
    fn pack(
        &mut self,
        target: &Operand<'a>,
        parts: &[Operand<'a>],
        width: u64,
    ) -> Result<(), String> {
        let part_width = width / (parts.len() as u64).max(1);
        let mut whole = ZERO;
        for (index, part) in parts.iter().enumerate() {
            let value = self.cut(part, part_width)?;
            let at = self.constant(index as u64 * 8 * part_width)?;
            whole = self.step(select::PACK, [whole, value, at])?;
        }
        let to = self.target(target)?.0;
        self.pure(truncated(width), to, [whole, ZERO, ZERO]);
        Ok(())
    }

    /// Converts between the addresses of a space and generic addresses.
    pub(super) fn cvta(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let [target, source] = exactly(operands)?;
        let start = modifiers.iter().find_map(|space| window_of(space)).unwrap_or(0);
        let name = if modifiers.contains(&"to") { "sub" } else { "add" };
        let f = integer::find(name, "u64").ok_or("add.u64")?;
        let from = [self.value(source)?, self.constant(start)?, ZERO];
        let to = self.target(target)?.0;
        self.pure(f, to, from);
        Ok(())
    }

    pub(super) fn isspacep(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<(), String> {
        let [target, source] = exactly(operands)?;
        let address = self.value(source)?;
        let space = modifiers.first().copied().unwrap_or("");
        let start = match space {
            "const" => Some(window::CONST),
            "global" => Some(window::GLOBAL),
            other => window_of(other),
        };
        let start = self.constant(start.ok_or_else(|| format!("no such space: `{space}`"))?)?;
        let mut inside = self.step(select::IN_WINDOW, [address, start, ZERO])?;
        if space == "global" {
            let device = self.step(select::IN_WINDOW, [address, ZERO, ZERO])?;
            let or = integer::find("or", "pred").ok_or("or.pred")?;
            inside = self.step(or, [inside, device, ZERO])?;
        }
        let to = self.target(target)?.0;
        self.pure(truncated(8), to, [inside, ZERO, ZERO]);
        Ok(())
    }
}

/// The upper bits of the generic addresses of a space, which are zero for global and constant memory.
fn window_of(space: &str) -> Option<u64> {
    match space {
        "shared" | "shared::cta" => Some(window::SHARED),
        "local" => Some(window::LOCAL),
        "param" => Some(window::PARAM),
        _ => None,
    }
}
