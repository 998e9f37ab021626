//! The slots of operands: registers, constants, addresses and special registers.

use super::super::code::{Slot, Special, ZERO};
use super::super::ops::integer;
use super::super::syntax::Operand;
use super::Decoder;
use super::scope::{self, Symbol};

impl<'a> Decoder<'_, 'a> {
    pub(super) fn slot(&mut self) -> Result<Slot, String> {
        let slot = Slot::try_from(self.code.slots.len());
        self.code.slots.push(0);
        slot.map_err(|_large| "a function of more than 65535 registers".to_owned())
    }

    pub(super) fn constant(&mut self, value: u64) -> Result<Slot, String> {
        if let Some(&slot) = self.constants.get(&value) {
            return Ok(slot);
        }
        let slot = self.slot()?;
        self.code.slots[usize::from(slot)] = value;
        self.constants.insert(value, slot);
        Ok(slot)
    }

    pub(super) fn special(&mut self, special: Special) -> Result<Slot, String> {
        if let Some(known) = self.code.specials.iter().find(|known| known.1 == special) {
            return Ok(known.0);
        }
        let slot = self.slot()?;
        self.code.specials.push((slot, special));
        Ok(slot)
    }

    /// The slot and the width of a register.
    pub(super) fn register(&mut self, name: &'a str) -> Result<(Slot, u64), String> {
        if let Some(known) = self.scopes.register(name) {
            return Ok(known);
        }
        let (scope, width) =
            self.scopes.declared(name).ok_or_else(|| format!("`{name}` is not a register"))?;
        let slot = self.slot()?;
        self.scopes.place(scope, name, (slot, width));
        Ok((slot, width))
    }

    /// The slot of a result, and its width. `_` discards the result.
    pub(super) fn target(&mut self, operand: &Operand<'a>) -> Result<(Slot, u64), String> {
        match operand {
            Operand::Name("_") => Ok((self.slot()?, 8)),
            Operand::Name(name) => self.register(name),
            other => Err(format!("{other:?} is no place for a result")),
        }
    }

    /// The slot of a source operand.
    pub(super) fn value(&mut self, operand: &Operand<'a>) -> Result<Slot, String> {
        match operand {
            Operand::Int(value) | Operand::Double(value) => self.constant(*value),
            Operand::Single(bits) => self.constant(u64::from(*bits)),
            Operand::Not(name) => {
                let slot = self.register(name)?.0;
                let not = integer::find("not", "pred").ok_or("not.pred")?;
                self.step(not, [slot, ZERO, ZERO])
            }
            Operand::Name(name) => self.named(name),
            other => Err(format!("{other:?} is no source")),
        }
    }

    pub(super) fn named(&mut self, name: &'a str) -> Result<Slot, String> {
        if let Some(special) = scope::special(name) {
            return self.special(special);
        }
        match name {
            "WARP_SZ" => return self.constant(32),
            "%smid" | "%gridid" => return Ok(ZERO),
            "%nsmid" => return self.constant(1),
            _ => {}
        }
        match self.symbol(name) {
            Some(Symbol::Address(address) | Symbol::Param(address) | Symbol::Argument(address)) => {
                self.constant(address)
            }
            Some(Symbol::Local(offset)) => self.special(Special::Local(offset)),
            None => Ok(self.register(name)?.0),
        }
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.symbol(name).or_else(|| self.layout.address(name).map(Symbol::Address))
    }

    /// A value truncated to `width` bytes.
    pub(super) fn cut(&mut self, operand: &Operand<'a>, width: u64) -> Result<Slot, String> {
        match operand {
            Operand::Int(value) if width < 8 => self.constant(*value & ((1 << (8 * width)) - 1)),
            _ => self.value(operand),
        }
    }
}
