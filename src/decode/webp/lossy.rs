//! The check of lossy data (VP8, RFC 6386).
//!
//! libwebp refuses an image as soon as its decoder wants a bit beyond the end, and computes with 16 bits,
//! which damaged coefficients exceed. The `image-webp` crate does neither. So the symbols are read here
//! once more, when a file is indexed.

use super::bits::{Bits, TRUNCATED};
use super::tables::{AC_STEPS, DC_STEPS, MODES, Probabilities, TOKENS, UPDATES};

/// The error of an image that libwebp decodes with overflows.
pub(super) const OVERFLOW: &str = "coefficients of more than 16 bits";

/// The bands of the coefficients in zigzag order, and of the end.
const BANDS: [usize; 17] = [0, 1, 2, 3, 6, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 7, 0];
const ZIGZAG: [usize; 16] = [0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15];
/// The probabilities of the extra bits of large values.
const EXTRA: [&[u8]; 4] = [
    &[173, 148, 140],
    &[176, 155, 140, 135],
    &[180, 157, 141, 134, 130],
    &[254, 254, 243, 230, 196, 177, 153, 140, 133, 130, 129],
];
/// Block types: luma without DC, the DC of luma, chroma, luma with DC.
const LUMA_AC: usize = 0;
const LUMA_DC: usize = 1;
const CHROMA: usize = 2;
const LUMA: usize = 3;
/// Below this sum of the coefficients of a block, no step of its transform exceeds 16 bits. That of a
/// block that is not damaged is below 10,000.
const MAX_SUM: i32 = 19_000;

/// Quantization steps of DC and AC coefficients.
#[derive(Clone, Copy)]
struct Steps {
    luma: [i32; 2],
    luma_dc: [i32; 2],
    chroma: [i32; 2],
}

/// Segments: quantizers, and the probabilities of the map.
#[derive(Default)]
struct Segments {
    enabled: bool,
    map: Option<[u8; 3]>,
    relative: bool,
    quantizers: [i32; 4],
}

/// What has coefficients around a macroblock: four columns of luma, two of each chroma, the DC of luma;
/// and the modes of its four columns.
#[derive(Clone, Copy, Default)]
struct Edge {
    filled: [bool; 9],
    modes: [usize; 4],
}

/// Checks the data of a lossy image whose header is valid.
///
/// # Errors
/// When libwebp refuses it, or when `image-webp` would decode other pixels than libwebp.
pub(super) fn check(data: &[u8]) -> Result<(), &'static str> {
    let (&[a, b, c, _, _, _, w0, w1, h0, h1], rest) = data.split_first_chunk().ok_or(TRUNCATED)?;
    let length = u32::from_le_bytes([a, b, c, 0]) >> 5;
    let blocks = |low, high| (usize::from(u16::from_le_bytes([low, high])) & 0x3FFF).div_ceil(16);
    let (across, down) = (blocks(w0, w1), blocks(h0, h1));
    let (first, rest) = rest.split_at_checked(length as usize).ok_or(TRUNCATED)?;
    let mut modes = Bits::new(first);
    // Color space and clamping.
    modes.number(2);
    let segments = segments(&mut modes);
    modes.is_whole()?;
    skip_filter(&mut modes);
    modes.is_whole()?;
    let mut tokens = partitions(1 << modes.number(2), rest)?;
    let steps = steps(&mut modes, &segments);
    modes.flag();
    let probabilities = probabilities(&mut modes);
    let skipping = modes.flag().then(|| modes.number(8).to_le_bytes()[0]);
    let mut above = vec![Edge::default(); across];
    let count = tokens.len();
    for y in 0..down {
        let tokens = &mut tokens[y % count];
        let mut left = Edge::default();
        for above in &mut above {
            let segment = segments.map.map_or(0, |[root, low, high]| {
                let upper = modes.bit(root);
                2 * usize::from(upper) + usize::from(modes.bit(if upper { high } else { low }))
            });
            let skipped = skipping.is_some_and(|zero| modes.bit(zero));
            let is_whole_luma = read_modes(&mut modes, above, &mut left);
            let mut around = Around { above, left: &mut left };
            if skipped {
                around.clear(is_whole_luma);
            } else {
                around.residuals(tokens, &probabilities, &steps[segment], is_whole_luma)?;
            }
            tokens.is_whole()?;
        }
        modes.is_whole()?;
    }
    Ok(())
}

