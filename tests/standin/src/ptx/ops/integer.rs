//! Integer and bit operations.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    reason = "an operand is the low bits of its slot"
)]

use super::super::code::Pure;

/// The instruction `name` (with `.lo`, `.hi` or `.wide` if it has one) on operands of `kind`.
pub(in super::super) fn find(name: &str, kind: &str) -> Option<Pure> {
    match kind {
        "b16" | "u16" => u16s::find(name),
        "s16" => s16s::find(name),
        "b32" | "u32" => u32s::find(name).or_else(|| words(name)),
        "s32" => s32s::find(name).or_else(|| words(name)),
        "b64" | "u64" => u64s::find(name),
        "s64" => s64s::find(name),
        "pred" => predicates(name),
        _ => None,
    }
}

/// `$t` is the type, `$u` is its unsigned type, and `$w` and `$wu` are twice as wide.
macro_rules! table {
    ($name:ident, $t:ty, $u:ty, $w:ty, $wu:ty) => {
        mod $name {
            use super::Pure;

            const BITS: u64 = <$t>::BITS as u64;

            pub(super) fn find(name: &str) -> Option<Pure> {
                arithmetic(name)
                    .or_else(|| bits(name))
                    .or_else(|| carries(name))
                    .or_else(|| compare(name))
            }

            fn arithmetic(name: &str) -> Option<Pure> {
                Some(match name {
                    "add" => |a, b, _| (a as $t).wrapping_add(b as $t) as $u as u64,
                    "add.sat" => |a, b, _| (a as $t).saturating_add(b as $t) as $u as u64,
                    "sub" => |a, b, _| (a as $t).wrapping_sub(b as $t) as $u as u64,
                    "sub.sat" => |a, b, _| (a as $t).saturating_sub(b as $t) as $u as u64,
                    "mul.lo" => |a, b, _| (a as $t).wrapping_mul(b as $t) as $u as u64,
                    "mul.hi" => |a, b, _| high(a, b) as u64,
                    "mul.wide" => |a, b, _| (a as $t as $w * b as $t as $w) as $wu as u64,
                    "mad.lo" => {
                        |a, b, c| (a as $t).wrapping_mul(b as $t).wrapping_add(c as $t) as $u as u64
                    }
                    "mad.hi" => |a, b, c| high(a, b).wrapping_add(c as $u) as u64,
                    "mad.wide" => |a, b, c| {
                        (a as $t as $w * b as $t as $w).wrapping_add(c as $w) as $wu as u64
                    },
                    // Division by zero returns all ones on a GPU, and the dividend as the remainder.
                    "div" => |a, b, _| {
                        (if b as $t == 0 { !0 } else { (a as $t).wrapping_div(b as $t) as $u })
                            as u64
                    },
                    "rem" => |a, b, _| {
                        (if b as $t == 0 { a as $u } else { (a as $t).wrapping_rem(b as $t) as $u })
                            as u64
                    },
                    "min" => |a, b, _| (a as $t).min(b as $t) as $u as u64,
                    "max" => |a, b, _| (a as $t).max(b as $t) as $u as u64,
                    "abs" => |a, _, _| absolute(a as $t) as u64,
                    "neg" => |a, _, _| (a as $u).wrapping_neg() as u64,
                    "sad" => |a, b, c| (a as $t).abs_diff(b as $t).wrapping_add(c as $u) as u64,
                    _ => return None,
                })
            }

            fn bits(name: &str) -> Option<Pure> {
                Some(match name {
                    "and" => |a, b, _| (a & b) as $u as u64,
                    "or" => |a, b, _| (a | b) as $u as u64,
                    "xor" => |a, b, _| (a ^ b) as $u as u64,
                    "not" => |a, _, _| !a as $u as u64,
                    "cnot" => |a, _, _| (a as $u == 0) as u64,
                    "shl" => |a, b, _| {
                        if (b as u32) as u64 >= BITS { 0 } else { ((a as $u) << (b as u32)) as u64 }
                    },
                    "shr" => |a, b, _| {
                        let past = (b as u32) as u64 >= BITS;
                        let shifted = ((a as $t) >> (b as u32).min(BITS as u32 - 1)) as $u as u64;
                        if <$t>::MIN == 0 && past { 0 } else { shifted }
                    },
                    "popc" => |a, _, _| (a as $u).count_ones() as u64,
                    "clz" => |a, _, _| (a as $u).leading_zeros() as u64,
                    "brev" => |a, _, _| (a as $u).reverse_bits() as u64,
                    "bfind" => |a, _, _| leading_bit(a as $t) as u64,
                    "bfind.shiftamt" => |a, _, _| match leading_bit(a as $t) {
                        u32::MAX => u32::MAX as u64,
                        bit => BITS - 1 - bit as u64,
                    },
                    // Position and length have eight bits each.
                    "bfe" => |a, b, c| field(a as $t, b & 255, c & 255) as u64,
                    // `c` is position and length, packed by the decoder.
                    "bfi" => |a, b, c| {
                        let (position, length) = ((c & 255).min(127), (c >> 32 & 255).min(BITS));
                        let mask = ((1_u128 << length) - 1) << position;
                        let inserted = (a as $u as u128) << position & mask;
                        ((b as $u as u128 & !mask) | inserted) as $u as u64
                    },
                    _ => return None,
                })
            }

            fn carries(name: &str) -> Option<Pure> {
                Some(match name {
                    // The carry of a sum or the borrow of a difference.
                    "carry.add" => |a, b, c| {
                        let (sum, first) = (a as $u).overflowing_add(b as $u);
                        (first | sum.overflowing_add(c as $u).1) as u64
                    },
                    "carry.sub" => |a, b, c| {
                        let (difference, first) = (a as $u).overflowing_sub(b as $u);
                        (first | difference.overflowing_sub(c as $u).1) as u64
                    },
                    "add3" => {
                        |a, b, c| (a as $u).wrapping_add(b as $u).wrapping_add(c as $u) as u64
                    }
                    "sub3" => {
                        |a, b, c| (a as $u).wrapping_sub(b as $u).wrapping_sub(c as $u) as u64
                    }
                    _ => return None,
                })
            }

            /// Comparisons, and the operations of atomics only.
            fn compare(name: &str) -> Option<Pure> {
                Some(match name {
                    "eq" => |a, b, _| (a as $t == b as $t) as u64,
                    "ne" => |a, b, _| (a as $t != b as $t) as u64,
                    "lt" | "lo" => |a, b, _| ((a as $t) < b as $t) as u64,
                    "le" | "ls" => |a, b, _| (a as $t <= b as $t) as u64,
                    "gt" | "hi" => |a, b, _| (a as $t > b as $t) as u64,
                    "ge" | "hs" => |a, b, _| (a as $t >= b as $t) as u64,
                    "inc" => |a, b, _| if a as $u >= b as $u { 0 } else { a + 1 },
                    "dec" => |a, b, _| {
                        if a as $u == 0 || a as $u > b as $u { b as $u as u64 } else { a - 1 }
                    },
                    "exch" => |_, b, _| b as $u as u64,
                    "cas" => |a, b, c| if a as $u == b as $u { c as $u as u64 } else { a },
                    _ => return None,
                })
            }

            fn high(a: u64, b: u64) -> $u {
                ((a as $t as $w * b as $t as $w) >> BITS) as $u
            }

            fn negative(a: $t) -> bool {
                <$t>::MIN != 0 && (a as $u) >> (BITS - 1) == 1
            }

            fn absolute(a: $t) -> $u {
                if negative(a) { (a as $u).wrapping_neg() } else { a as $u }
            }

            /// The position of the highest bit that is not a copy of the sign.
            fn leading_bit(a: $t) -> u32 {
                let magnitude = if negative(a) { !a as $u } else { a as $u };
                magnitude.checked_ilog2().unwrap_or(u32::MAX)
            }

            /// Bits `position .. position + length`. Bits above the top are copies of the sign.
            fn field(a: $t, position: u64, length: u64) -> $u {
                if length == 0 {
                    return 0;
                }
                let top = BITS - 1;
                let sign = <$t>::MIN != 0 && (a as $u >> (position + length - 1).min(top)) & 1 == 1;
                let shifted = if position > top { 0 } else { a as $u >> position };
                let valid = length.min((top + 1).saturating_sub(position));
                let mask = ((1_u128 << valid) - 1) as $u;
                (shifted & mask) | if sign { !mask } else { 0 }
            }
        }
    };
}

