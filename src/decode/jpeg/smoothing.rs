//! Block smoothing of unfinished progressive images, bit-equal to libjpeg-turbo's.
//!
//! As long as the first AC coefficients are not known to the last bit, libjpeg estimates those that
//! are zero so far from the DC coefficients of the 5 x 5 blocks around. If no AC coefficient is known
//! at all, it fits a smooth surface, DC included (T.81 K.8 describes the idea for 3 x 3 blocks). The
//! estimate of a partly known coefficient stays below the bits that are known to be zero.

use super::block::Block;
use super::header::{MAX_COMPONENTS, Scan};

/// The number of coefficients, in zigzag order, that take part: DC and nine AC coefficients.
const COUNT: usize = 10;
/// Their positions in a block.
const POSITIONS: [usize; COUNT] = [0, 1, 8, 16, 9, 2, 3, 10, 17, 24];
/// The bit position of a coefficient that no scan has coded.
const UNKNOWN: i8 = -1;

/// The DC coefficients of the 5 x 5 blocks around a block, or their weights.
pub(super) type Neighborhood = [[i32; 5]; 5];

/// The lowest known bit of each of the coefficients.
type Bits = [i8; COUNT];

/// The known precision of a component's coefficients.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// After the last scan of the component.
    now: Bits,
    /// Before the last scan.
    before: Bits,
}

/// The known precision of each component's coefficients, updated as scans are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Precision {
    components: [Known; MAX_COMPONENTS],
    scans: u32,
    /// The last MCU row of the image in which the data of the last scan had not ended.
    pub(super) last_good_row: u32,
}

impl Default for Precision {
    fn default() -> Self {
        let unknown = Known { now: [UNKNOWN; COUNT], before: [UNKNOWN; COUNT] };
        Self { components: [unknown; MAX_COMPONENTS], scans: 0, last_good_row: 0 }
    }
}

impl Precision {
    /// Takes note of a progressive scan.
    pub(super) fn add(&mut self, scan: &Scan) {
        for part in scan.components() {
            let Known { now, before } = &mut self.components[part.index];
            *before = if self.scans == 0 { [0; COUNT] } else { *now };
            let (from, to) = (usize::from(scan.spectral.0), usize::from(scan.spectral.1));
            for bit in &mut now[from.min(COUNT)..COUNT.min(to + 1)] {
                *bit = scan.approximation.1 as i8;
            }
        }
        self.scans += 1;
    }

    /// Whether libjpeg smooths the image: some coefficient is not known to the last bit, DC is known
    /// for all of the components, and no estimate would divide by zero.
    pub(super) fn needs_smoothing(&self, count: usize, quant: &[[u16; 64]]) -> bool {
        let known = &self.components[..count];
        let possible = known.iter().zip(quant).all(|(known, quant)| {
            known.now[0] >= 0 && POSITIONS.iter().all(|&position| quant[position] != 0)
        });
        possible && known.iter().any(|known| known.now[1..].iter().any(|&bit| bit != 0))
    }

    /// The precision of a component in an MCU row of the image. Where the last scan ended early, that
    /// before it counts.
    pub(super) fn bits(&self, component: usize, mcu_row: u32) -> Bits {
        let known = &self.components[component];
        match (mcu_row > self.last_good_row, self.scans) {
            (false, _) => known.now,
            (true, 1) => [UNKNOWN; COUNT],
            (true, _) => known.before,
        }
    }
}

/// Estimates the coefficients of a block that are zero and not known to the last bit.
pub(super) fn smooth(block: &mut Block, around: &Neighborhood, bits: Bits, quant: &[u16; 64]) {
    let blank = bits[1..].iter().all(|&bit| bit == UNKNOWN);
    let kernels = if blank { &BLANK[..] } else { &PARTLY_KNOWN };
    // DC comes last in libjpeg, but no estimate reads the block's own coefficients.
    for (index, kernel) in (1..).zip(kernels) {
        let value = &mut block.0[POSITIONS[index]];
        if bits[index] != 0 && *value == 0 {
            *value = estimate(kernel, around, quant, POSITIONS[index], bits[index]);
        }
    }
    if blank {
        block.0[0] = estimate(&BLANK_DC, around, quant, 0, 0);
    }
}

