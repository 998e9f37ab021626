//! The element types of tensors and matrices. All arithmetic is in f32.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    F32,
    F16,
    Bf16,
}

impl Number {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub(crate) fn load(self, from: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                from.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            Self::F16 => {
                from.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
            }
            Self::Bf16 => from
                .as_chunks()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
        }
    }

    /// Rounds to the nearest value of this type, ties to even.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// Stores values, rounded as by [`Number::round`].
    pub(crate) fn store(self, from: &[f32], to: &mut [u8]) {
        match self {
            Self::F32 => {
                for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from) {
                    *to = from.to_le_bytes();
                }
            }
            Self::F16 => {
                for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from) {
                    *to = f16::from_f32(*from).to_le_bytes();
                }
            }
            Self::Bf16 => {
                for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from) {
                    *to = bf16::from_f32(*from).to_le_bytes();
                }
            }
        }
    }
}

/// The TF32 value of an f32, as tensor cores use it: 10 bits of mantissa, rounded to nearest, ties away from zero
/// (`cvt.rna.tf32.f32`).
pub(crate) fn tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits((value.to_bits() + 0x1000) & !0x1fff) } else { value }
}

/// Computes `scale * new + keep * old`. Without `old`, which is the case where `keep` is 0, its values are not read: they may be NaN.
pub(crate) fn blend(new: &mut [f32], scale: f32, old: Option<&[f32]>, keep: f32) {
    for new in &mut *new {
        *new *= scale;
    }
    for (new, old) in new.iter_mut().zip(old.into_iter().flatten()) {
        *new += keep * old;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_trip_and_round_to_even() {
        for number in [Number::F32, Number::F16, Number::Bf16] {
            let values = [0.0, -1.5, 2.0, 0.007_812_5, -96.0];
            let mut bytes = vec![0; values.len() * number.bytes()];
            number.store(&values, &mut bytes);
            assert_eq!(number.load(&bytes), values);
        }
        let mut bytes = [0; 4];
        // Values halfway between two bf16 values round to the even one.
        Number::Bf16.store(&[1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0], &mut bytes);
        assert_eq!(Number::Bf16.load(&bytes), [1.0, 1.0 + 4.0 / 256.0]);
    }

    #[test]
    fn tf32_keeps_ten_bits() {
        assert_eq!(tf32(1.0 + 1.0 / 1024.0).to_bits(), (1.0f32 + 1.0 / 1024.0).to_bits());
        assert_eq!(tf32(1.0 + 1.0 / 4096.0).to_bits(), 1f32.to_bits());
        assert_eq!(tf32(-1.0 - 1.0 / 2048.0).to_bits(), (-1.0f32 - 1.0 / 1024.0).to_bits());
    }
}
