//! Types of numbers that weights are stored in. Each can be widened to f32 without loss.

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    /// The type of torch's name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "float32" => Some(Self::F32),
            "float16" => Some(Self::F16),
            "bfloat16" => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Reads the number at the start of `bytes`, which must be long enough for it.
    pub(super) fn read(self, bytes: &[u8]) -> f32 {
        let half = || u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        match self {
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Self::Bf16 => f32::from_bits(half() << 16),
            Self::F16 => widen_f16(half()),
        }
    }
}

/// The number with these 16 bits: sign, 5 bits of exponent, 10 of fraction.
fn widen_f16(bits: u32) -> f32 {
    let (sign, exponent, fraction) = ((bits >> 15) << 31, (bits >> 10) & 31, bits & 1023);
    let magnitude = match exponent {
        // Multiples of 2^-24, which are exact.
        0 => (f32::from_bits((127 - 24) << 23) * fraction as f32).to_bits(),
        31 => 0x7f80_0000 | (fraction << 13),
        _ => ((exponent + 127 - 15) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_16_bits_is_widened_as_by_the_crate_half() {
        for bits in 0..=u16::MAX {
            let bytes = bits.to_le_bytes();
            let [f16, bf16] = [Number::F16, Number::Bf16].map(|number| number.read(&bytes));
            let [f16_is, bf16_is] =
                [half::f16::from_bits(bits).to_f32(), half::bf16::from_bits(bits).to_f32()];
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same(f16, f16_is) && same(bf16, bf16_is), "{bits}");
        }
    }
}
