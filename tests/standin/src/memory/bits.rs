//! A bit for each byte of an allocation: whether it was ever written.

use std::ops::Range;

#[derive(Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    pub(crate) fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)] }
    }

    pub(crate) fn get(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    /// Sets or clears a range.
    pub(crate) fn put(&mut self, range: Range<usize>, value: bool) {
        for (word, mask) in masks(range) {
            if value {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
        }
    }

    pub(crate) fn all(&self, range: Range<usize>) -> bool {
        masks(range).all(|(word, mask)| self.words[word] & mask == mask)
    }
}

/// The words that overlap a range, each with a mask of the bits in the range.
fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let Range { start, end } = range;
    (start / 64..end.div_ceil(64).max(start / 64)).map(move |word| {
        let low = start.saturating_sub(word * 64);
        let high = (end - word * 64).min(64);
        let below_high = if high == 64 { u64::MAX } else { (1 << high) - 1 };
        (word, below_high & !((1u64 << low) - 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_exact() {
        for (start, end) in [(0, 0), (0, 1), (3, 64), (63, 65), (64, 128), (1, 191), (70, 70)] {
            let mut bits = Bits::new(192);
            bits.put(start..end, true);
            for at in 0..192 {
                assert_eq!(bits.get(at), (start..end).contains(&at), "{start}..{end} at {at}");
            }
            assert!(bits.all(start..end));
            assert!(!bits.all(start..end + 1));
            bits.put(0..192, true);
            bits.put(start..end, false);
            assert!((0..192).all(|at| bits.get(at) != (start..end).contains(&at)));
        }
    }
}