table!(u16s, u16, u16, u32, u32);
table!(s16s, i16, u16, i32, u32);
table!(u32s, u32, u32, u64, u64);
table!(s32s, i32, u32, i64, u64);
table!(u64s, u64, u64, u128, u128);
table!(s64s, i64, u64, i128, u128);

/// Instructions for 32 bits only.
fn words(name: &str) -> Option<Pure> {
    Some(match name {
        "mul24.lo" => |a, b, _| (signed24(a).wrapping_mul(signed24(b))) as u32 as u64,
        // `b` is the upper word, `a` the lower one, `c` the distance.
        "shf.l.wrap" => |a, b, c| funnel(a, b) << (c & 31) >> 32,
        "shf.r.wrap" => |a, b, c| funnel(a, b) >> (c & 31) & 0xffff_ffff,
        "shf.l.clamp" => |a, b, c| funnel(a, b) << (c as u32).min(32) >> 32,
        "shf.r.clamp" => |a, b, c| funnel(a, b) >> (c as u32).min(32) & 0xffff_ffff,
        "prmt" => |a, b, c| permute(a, b, [0, 4, 8, 12].map(|at| (c >> at) as u8 & 15)),
        "prmt.f4e" => |a, b, c| permute(a, b, [0, 1, 2, 3].map(|i| i + (c as u8 & 3))),
        "prmt.b4e" => {
            |a, b, c| permute(a, b, [0_u8, 1, 2, 3].map(|i| (c as u8 & 3).wrapping_sub(i) & 7))
        }
        "prmt.rc8" => |a, b, c| permute(a, b, [c as u8 & 3; 4]),
        "prmt.ecl" => |a, b, c| permute(a, b, [0, 1, 2, 3].map(|i| (c as u8 & 3).max(i))),
        "prmt.ecr" => |a, b, c| permute(a, b, [0, 1, 2, 3].map(|i| (c as u8 & 3).min(i))),
        "prmt.rc16" => |a, b, c| permute(a, b, [0, 1, 0, 1].map(|i| (c as u8 & 1) * 2 + i)),
        // `a` holds the first two operands; `c` is the table.
        "lop3" => |a, b, c| {
            let (x, y, z) = (a as u32, (a >> 32) as u32, b as u32);
            (0..8).filter(|bit| c >> bit & 1 == 1).fold(0, |all, bit| {
                let pick = |value: u32, on: bool| if on { value } else { !value };
                all | (pick(x, bit & 4 > 0) & pick(y, bit & 2 > 0) & pick(z, bit & 1 > 0)) as u64
            })
        },
        "dp4a.u32.u32" => |a, b, c| dot(bytes(a).map(i64::from), bytes(b).map(i64::from), c),
        "dp4a.s32.s32" => |a, b, c| dot(signed_bytes(a), signed_bytes(b), c),
        "dp4a.u32.s32" => |a, b, c| dot(bytes(a).map(i64::from), signed_bytes(b), c),
        "dp4a.s32.u32" => |a, b, c| dot(signed_bytes(a), bytes(b).map(i64::from), c),
        _ => return None,
    })
}

fn predicates(name: &str) -> Option<Pure> {
    Some(match name {
        "and" => |a, b, _| a & b & 1,
        "or" => |a, b, _| (a | b) & 1,
        "xor" => |a, b, _| (a ^ b) & 1,
        "not" => |a, _, _| !a & 1,
        _ => return None,
    })
}

fn signed24(a: u64) -> i32 {
    ((a as i32) << 8) >> 8
}

fn funnel(low: u64, high: u64) -> u64 {
    low & 0xffff_ffff | high << 32
}

fn permute(a: u64, b: u64, selectors: [u8; 4]) -> u64 {
    let bytes = funnel(a, b).to_le_bytes();
    let picked = selectors.map(|selector| {
        let byte = bytes[usize::from(selector & 7)];
        // Bit 3 selects copies of the sign.
        if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    });
    u32::from_le_bytes(picked) as u64
}

fn bytes(a: u64) -> [u8; 4] {
    (a as u32).to_le_bytes()
}

fn signed_bytes(a: u64) -> [i64; 4] {
    bytes(a).map(|byte| i64::from(byte as i8))
}

fn dot(a: [i64; 4], b: [i64; 4], c: u64) -> u64 {
    let sum: i64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    (sum as u32).wrapping_add(c as u32) as u64
}
