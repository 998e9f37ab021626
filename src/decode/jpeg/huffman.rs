//! Huffman tables (T.81 annex C, F.2.2), arranged for looking ahead.
//!
//! The AC table resolves codes and values together. The next [`LOOK`] bits of the stream often hold a
//! coefficient and the code of the next one. One load then returns both runs, the first value, the
//! size of the second value (whose bits are extracted from the stream meanwhile) and the total number
//! of bits. The dependency chain "look up, shift, look up", which bounds the loop, is therefore half as
//! long. All other cases (long codes, the end of the block, a run that may leave the block) have a
//! step of [`STEP_OTHER`], more than a block has room for, so that the comparison that guards the end
//! of the block sends them to the slow path as well.
//!
//! ```text
//!   31    20 19   16 15    12 11     6 5      0
//!   value 1 | size 2 | run 1  | step   | bits     two coefficients: steps from the one before
//!   -       | size   | run    | run + 1| bits     one coefficient, in the fields of the second
//!   value   | kind   | run    | 63     | bits     other: [`KIND_END`], [`KIND_LAST`], [`KIND_LONG`]
//! ```

use super::bits::{Bits, WindowBytes};
use super::header::HuffmanSpec;

/// Bits that the AC table looks ahead.
pub(super) const LOOK: u32 = 10;
/// Bits that the table of single symbols looks ahead.
const LOOK_SYMBOL: u32 = 9;
/// The step of entries that the slow path decodes.
const STEP_OTHER: u32 = 63;

/// Code lengths and symbols, the part that DC and AC tables have in common.
#[derive(Clone, Debug)]
struct Codes {
    /// By the next bits of the stream: `length << 8 | symbol`, 0 for a longer code.
    short: [u16; 1 << LOOK_SYMBOL],
    /// By length: one more than the last code, left-aligned to 16 bits.
    bound: [u32; 17],
    /// By length: what to add to a code to get the index of its symbol.
    offset: [i32; 17],
    symbols: [u8; 256],
}

impl Codes {
    const EMPTY: Self =
        Self { short: [0; 1 << LOOK_SYMBOL], bound: [0; 17], offset: [0; 17], symbols: [0; 256] };