fn segments(bits: &mut Bits<'_>) -> Segments {
    let mut segments = Segments { enabled: bits.flag(), ..Segments::default() };
    if !segments.enabled {
        return segments;
    }
    let has_map = bits.flag();
    if bits.flag() {
        segments.relative = !bits.flag();
        segments.quantizers = [(); 4].map(|()| bits.optional(7));
        // Strengths of the loop filter.
        for _ in 0..4 {
            bits.optional(6);
        }
    }
    if has_map {
        segments.map =
            Some([(); 3].map(|()| if bits.flag() { bits.number(8).to_le_bytes()[0] } else { 255 }));
    }
    segments
}

fn skip_filter(bits: &mut Bits<'_>) {
    bits.number(1 + 6 + 3);
    if bits.flag() && bits.flag() {
        for _ in 0..8 {
            bits.optional(6);
        }
    }
}

/// The partitions of tokens: their lengths, except that of the last, then their data.
fn partitions(count: usize, data: &[u8]) -> Result<Vec<Bits<'_>>, &'static str> {
    let (lengths, mut data) = data.split_at_checked(3 * (count - 1)).ok_or(TRUNCATED)?;
    let mut partitions = Vec::with_capacity(count);
    for &[a, b, c] in lengths.as_chunks().0 {
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        partitions.push(Bits::new(data.split_off(..length).ok_or(TRUNCATED)?));
    }
    if data.is_empty() {
        return Err(TRUNCATED);
    }
    partitions.push(Bits::new(data));
    Ok(partitions)
}

/// The quantization steps of the segments (section 9.6).
fn steps(bits: &mut Bits<'_>, segments: &Segments) -> [Steps; 4] {
    let base = bits.number(7);
    let [luma_dc, second_dc, second_ac, chroma_dc, chroma_ac] = [(); 5].map(|()| bits.optional(4));
    let at = |index: i32| usize::try_from(index.clamp(0, 127)).expect("not negative");
    let dc = |index: i32| i32::from(DC_STEPS[at(index)]);
    let ac = |index: i32| i32::from(AC_STEPS[at(index)]);
    segments.quantizers.map(|own| {
        let index = match (segments.enabled, segments.relative) {
            (false, _) => base,
            (true, false) => own,
            (true, true) => base + own,
        };
        Steps {
            luma: [dc(index + luma_dc), ac(index)],
            luma_dc: [dc(index + second_dc) * 2, (ac(index + second_ac) * 155 / 100).max(8)],
            chroma: [dc(index + chroma_dc).min(132), ac(index + chroma_ac)],
        }
    })
}

/// The probabilities of tokens (section 13.4).
fn probabilities(bits: &mut Bits<'_>) -> [Probabilities; 96] {
    let mut probabilities = TOKENS;
    for (own, updates) in probabilities.iter_mut().zip(&UPDATES) {
        for (own, update) in own.iter_mut().zip(updates) {
            if bits.bit(*update) {
                *own = bits.number(8).to_le_bytes()[0];
            }
        }
    }
    probabilities
}

/// Reads the modes of a macroblock (section 11.2). Returns whether luma is predicted as a whole.
fn read_modes(bits: &mut Bits<'_>, above: &mut Edge, left: &mut Edge) -> bool {
    let is_whole = bits.bit(145);
    if is_whole {
        // As the modes of blocks: DC 0, true motion 1, vertical 2, horizontal 3.
        let mode = match bits.bit(156) {
            false if bits.bit(163) => 2,
            false => 0,
            true if bits.bit(128) => 1,
            true => 3,
        };
        (above.modes, left.modes) = ([mode; 4], [mode; 4]);
    } else {
        for left in &mut left.modes {
            for above in &mut above.modes {
                let mode = read_mode(bits, &MODES[*above * 10 + *left]);
                (*above, *left) = (mode, mode);
            }
        }
    }
    if bits.bit(142) && bits.bit(114) {
        bits.bit(183);
    }
    is_whole
}

