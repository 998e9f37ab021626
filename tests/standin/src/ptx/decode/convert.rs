//! `cvt`: a conversion is a chain of exact steps and one step that rounds.

use super::super::code::{Pure, Slot, ZERO};
use super::super::ops::round::mode;
use super::super::ops::{convert, float, half, select};
use super::super::syntax::{Operand, width_of};
use super::modifiers::Modifiers;
use super::{Decoder, truncated};

impl<'a> Decoder<'_, 'a> {
    /// `cvt.rn.bf16.f32 d, a`; `cvt.rn.bf16x2.f32 d, a, b` puts `a` above `b`. `None` if it is not supported.
    pub(super) fn cvt(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let sorted = Modifiers::new(modifiers);
        let (&[to, from], [target, sources @ ..]) = (sorted.kinds.as_slice(), operands) else {
            return Ok(None);
        };
        if !sorted.rest.is_empty() {
            return Ok(None);
        }
        let scalar = to.trim_end_matches("x2");
        let mut parts = Vec::new();
        for source in sources {
            let value = self.value(source)?;
            let Some(part) = self.convert(&sorted, from, scalar, value)? else { return Ok(None) };
            parts.push(part);
        }
        let (target, width) = self.target(target)?;
        match parts[..] {
            [only] if scalar == to => self.extended(only, to, target, width),
            [high, low] if scalar != to => {
                let at = self.constant(16)?;
                self.pure(select::PACK, target, [low, high, at]);
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    /// Stores a value in a register that may be wider than the type.
    fn extended(&mut self, value: Slot, kind: &str, target: Slot, width: u64) {
        let own = width_of(kind).unwrap_or(width);
        if kind.starts_with('s') && own < width {
            self.pure(select::sign_extend(own), target, [value, ZERO, ZERO]);
            self.pure(truncated(width), target, [target, ZERO, ZERO]);
        } else {
            self.pure(truncated(own.min(width)), target, [value, ZERO, ZERO]);
        }
    }

    /// Converts one value, into a new slot.
    fn convert(
        &mut self,
        sorted: &Modifiers<'_>,
        from: &str,
        to: &str,
        mut value: Slot,
    ) -> Result<Option<Slot>, String> {
        if sorted.has("ftz") && from == "f32" {
            let mut flushed = [value];
            self.flush(from, &mut flushed)?;
            [value] = flushed;
        }
        let rounding = self.constant(sorted.mode.unwrap_or(mode::EVEN))?;
        let converted = match (is_float(from), is_float(to)) {
            (false, false) => self.between_integers(sorted.has("sat"), from, to, value)?,
            (false, true) => self.integer_to_float(from, to, value, rounding)?,
            (true, true) => {
                let steps = [
                    convert::to_double(from),
                    Some(if sorted.integral { convert::INTEGRAL } else { truncated(8) }),
                    convert::from_double(to),
                ];
                self.chain(&steps, value, rounding)?
            }
            (true, false) => self.float_to_integer(from, to, value, rounding)?,
        };
        let Some(mut converted) = converted else { return Ok(None) };
        if is_float(to) {
            // Only an f32 has subnormal results to flush.
            for name in sorted.after().filter(|&name| name != "flush" || to == "f32") {
                let found = float::find(name, to, mode::EVEN).or_else(|| half::find(name, to));
                let Some(f) = found else { return Ok(None) };
                converted = self.step(f, [converted, ZERO, ZERO])?;
            }
        }
        Ok(Some(converted))
    }

    /// Applies consecutive steps, each with the rounding mode as its second operand.
    fn chain(
        &mut self,
        steps: &[Option<Pure>],
        mut value: Slot,
        mode: Slot,
    ) -> Result<Option<Slot>, String> {
        for step in steps {
            let Some(step) = *step else { return Ok(None) };
            value = self.step(step, [value, mode, ZERO])?;
        }
        Ok(Some(value))
    }

    /// Extends a value to 64 bits, with its sign if the type has one.
    fn widened(&mut self, kind: &str, value: Slot) -> Result<Slot, String> {
        let width = width_of(kind).unwrap_or(8);
        let f = if kind.starts_with('s') { select::sign_extend(width) } else { truncated(width) };
        self.step(f, [value, ZERO, ZERO])
    }

    fn between_integers(
        &mut self,
        saturate: bool,
        from: &str,
        to: &str,
        value: Slot,
    ) -> Result<Option<Slot>, String> {
        let wide = self.widened(from, value)?;
        if !saturate {
            return Ok(width_of(to).map(|_| wide));
        }
        let Some(clamp) = convert::clamp_integer(from.starts_with('s'), to) else {
            return Ok(None);
        };
        self.step(clamp, [wide, ZERO, ZERO]).map(Some)
    }

    fn integer_to_float(
        &mut self,
        from: &str,
        to: &str,
        value: Slot,
        mode: Slot,
    ) -> Result<Option<Slot>, String> {
        let wide = self.widened(from, value)?;
        let common = to == "f32" && mode == ZERO && !from.ends_with("64");
        let f = if common {
            Some(convert::WORD_TO_SINGLE)
        } else {
            convert::from_integer(from.starts_with('s'), to)
        };
        self.chain(&[f], wide, mode)
    }

    fn float_to_integer(
        &mut self,
        from: &str,
        to: &str,
        value: Slot,
        mode: Slot,
    ) -> Result<Option<Slot>, String> {
        let Some(double) = self.chain(&[convert::to_double(from)], value, mode)? else {
            return Ok(None);
        };
        let steps = [Some(convert::INTEGRAL), convert::to_integer(to)];
        let Some(integer) = self.chain(&steps, double, mode)? else { return Ok(None) };
        let of_nan = convert::nan_to(from, to, width_of(to).unwrap_or(8));
        if of_nan == 0 {
            return Ok(Some(integer));
        }
        let of_nan = self.constant(of_nan)?;
        self.step(convert::UNLESS_NAN, [integer, of_nan, double]).map(Some)
    }
}

fn is_float(kind: &str) -> bool {
    kind.contains('f')
}
