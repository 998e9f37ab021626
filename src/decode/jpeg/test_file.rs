//! Small JPEG files with random coefficients, for tests.

use super::marker::ZIGZAG;

/// What a file is to be like.
#[derive(Clone, Debug)]
pub(super) struct TestFile {
    pub(super) height: u16,
    pub(super) width: u16,
    /// Sampling factors of each component.
    pub(super) factors: Vec<(u8, u8)>,
    pub(super) restart_interval: u16,
    pub(super) seed: u64,
}

/// A generator of numbers: splitmix64.
#[derive(Debug)]
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Bits, with stuffing.
#[derive(Debug, Default)]
struct Writer {
    out: Vec<u8>,
    word: u32,
    filled: u32,
}

impl Writer {
    fn put(&mut self, value: u32, bits: u32) {
        for i in (0..bits).rev() {
            self.word = self.word << 1 | value >> i & 1;
            self.filled += 1;
            if self.filled == 8 {
                self.out.push(self.word as u8);
                if self.word == 0xFF {
                    self.out.push(0);
                }
                (self.word, self.filled) = (0, 0);
            }
        }
    }

    fn align(&mut self) {
        while self.filled != 0 {
            self.put(1, 1);
        }
    }

    fn value(&mut self, value: i32, size: u32) {
        let low = if value < 0 { value - 1 } else { value };
        self.put(low.cast_unsigned() & ((1 << size) - 1), size);
    }
}

/// Code lengths of the AC symbols: short ones first, the last ones beyond any look-ahead.
pub(super) const AC_COUNTS: [u8; 16] = [0, 1, 1, 3, 3, 5, 9, 10, 12, 14, 20, 30, 30, 30, 30, 44];

/// All runs and sizes, the end of the block and the run of 16, shuffled.
fn ac_symbols(numbers: &mut Numbers) -> Vec<u8> {
    let mut symbols: Vec<u8> =
        (0..=255).filter(|&symbol| symbol & 15 != 0 || symbol == 0 || symbol == 0xF0).collect();
    for i in (1..symbols.len()).rev() {
        symbols.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    symbols
}

/// Code and length of the symbol at `index`.
fn code(counts: &[u8; 16], index: usize) -> (u32, u32) {
    let (mut code, mut first) = (0, 0);
    for (length, &count) in (1..).zip(counts) {
        if index < first + usize::from(count) {
            return (code + (index - first) as u32, length);
        }
        first += usize::from(count);
        code = (code + u32::from(count)) << 1;
    }
    panic!("symbol {index} has no code");
}

fn size_of(value: i32) -> u32 {
    32 - value.unsigned_abs().leading_zeros()
}

impl TestFile {
    /// The file's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut numbers = Numbers(self.seed);
        let symbols = ac_symbols(&mut numbers);
        let mut dc_counts = [0; 16];
        dc_counts[3] = 12;
        let mut out = vec![0xFF, 0xD8];
        let mut segment = |code: u8, body: &[u8]| {
            out.extend([0xFF, code]);
            out.extend((body.len() as u16 + 2).to_be_bytes());
            out.extend(body);
        };
        let quant: Vec<u8> = (0..64).map(|_| 1 + numbers.below(12) as u8).collect();
        segment(0xDB, &[&[0], &quant[..]].concat());
        let parts = self.factors.iter().zip(1_u8..);
        let components: Vec<u8> = parts.flat_map(|(&(h, v), id)| [id, h << 4 | v, 0]).collect();
        let count = self.factors.len() as u8;
        let [y1, y0] = self.height.to_be_bytes();
        let [x1, x0] = self.width.to_be_bytes();
        segment(0xC0, &[&[8, y1, y0, x1, x0, count], &components[..]].concat());
        let dc_symbols: Vec<u8> = (0..12).collect();
        segment(0xC4, &[&[0], &dc_counts[..], &dc_symbols].concat());
        segment(0xC4, &[&[0x10], &AC_COUNTS[..], &symbols].concat());
        segment(0xDD, &self.restart_interval.to_be_bytes());
        let selectors: Vec<u8> = (1..=count).flat_map(|id| [id, 0]).collect();
        segment(0xDA, &[&[count], &selectors[..], &[0, 63, 0]].concat());
        out.extend(self.scan(&mut numbers, &symbols, &dc_counts));
        out.extend([0xFF, 0xD9]);
        out
    }

    fn scan(&self, numbers: &mut Numbers, symbols: &[u8], dc_counts: &[u8; 16]) -> Vec<u8> {
        let single = self.factors.len() == 1;
        let factors: Vec<(u8, u8)> = if single { vec![(1, 1)] } else { self.factors.clone() };
        let most = |of: fn(&(u8, u8)) -> u8| 8 * u32::from(factors.iter().map(of).max().unwrap());
        let across = u32::from(self.width).div_ceil(most(|factor| factor.0));
        let down = u32::from(self.height).div_ceil(most(|factor| factor.1));
        let mut writer = Writer::default();
        let mut dc = [0; 4];
        for mcu in 0..across * down {
            let interval = u32::from(self.restart_interval);
            if interval != 0 && mcu != 0 && mcu % interval == 0 {
                writer.align();
                writer.out.extend([0xFF, 0xD0 | ((mcu / interval - 1) & 7) as u8]);
                dc = [0; 4];
            }
            for (component, &(h, v)) in factors.iter().enumerate() {
                for _ in 0..h * v {
                    let level = numbers.below(300) as i32 - 150;
                    let difference = level - dc[component];
                    dc[component] = level;
                    let size = size_of(difference);
                    let (code, length) = code(dc_counts, size as usize);
                    writer.put(code, length);
                    writer.value(difference, size);
                    ac(&mut writer, numbers, symbols);
                }
            }
        }
        writer.align();
        writer.out
    }
}

/// Random AC coefficients, of a density that differs from block to block.
fn ac(writer: &mut Writer, numbers: &mut Numbers, symbols: &[u8]) {
    let symbol = |writer: &mut Writer, symbol: u8| {
        let index = symbols.iter().position(|&other| other == symbol).unwrap();
        let (code, length) = code(&AC_COUNTS, index);
        writer.put(code, length);
    };
    let spread = [1, 2, 5, 20, 80][numbers.below(5) as usize];
    let (mut k, end) = (0, numbers.below(ZIGZAG.len() as u64 + 1) as usize);
    loop {
        let run = numbers.below(spread) as usize;
        if k + run + 1 > end.min(63) {
            break;
        }
        for _ in 0..run / 16 {
            symbol(writer, 0xF0);
        }
        let most = 1 << numbers.below(9);
        let value = (1 + numbers.below(most) as i32) * if numbers.below(2) == 0 { 1 } else { -1 };
        symbol(writer, (run % 16 << 4) as u8 | size_of(value) as u8);
        writer.value(value, size_of(value));
        k += run + 1;
    }
    if k < 63 {
        symbol(writer, 0);
    }
}
