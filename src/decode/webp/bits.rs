//! The boolean decoder of lossy WebP (RFC 6386, section 7).

/// The error of data that ends too early.
pub(super) const TRUNCATED: &str = "the lossy image is truncated";

/// The decoder of one partition (section 7.3).
pub(super) struct Bits<'a> {
    rest: &'a [u8],
    value: u32,
    /// One less than the range.
    range: u32,
    /// Bits of `value` beyond the eight in use.
    count: i32,
    /// Whether bits beyond the end were wanted.
    ended: bool,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        let mut bits = Self { rest: data, value: 0, range: 254, count: -8, ended: false };
        bits.load();
        bits
    }

    fn load(&mut self) {
        let byte = self.rest.split_off_first();
        self.ended |= byte.is_none();
        self.value = self.value << 8 | u32::from(*byte.unwrap_or(&0));
        self.count += 8;
    }

    /// A bit that is 0 with a probability of `zero / 256`.
    pub(super) fn bit(&mut self, zero: u8) -> bool {
        if self.count < 0 {
            self.load();
        }
        let split = (self.range * u32::from(zero)) >> 8;
        let bit = self.value >> self.count > split;
        let range = if bit {
            self.value -= (split + 1) << self.count;
            self.range - split
        } else {
            split + 1
        };
        let shift = range.leading_zeros() - 24;
        self.range = (range << shift) - 1;
        self.count -= shift.cast_signed();
        bit
    }

    pub(super) fn flag(&mut self) -> bool {
        self.bit(128)
    }

    pub(super) fn number(&mut self, bits: u32) -> i32 {
        (0..bits).fold(0, |number, _| number << 1 | i32::from(self.flag()))
    }

    fn signed(&mut self, bits: u32) -> i32 {
        let number = self.number(bits);
        if self.flag() { -number } else { number }
    }

    /// A signed number if a flag says so, or else 0.
    pub(super) fn optional(&mut self, bits: u32) -> i32 {
        if self.flag() { self.signed(bits) } else { 0 }
    }

    pub(super) fn is_whole(&self) -> Result<(), &'static str> {
        if self.ended { Err(TRUNCATED) } else { Ok(()) }
    }
}