/// Reads the mode of a block (section 11.2).
fn read_mode(bits: &mut Bits<'_>, zero: &[u8; 9]) -> usize {
    if let Some(mode) = (0..3).find(|mode| !bits.bit(zero[*mode])) {
        return mode;
    }
    if !bits.bit(zero[3]) {
        return match bits.bit(zero[4]) {
            false => 3,
            true if bits.bit(zero[5]) => 6,
            true => 5,
        };
    }
    // Left down, vertical left, horizontal down, horizontal up.
    [(4, 6), (7, 7), (8, 8)]
        .into_iter()
        .find(|(_, at)| !bits.bit(zero[*at]))
        .map_or(9, |(mode, _)| mode)
}

/// A macroblock's neighbors.
struct Around<'a> {
    above: &'a mut Edge,
    left: &'a mut Edge,
}

impl Around<'_> {
    /// A macroblock without coefficients.
    fn clear(&mut self, is_whole_luma: bool) {
        for edge in [&mut *self.above, &mut *self.left] {
            let second = edge.filled[8] && !is_whole_luma;
            edge.filled = [false; 9];
            edge.filled[8] = second;
        }
    }

    /// Reads the coefficients of a macroblock (section 13).
    fn residuals(
        &mut self,
        bits: &mut Bits<'_>,
        probabilities: &[Probabilities; 96],
        steps: &Steps,
        is_whole_luma: bool,
    ) -> Result<(), &'static str> {
        let mut tokens = Tokens { bits, probabilities };
        let mut luma_dc = [0; 16];
        if is_whole_luma {
            let mut block = [0; 16];
            let (above, left) = (&mut self.above.filled[8], &mut self.left.filled[8]);
            let end = tokens.block(LUMA_DC, (*above, *left), steps.luma_dc, &mut block)?;
            (*above, *left) = (end > 0, end > 0);
            luma_dc = if end > 1 { walsh_hadamard(&block)? } else { [(block[0] + 3) >> 3; 16] };
        }
        let kind = if is_whole_luma { LUMA_AC } else { LUMA };
        for y in 0..4 {
            for x in 0..4 {
                let mut block = [0; 16];
                let (above, left) = (&mut self.above.filled[x], &mut self.left.filled[y]);
                let end = tokens.block(kind, (*above, *left), steps.luma, &mut block)?;
                let filled = end > usize::from(is_whole_luma);
                (*above, *left) = (filled, filled);
                if is_whole_luma {
                    block[0] = luma_dc[y * 4 + x];
                }
                check_sum(&block)?;
            }
        }
        for (y, x) in [(4, 4), (4, 5), (5, 4), (5, 5), (6, 6), (6, 7), (7, 6), (7, 7)] {
            let mut block = [0; 16];
            let (above, left) = (&mut self.above.filled[x], &mut self.left.filled[y]);
            let end = tokens.block(CHROMA, (*above, *left), steps.chroma, &mut block)?;
            (*above, *left) = (end > 0, end > 0);
            check_sum(&block)?;
        }
        Ok(())
    }
}

fn check_sum(block: &[i32; 16]) -> Result<(), &'static str> {
    let sum: i32 = block.iter().map(|coefficient| coefficient.abs()).sum();
    if sum <= MAX_SUM { Ok(()) } else { Err(OVERFLOW) }
}