    fn set(&mut self, spec: HuffmanSpec<'_>) -> Result<(), &'static str> {
        *self = Self::EMPTY;
        self.symbols[..spec.symbols.len()].copy_from_slice(spec.symbols);
        let (mut code, mut index) = (0_u32, 0_i32);
        for length in 1..=16_u32 {
            let count = u32::from(spec.counts[length as usize - 1]);
            self.offset[length as usize] = index - code.cast_signed();
            if length <= LOOK_SYMBOL {
                let width = LOOK_SYMBOL - length;
                for i in 0..count {
                    let symbol = self.symbols[(index.cast_unsigned() + i) as usize & 255];
                    let from = ((code + i) << width) as usize;
                    let Some(run) = self.short.get_mut(from..from + (1 << width)) else { break };
                    run.fill((length << 8) as u16 | u16::from(symbol));
                }
            }
            code += count;
            index += count.cast_signed();
            // No code may be all ones (T.81 C.2).
            if code >= 1 << length {
                return Err("more Huffman codes than fit");
            }
            self.bound[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(())
    }

    /// Decodes one code. A code that the table lacks takes 17 bits and counts as 0, as in libjpeg.
    #[inline(always)]
    fn symbol(&self, bits: &mut Bits) -> u8 {
        let entry = self.short[bits.peek(LOOK_SYMBOL)];
        if entry != 0 {
            bits.take(u32::from(entry >> 8));
            return entry as u8;
        }
        let (length, symbol) = self.long(bits.peek(16) as u32);
        bits.take(length);
        symbol
    }

    /// The length and the symbol of a long code, by the next 16 bits. [`Bits`] are not a parameter, so
    /// that they can stay in registers.
    #[cold]
    fn long(&self, ahead: u32) -> (u32, u8) {
        let length = (LOOK_SYMBOL + 1..=16).find(|&length| ahead < self.bound[length as usize]);
        length.map_or((17, 0), |length| {
            let code = (ahead >> (16 - length)).cast_signed();
            (length, self.symbols[(code + self.offset[length as usize]) as usize & 255])
        })
    }
}

/// A table of DC codes: the symbol is the number of bits of the difference that follows.
#[derive(Clone, Debug)]
pub(super) struct DcTable(Codes);

impl DcTable {
    pub(super) const EMPTY: Self = Self(Codes::EMPTY);

    /// Builds the table of a specification. The error says what is wrong with it.
    pub(super) fn set(&mut self, spec: HuffmanSpec<'_>) -> Result<(), &'static str> {
        if spec.symbols.iter().any(|&symbol| symbol > 15) {
            return Err("a DC difference of over 15 bits");
        }
        self.0.set(spec)
    }

    /// Decodes one difference.
    #[inline(always)]
    pub(super) fn difference(&self, bits: &mut Bits, window: &WindowBytes) -> i16 {
        bits.refill(window);
        let entry = u32::from(self.0.short[bits.peek(LOOK_SYMBOL)]);
        if entry != 0 {
            let size = entry & 15;
            return bits.last_value((entry >> 8) + size, size);
        }
        let size = self.0.symbol(bits);
        bits.value(u32::from(size))
    }
}

/// A code that the slow path decodes.
const KIND_LONG: u32 = 0;
/// The end of the block.
const KIND_END: u32 = 1;
/// A coefficient, then the end of the block.
const KIND_LAST: u32 = 2;

/// A table of AC codes.
#[derive(Clone, Debug)]
pub(super) struct AcTable {
    ahead: [u32; 1 << LOOK],
    codes: Codes,
}

const fn entry(bits: u32, step: u32, run: u32, size: u32, value: u32) -> u32 {
    bits | step << 6 | run << 12 | size << 16 | value << 20
}

impl AcTable {
    pub(super) const EMPTY: Self = Self { ahead: [0; 1 << LOOK], codes: Codes::EMPTY };

    /// Builds the table of a specification. The error says what is wrong with it.
    pub(super) fn set(&mut self, spec: HuffmanSpec<'_>) -> Result<(), &'static str> {
        self.codes.set(spec)?;
        for ahead in 0..1_u32 << LOOK {
            self.ahead[ahead as usize] = self.resolve(ahead);
        }
        Ok(())
    }

    /// Decodes one code: run and size.
    pub(super) fn symbol(&self, bits: &mut Bits) -> u8 {
        self.codes.symbol(bits)
    }

    /// The symbol at the top of `ahead`, [`LOOK`] bits of which `left` are known, with its length.
    fn known_symbol(&self, ahead: u32, left: u32) -> Option<(u32, u32)> {
        let short = self.codes.short[(ahead >> (LOOK - LOOK_SYMBOL)) as usize];
        let (length, symbol) = if short != 0 {
            (u32::from(short >> 8), short & 255)
        } else {
            let ahead = ahead << (16 - LOOK);
            let length =
                (LOOK_SYMBOL + 1..=LOOK).find(|&n| ahead < self.codes.bound[n as usize])?;
            let code = (ahead >> (16 - length)).cast_signed();
            let index = (code + self.codes.offset[length as usize]) as usize & 255;
            (length, u16::from(self.codes.symbols[index]))
        };
        (length <= left).then_some((length, u32::from(symbol)))
    }

    fn resolve(&self, ahead: u32) -> u32 {
        let Some((length, symbol)) = self.known_symbol(ahead, LOOK) else {
            return entry(0, STEP_OTHER, 0, KIND_LONG, 0);
        };
        let (run, size) = (symbol >> 4, symbol & 15);
        if size == 0 {
            let kind = if run == 15 { KIND_LONG } else { KIND_END };
            return entry(length, STEP_OTHER, 0, kind, 0);
        }
        let taken = length + size;
        let one = entry(taken, run + 1, run, size, 0);
        if taken >= LOOK {
            return one;
        }
        let value = extend(ahead >> (LOOK - taken), size);
        let rest = ahead << taken & ((1 << LOOK) - 1);
        match self.known_symbol(rest, LOOK - taken) {
            None | Some((_, 0xF0)) => one,
            Some((length, symbol)) if symbol % 16 == 0 => {
                entry(taken + length, STEP_OTHER, run, KIND_LAST, value)
            }
            Some((length, symbol)) => {
                let (run2, size2) = (symbol >> 4, symbol & 15);
                let bits = taken + length + size2;
                entry(bits, run + 1 + run2 + 1, run, size2, value)
            }
        }
    }

    /// Decodes the AC coefficients of a block, whose bits the window holds, and passes each to `put`,
    /// with its zigzag index. Returns the index of the last one.
    #[inline(always)]
    pub(super) fn block(
        &self,
        bits: &mut Bits,
        window: &WindowBytes,
        mut put: impl FnMut(usize, i16),
    ) -> usize {
        let mut k = 0;
        'refill: loop {
            bits.refill(window);
            // Two lookups take at most 2 * (LOOK + 15) bits, fewer than a refill provides.
            for _ in 0..2 {
                let entry = self.ahead[bits.peek(LOOK)];
                let next = k + (entry >> 6 & 63) as usize;
                let first = k + (entry >> 12 & 15) as usize + 1;
                let value = (entry.cast_signed() >> 20) as i16;
                if next < 63 {
                    put(first, value);
                    put(next, bits.last_value(entry, entry >> 16 & 15));
                    k = next;
                    continue;
                }
                let kind = entry >> 16 & 15;
                if next == k + STEP_OTHER as usize && kind != KIND_LONG && first < 63 {
                    // Without a coefficient, the value goes to index 0, where DC overwrites it.
                    let last = kind == KIND_LAST;
                    bits.take(entry);
                    put(if last { first } else { 0 }, value);
                    return if last { first } else { k };
                }
                k = match self.one(bits, window, k, &mut put) {
                    Ok(k) => k,
                    Err(end) => return end,
                };
                continue 'refill;
            }
        }
    }

    /// Decodes one symbol: a long code, a run of 16, or one that may fill the block. Returns the index
    /// of the last coefficient so far, as an error where the block has ended.
    #[inline(always)]
    fn one(
        &self,
        bits: &mut Bits,
        window: &WindowBytes,
        k: usize,
        mut put: impl FnMut(usize, i16),
    ) -> Result<usize, usize> {
        bits.refill(window);
        let symbol = self.codes.symbol(bits);
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        let next = match (run, size) {
            (15, 0) => k + 16,
            (_, 0) => return Err(k),
            _ => {
                // A run beyond the block overwrites its last coefficient, as in libjpeg.
                put((k + run + 1).min(63), bits.value(size));
                k + run + 1
            }
        };
        if next < 63 { Ok(next) } else { Err(63) }
    }
}

/// The value that `size` bits, the low ones of `raw`, stand for, in 12 bits.
const fn extend(raw: u32, size: u32) -> u32 {
    let raw = raw & ((1 << size) - 1);
    let value = if raw >> (size - 1) == 0 { (raw + 1).wrapping_sub(1 << size) } else { raw };
    value & 0xFFF
}

#[cfg(test)]
mod tests {
    use super::super::bits::Window;
    use super::super::test_file::{AC_COUNTS, Numbers};
    use super::*;

    /// A block one symbol at a time (T.81 F.2.2.2), from the tables of single symbols.
    fn one_by_one(table: &AcTable, bits: &mut Bits, window: &WindowBytes) -> ([i16; 64], usize) {
        let (mut block, mut k) = ([0; 64], 0);
        while k < 63 {
            bits.refill(window);
            let symbol = table.codes.symbol(bits);
            match (usize::from(symbol >> 4), u32::from(symbol & 15)) {
                (15, 0) => k += 16,
                (_, 0) => break,
                (run, size) => {
                    k += run + 1;
                    block[k.min(63)] = bits.value(size);
                }
            }
        }
        (block, k.min(63))
    }

    #[test]
    fn looking_ahead_changes_nothing() {
        let mut numbers = Numbers(5);
        // Any symbols, some of them twice.
        let symbols: Vec<u8> = (0..242).map(|_| numbers.next() as u8 & 0xF7).collect();
        let mut table = AcTable::EMPTY;
        table.set(HuffmanSpec { counts: &AC_COUNTS, symbols: &symbols }).unwrap();
        let mut window = Window::default();
        let mut ended = [0; 2];
        for _ in 0..20_000 {
            // Ones are rarer than zeros, so that short codes are as well met as long ones.
            let sparse = numbers.below(2) == 0;
            for byte in &mut window.0[..300] {
                *byte = numbers.next() as u8;
                if sparse {
                    *byte &= numbers.next() as u8;
                }
            }
            let (mut ahead, mut single) = (Bits::default(), Bits::default());
            let mut block = [0; 64];
            let last = table.block(&mut ahead, &window.0, |k, value| block[k] = value);
            block[0] = 0;
            let expected = one_by_one(&table, &mut single, &window.0);
            assert_eq!((block, last), expected);
            ahead.refill(&window.0);
            single.refill(&window.0);
            assert_eq!(ahead.peek(32), single.peek(32));
            ended[usize::from(last == 63)] += 1;
        }
        assert!(ended.iter().all(|&blocks| blocks > 100), "{ended:?}");
    }

    #[test]
    fn more_codes_than_fit_are_refused() {
        let mut counts = [0; 16];
        counts[1] = 4;
        let spec = HuffmanSpec { counts: &counts, symbols: &[0, 1, 2, 3] };
        let mut table = AcTable::EMPTY;
        assert!(table.set(spec).is_err());
        counts[1] = 3;
        let spec = HuffmanSpec { counts: &counts, symbols: &[0, 1, 2] };
        assert!(table.set(spec).is_ok());
    }
}
