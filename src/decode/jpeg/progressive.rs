//! Huffman-coded progressive scans (T.81 G.1.2).

use super::block::Block;
use super::header::ZIGZAG;
use super::pass::{Band, Pass};
use super::scan::ScanDecoder;

impl ScanDecoder<'_> {
    /// Adds what a scan has of block `slot` of the MCU.
    pub(super) fn pass(&mut self, pass: Pass, slot: usize, block: &mut Block) {
        match pass {
            Pass::Whole => _ = self.whole(slot, block),
            Pass::DcFirst { low } => block.0[0] = self.dc(slot) << low,
            Pass::DcRefine { low } => block.0[0] |= i16::from(self.bit()) << low,
            Pass::AcFirst(band) => self.ac_first(slot, band, block),
            Pass::AcRefine(band) => self.ac_refine(slot, band, block),
        }
    }

    /// Takes a bit.
    fn bit(&mut self) -> bool {
        self.stream.top_up();
        self.stream.bits.refill(&self.stream.window.0);
        self.bits(1) != 0
    }

    /// Takes `n` bits, at most 15, of those in the buffer.
    fn bits(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        let bits = self.stream.bits.peek(n);
        self.stream.bits.take(n);
        bits as u32
    }

    /// Decodes a symbol: run and size.
    fn run_and_size(&mut self, slot: usize) -> (usize, u32) {
        self.stream.bits.refill(&self.stream.window.0);
        let symbol = self.ac_table(slot).symbol(&mut self.stream.bits);
        (usize::from(symbol >> 4), u32::from(symbol & 15))
    }

    /// The number of blocks whose bands end here, this one included (T.81 G.1.2.2, `EOBn`).
    fn run_of_ends(&mut self, run: usize) -> u32 {
        (1 << run) + self.bits(run as u32)
    }

    /// The first scan of a band.
    fn ac_first(&mut self, slot: usize, Band { from, to, low }: Band, block: &mut Block) {
        if self.eob_run > 0 {
            self.eob_run -= 1;
            return;
        }
        self.stream.top_up();
        let mut k = from;
        while k <= to {
            match self.run_and_size(slot) {
                (15, 0) => k += 16,
                (run, 0) => {
                    self.eob_run = self.run_of_ends(run) - 1;
                    return;
                }
                (run, size) => {
                    let value = self.stream.bits.value(size) << low;
                    block.0[usize::from(ZIGZAG[(k + run).min(63)])] = value;
                    k += run + 1;
                }
            }
        }
    }

    /// A later scan of a band: one more bit of the known coefficients, and new coefficients between
    /// them.
    fn ac_refine(&mut self, slot: usize, Band { from, to, low }: Band, block: &mut Block) {
        self.stream.top_up();
        let bit = 1_i16 << low;
        let mut k = from;
        while k <= to && self.eob_run == 0 {
            let (run, size) = self.run_and_size(slot);
            if size == 0 && run != 15 {
                self.eob_run = self.run_of_ends(run);
                break;
            }
            let value = match (size, size != 0 && self.bits(1) != 0) {
                (0, _) => 0,
                (_, true) => bit,
                (_, false) => -bit,
            };
            k = self.refine((k, to), run, bit, block);
            if value != 0 {
                block.0[usize::from(ZIGZAG[k.min(63)])] = value;
            }
            k += 1;
        }
        if self.eob_run > 0 {
            self.refine((k, to), usize::MAX, bit, block);
            self.eob_run -= 1;
        }
    }

    /// Refines known coefficients up to the unknown one after `run` others. Returns its index, or
    /// that after the band.
    fn refine(
        &mut self,
        (from, to): (usize, usize),
        run: usize,
        bit: i16,
        block: &mut Block,
    ) -> usize {
        let mut left = run;
        for (k, &position) in ZIGZAG.iter().enumerate().take(to + 1).skip(from) {
            let value = &mut block.0[usize::from(position)];
            if *value == 0 {
                if left == 0 {
                    return k;
                }
                left -= 1;
                continue;
            }
            self.stream.bits.refill(&self.stream.window.0);
            if self.bits(1) != 0 && *value & bit == 0 {
                *value = value.wrapping_add(if *value >= 0 { bit } else { -bit });
            }
        }
        to + 1
    }
}