/// The inverse transform of the DC coefficients of luma (section 14.3).
fn walsh_hadamard(block: &[i32; 16]) -> Result<[i32; 16], &'static str> {
    let butterfly = |[a, b, c, d]: [i32; 4]| {
        let (outer, inner, difference, other) = (a + d, b + c, b - c, a - d);
        [outer + inner, other + difference, outer - inner, other - difference]
    };
    let mut columns = [0; 16];
    for x in 0..4 {
        let column = butterfly([0, 4, 8, 12].map(|y| block[y + x]));
        (0..4).for_each(|y| columns[y * 4 + x] = column[y]);
    }
    let mut out = [0; 16];
    for (row, out) in columns.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<4>().0) {
        *out = butterfly([row[0] + 3, row[1], row[2], row[3]]).map(|value| value >> 3);
    }
    let fits = out.iter().all(|value| i16::try_from(*value).is_ok());
    if fits { Ok(out) } else { Err(OVERFLOW) }
}

/// The tokens of a partition.
struct Tokens<'a, 'b> {
    bits: &'a mut Bits<'b>,
    probabilities: &'a [Probabilities; 96],
}

impl Tokens<'_, '_> {
    /// Reads a block. Returns the zigzag index after its last coefficient.
    fn block(
        &mut self,
        kind: usize,
        (above, left): (bool, bool),
        steps: [i32; 2],
        block: &mut [i32; 16],
    ) -> Result<usize, &'static str> {
        let zero =
            |at: usize, context: usize| &self.probabilities[(kind * 8 + BANDS[at]) * 3 + context];
        let bits = &mut *self.bits;
        let mut at = usize::from(kind == LUMA_AC);
        let mut zeros = zero(at, usize::from(above) + usize::from(left));
        while at < 16 {
            if !bits.bit(zeros[0]) {
                return Ok(at);
            }
            while !bits.bit(zeros[1]) {
                at += 1;
                zeros = zero(at, 0);
                if at == 16 {
                    return Ok(16);
                }
            }
            let value = if bits.bit(zeros[2]) { large(bits, zeros) } else { 1 };
            let signed = if bits.flag() { -value } else { value };
            block[ZIGZAG[at]] = signed * steps[usize::from(at > 0)];
            if i16::try_from(block[ZIGZAG[at]]).is_err() {
                return Err(OVERFLOW);
            }
            at += 1;
            zeros = zero(at, if value == 1 { 1 } else { 2 });
        }
        Ok(16)
    }
}

/// A value above 1 (section 13.2).
fn large(bits: &mut Bits<'_>, zeros: &Probabilities) -> i32 {
    if !bits.bit(zeros[3]) {
        return if bits.bit(zeros[4]) { 3 + i32::from(bits.bit(zeros[5])) } else { 2 };
    }
    if !bits.bit(zeros[6]) {
        if !bits.bit(zeros[7]) {
            return 5 + i32::from(bits.bit(159));
        }
        return 7 + 2 * i32::from(bits.bit(165)) + i32::from(bits.bit(145));
    }
    let high = bits.bit(zeros[8]);
    let category = 2 * usize::from(high) + usize::from(bits.bit(zeros[9 + usize::from(high)]));
    let extra =
        EXTRA[category].iter().fold(0, |value, zero| value << 1 | i32::from(bits.bit(*zero)));
    3 + (8 << category) + extra
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged image of 19 x 21 pixels. Pillow opens it.
    const OVERFLOWING: &str = "
        1005009d012a130015003eb5507f4ca724a322280aa8e005
        411d8b7c16896c003e8c8800000001fab5a88edb7d46c0e0
        a33d4fce14ac00fdf912547c4acf42060458c122847fffaa
        5df54a57c1f1794b6e1d3c804ba633542bb1d53e8c880000
        000beb8a35786216ffe582985213f794f59bf35bff838e47
        4a60f4d197f6b38ed0532891d5f996cd7587f13be566c8ff
        1bb35e5f81347aa7f89df6bd6e0edc51
    ";

    #[test]
    fn coefficients_of_more_than_16_bits_are_refused() {
        let digits: Vec<u8> =
            OVERFLOWING.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        let data: Vec<u8> = digits.chunks(2).map(byte).collect();
        assert_eq!(check(&data), Err(OVERFLOW));
        assert_eq!(check(&data[..9]), Err(TRUNCATED));
    }
}
