//! Small JPEG files with random coefficients, for tests.

/// The distribution of the coefficients over scans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scans {
    /// One scan for all components.
    Interleaved,
    /// One scan per component.
    Separate,
    /// DC without its last bit for all components, AC of each component, the last bit of DC for all.
    Progressive,
}

/// The properties of a generated file.
#[derive(Clone, Debug)]
pub(super) struct TestFile {
    pub(super) height: u16,
    pub(super) width: u16,
    /// Sampling factors of each component.
    pub(super) factors: Vec<(u8, u8)>,
    pub(super) restart_interval: u16,
    pub(super) seed: u64,
    pub(super) scans: Scans,
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

/// A writer of bits, with stuffing.
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

/// Code lengths of the DC symbols 0 to 11: four bits each.
const DC_COUNTS: [u8; 16] = [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Code lengths of the AC symbols: short ones first, the last ones longer than any lookahead.
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

/// The blocks of a component, in zigzag order.
#[derive(Debug)]
struct Plane {
    factors: (u32, u32),
    /// Blocks across and down, without those that only fill MCUs.
    own: (u32, u32),
    /// Blocks of a row.
    stride: u32,
    blocks: Vec<[i32; 64]>,
}

/// The part of the coefficients in a scan.
#[derive(Clone, Copy, Debug)]
enum Part {
    Whole,
    DcButTheLastBit,
    DcLastBit,
    Ac,
}

impl TestFile {
    /// The file's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut numbers = Numbers(self.seed);
        let symbols = ac_symbols(&mut numbers);
        let mut out = self.headers(&mut numbers, &symbols);
        let planes = self.planes(&mut numbers);
        let all: Vec<usize> = (0..planes.len()).collect();
        let each = || all.chunks(1);
        let scans: Vec<(&[usize], Part)> = match self.scans {
            Scans::Interleaved => vec![(&all, Part::Whole)],
            Scans::Separate => each().map(|one| (one, Part::Whole)).collect(),
            Scans::Progressive => std::iter::once((&all[..], Part::DcButTheLastBit))
                .chain(each().map(|one| (one, Part::Ac)))
                .chain([(&all[..], Part::DcLastBit)])
                .collect(),
        };
        for (members, part) in scans {
            let (band, bits) = match part {
                Part::Whole => ([0, 63], 0),
                Part::DcButTheLastBit => ([0, 0], 0x01),
                Part::DcLastBit => ([0, 0], 0x10),
                Part::Ac => ([1, 63], 0),
            };
            let count = members.len() as u8;
            let selectors: Vec<u8> = members.iter().flat_map(|&i| [i as u8 + 1, 0]).collect();
            segment(&mut out, 0xDA, &[&[count], &selectors[..], &band, &[bits]].concat());
            self.scan(&mut out, &planes, (members, part), &symbols);
        }
        out.extend([0xFF, 0xD9]);
        out
    }

    fn headers(&self, numbers: &mut Numbers, symbols: &[u8]) -> Vec<u8> {
        let mut out = vec![0xFF, 0xD8];
        let quant: Vec<u8> = (0..64).map(|_| 1 + numbers.below(12) as u8).collect();
        segment(&mut out, 0xDB, &[&[0], &quant[..]].concat());
        let parts = self.factors.iter().zip(1_u8..);
        let components: Vec<u8> = parts.flat_map(|(&(h, v), id)| [id, h << 4 | v, 0]).collect();
        let count = self.factors.len() as u8;
        let [y1, y0] = self.height.to_be_bytes();
        let [x1, x0] = self.width.to_be_bytes();
        let frame = if self.scans == Scans::Progressive { 0xC2 } else { 0xC0 };
        segment(&mut out, frame, &[&[8, y1, y0, x1, x0, count], &components[..]].concat());
        let dc_symbols: Vec<u8> = (0..12).collect();
        segment(&mut out, 0xC4, &[&[0], &DC_COUNTS[..], &dc_symbols].concat());
        segment(&mut out, 0xC4, &[&[0x10], &AC_COUNTS[..], symbols].concat());
        segment(&mut out, 0xDD, &self.restart_interval.to_be_bytes());
        out
    }

    fn planes(&self, numbers: &mut Numbers) -> Vec<Plane> {
        let single = self.factors.len() == 1;
        let factors: Vec<(u32, u32)> = if single {
            vec![(1, 1)]
        } else {
            self.factors.iter().map(|&(h, v)| (h.into(), v.into())).collect()
        };
        let max = |of: fn(&(u32, u32)) -> u32| factors.iter().map(of).max().unwrap();
        let (h_max, v_max) = (max(|factor| factor.0), max(|factor| factor.1));
        let (width, height) = (u32::from(self.width), u32::from(self.height));
        let (across, down) = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let plane = |&(h, v): &(u32, u32)| Plane {
            factors: (h, v),
            own: ((width * h).div_ceil(8 * h_max), (height * v).div_ceil(8 * v_max)),
            stride: across * h,
            blocks: (0..across * h * down * v).map(|_| block(numbers)).collect(),
        };
        factors.iter().map(plane).collect()
    }

    fn scan(
        &self,
        out: &mut Vec<u8>,
        planes: &[Plane],
        (members, part): (&[usize], Part),
        symbols: &[u8],
    ) {
        let mut writer = Writer::default();
        let mut dc = [0; 4];
        let interval = usize::from(self.restart_interval);
        for (mcu, blocks) in mcus(planes, members).into_iter().enumerate() {
            if interval != 0 && mcu != 0 && mcu % interval == 0 {
                writer.align();
                writer.out.extend([0xFF, 0xD0 | ((mcu / interval - 1) & 7) as u8]);
                dc = [0; 4];
            }
            for (member, at) in blocks {
                let block = &planes[member].blocks[at];
                match part {
                    Part::Whole => {
                        writer.dc(block[0], &mut dc[member]);
                        writer.ac(block, symbols);
                    }
                    Part::DcButTheLastBit => writer.dc(block[0] >> 1, &mut dc[member]),
                    Part::DcLastBit => writer.put(block[0].cast_unsigned() & 1, 1),
                    Part::Ac => writer.ac(block, symbols),
                }
            }
        }
        writer.align();
        out.extend(writer.out);
    }
}

fn segment(out: &mut Vec<u8>, code: u8, body: &[u8]) {
    out.extend([0xFF, code]);
    out.extend((body.len() as u16 + 2).to_be_bytes());
    out.extend(body);
}

/// The blocks of each MCU of a scan: plane and place in it.
fn mcus(planes: &[Plane], members: &[usize]) -> Vec<Vec<(usize, usize)>> {
    if let &[member] = members {
        let Plane { own: (across, down), stride, .. } = planes[member];
        let places = (0..down).flat_map(|y| (0..across).map(move |x| (y * stride + x) as usize));
        return places.map(|at| vec![(member, at)]).collect();
    }
    let first = &planes[0];
    let across = first.stride / first.factors.0;
    let down = first.blocks.len() as u32 / first.stride / first.factors.1;
    let blocks = |mcu: u32| {
        let of_member = |&member: &usize| {
            let Plane { factors: (h, v), stride, .. } = planes[member];
            let (y, x) = (mcu / across * v, mcu % across * h);
            (0..h * v).map(move |i| (member, ((y + i / h) * stride + x + i % h) as usize))
        };
        members.iter().flat_map(of_member).collect()
    };
    (0..across * down).map(blocks).collect()
}

/// Random coefficients, of a density that differs from block to block.
fn block(numbers: &mut Numbers) -> [i32; 64] {
    let mut block = [0; 64];
    block[0] = numbers.below(300) as i32 - 150;
    let spread = [1, 2, 5, 20, 80][numbers.below(5) as usize];
    let (mut k, end) = (0, numbers.below(65) as usize);
    loop {
        k += numbers.below(spread) as usize + 1;
        if k > end.min(63) {
            return block;
        }
        let max = 1 << numbers.below(9);
        block[k] = (1 + numbers.below(max) as i32) * if numbers.below(2) == 0 { 1 } else { -1 };
    }
}

impl Writer {
    fn dc(&mut self, level: i32, before: &mut i32) {
        let difference = level - *before;
        *before = level;
        let size = size_of(difference);
        let (code, length) = code(&DC_COUNTS, size as usize);
        self.put(code, length);
        self.value(difference, size);
    }

    fn ac(&mut self, block: &[i32; 64], symbols: &[u8]) {
        let mut run = 0;
        let last = block.iter().rposition(|&value| value != 0).unwrap_or(0);
        for &value in &block[1..=last] {
            if value == 0 {
                run += 1;
                continue;
            }
            for _ in 0..run / 16 {
                self.symbol(0xF0, symbols);
            }
            self.symbol(((run % 16) << 4) | size_of(value) as u8, symbols);
            self.value(value, size_of(value));
            run = 0;
        }
        if last < 63 {
            self.symbol(0, symbols);
        }
    }

    fn symbol(&mut self, symbol: u8, symbols: &[u8]) {
        let index = symbols.iter().position(|&other| other == symbol).unwrap();
        let (code, length) = code(&AC_COUNTS, index);
        self.put(code, length);
    }
}