/// The weighted sum of the neighborhood in 1/256 steps of the quantizer, rounded away from zero, and
/// limited to the bits below `low`.
fn estimate(
    kernel: &Neighborhood,
    around: &Neighborhood,
    quant: &[u16; 64],
    position: usize,
    low: i8,
) -> i16 {
    let pairs = kernel.iter().flatten().zip(around.iter().flatten());
    let sum: i32 = pairs.map(|(weight, dc)| weight * dc).sum();
    let (sum, step) = (i64::from(sum) * i64::from(quant[0]), i64::from(quant[position]));
    let mut size = ((step << 7) + sum.abs()) / (step << 8);
    if low > 0 {
        size = size.min((1 << low) - 1);
    }
    (if sum < 0 { -size } else { size }) as i16
}

/// The kernel across, from that down.
const fn transposed(kernel: Neighborhood) -> Neighborhood {
    let mut out = [[0; 5]; 5];
    let mut i = 0;
    while i < 25 {
        out[i % 5][i / 5] = kernel[i / 5][i % 5];
        i += 1;
    }
    out
}

/// The kernels of AC coefficients 1 to 5 in zigzag order, where some AC coefficient is known.
static PARTLY_KNOWN: [Neighborhood; 5] = [
    SLOPE,
    transposed(SLOPE),
    transposed(CURVE),
    [[0, -1, 0, 1, 0], [-1, 10, 0, -10, 1], [0; 5], [1, -10, 0, 10, -1], [0, 1, 0, -1, 0]],
    CURVE,
];
const SLOPE: Neighborhood = [[0; 5], [0; 5], [-7, 50, 0, -50, 7], [0; 5], [0; 5]];
const CURVE: Neighborhood = [[0; 5], [0; 5], [-1, 13, -24, 13, -1], [0; 5], [0; 5]];

/// The kernels of AC coefficients 1 to 9 in zigzag order, where no AC coefficient is known.
static BLANK: [Neighborhood; 9] = [
    BLANK_SLOPE,
    transposed(BLANK_SLOPE),
    transposed(BLANK_CURVE),
    [[-1, 0, 0, 0, 1], [0, 9, 0, -9, 0], [0; 5], [0, -9, 0, 9, 0], [1, 0, 0, 0, -1]],
    BLANK_CURVE,
    BLANK_CUBIC,
    BLANK_TWIST,
    transposed(BLANK_TWIST),
    transposed(BLANK_CUBIC),
];
const BLANK_SLOPE: Neighborhood = [
    [-1, -1, 0, 1, 1],
    [-3, 13, 0, -13, 3],
    [-3, 38, 0, -38, 3],
    [-3, 13, 0, -13, 3],
    [-1, -1, 0, 1, 1],
];
const BLANK_CURVE: Neighborhood =
    [[0; 5], [0, 2, -5, 2, 0], [1, 7, -14, 7, 1], [0, 2, -5, 2, 0], [0; 5]];
const BLANK_CUBIC: Neighborhood =
    [[0; 5], [0, 1, 0, -1, 0], [0, 2, 0, -2, 0], [0, 1, 0, -1, 0], [0; 5]];
const BLANK_TWIST: Neighborhood = [[0; 5], [0, 1, -3, 1, 0], [0; 5], [0, -1, 3, -1, 0], [0; 5]];
const BLANK_DC: Neighborhood = [
    [-2, -6, -8, -6, -2],
    [-6, 6, 42, 6, -6],
    [-8, 42, 152, 42, -8],
    [-6, 6, 42, 6, -6],
    [-2, -6, -8, -6, -2],
];
