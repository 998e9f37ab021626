//! Moves, selections and packing.

use super::super::code::Pure;

/// Keeps the low bits of a width in bytes.
pub(in super::super) fn truncate(width: u64) -> Pure {
    match width {
        1 => |a, _, _| a & 0xff,
        2 => |a, _, _| a & 0xffff,
        4 => |a, _, _| a & 0xffff_ffff,
        _ => |a, _, _| a,
    }
}

/// `c ? a : b`
pub(in super::super) fn choose(width: u64) -> Pure {
    match width {
        2 => |a, b, c| (if c & 1 == 1 { a } else { b }) & 0xffff,
        4 => |a, b, c| (if c & 1 == 1 { a } else { b }) & 0xffff_ffff,
        _ => |a, b, c| if c & 1 == 1 { a } else { b },
    }
}

/// Sign-extends a value of `width` bytes.
pub(in super::super) fn sign_extend(width: u64) -> Pure {
    match width {
        1 => |a, _, _| (a << 56).cast_signed().wrapping_shr(56).cast_unsigned(),
        2 => |a, _, _| (a << 48).cast_signed().wrapping_shr(48).cast_unsigned(),
        4 => |a, _, _| (a << 32).cast_signed().wrapping_shr(32).cast_unsigned(),
        _ => |a, _, _| a,
    }
}

/// `a` in the low bits, `b` above them at bit `c`.
pub(in super::super) const PACK: Pure = |a, b, c| a | b << c;

/// The bits from `b` on, masked by `c`.
pub(in super::super) const UNPACK: Pure = |a, b, c| a >> b & c;

/// Whether a generic address is in the window `b`.
pub(in super::super) const IN_WINDOW: Pure = |a, b, _| u64::from(a >> 48 == b >> 48);
