//! Parquet's hybrid of run lengths and bit-packed groups, in which levels and dictionary indexes are stored.

/// Decodes `count` numbers of `width` bits. `None` if they are truncated or malformed.
pub(super) fn decode(mut bytes: &[u8], width: u8, count: usize) -> Option<Vec<u32>> {
    if width > 32 {
        return None;
    }
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let rest = count - numbers.len();
        let header = varint(&mut bytes)?;
        let length = usize::try_from(header >> 1).ok()?;
        if header & 1 == 0 {
            let (value, after) = bytes.split_at_checked(usize::from(width).div_ceil(8))?;
            bytes = after;
            let value = value.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte));
            // Whole bytes have room for larger numbers than `width` bits have.
            if length == 0 || u64::from(value) >> width != 0 {
                return None;
            }
            numbers.resize(numbers.len() + length.min(rest), value);
        } else {
            // Groups of 8 numbers. Writers may cut off the last one.
            let packed = length.checked_mul(usize::from(width))?;
            let (group, after) = bytes.split_at(packed.min(bytes.len()));
            bytes = after;
            let whole = length.checked_mul(8)?.min(rest);
            if length == 0 || group.len() * 8 < whole.checked_mul(usize::from(width))? {
                return None;
            }
            unpack(group, width, whole, &mut numbers);
        }
    }
    Some(numbers)
}

/// Appends `count` numbers of `width` bits, the lowest bits first.
fn unpack(bytes: &[u8], width: u8, count: usize, numbers: &mut Vec<u32>) {
    let (mut buffer, mut bits, mut bytes) = (0_u64, 0, bytes.iter());
    for _ in 0..count {
        while bits < width {
            buffer |= u64::from(*bytes.next().expect("checked by the caller")) << bits;
            bits += 8;
        }
        let number = buffer & ((1 << width) - 1);
        numbers.push(u32::try_from(number).expect("at most 32 bits"));
        buffer >>= width;
        bits -= width;
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_groups_are_decoded() {
        // The example of the format's specification: 0 to 7 in 3 bits.
        let group = [3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        assert_eq!(decode(&group, 3, 8), Some((0..8).collect()));
        assert_eq!(decode(&group, 3, 5), Some((0..5).collect()));
        assert_eq!(decode(&[6, 5, 4, 2], 3, 5), Some(vec![5, 5, 5, 2, 2]));
        assert_eq!(decode(&[200, 1, 0x34, 0x12], 16, 100), Some(vec![0x1234; 100]));
        assert_eq!(decode(&[8], 0, 4), Some(vec![0; 4]));
        assert_eq!(decode(&[], 1, 0), Some(vec![]));
    }

    #[test]
    fn truncated_numbers_are_refused() {
        assert_eq!(decode(&[3, 0b1000_1000], 3, 8), None);
        assert_eq!(decode(&[6], 3, 3), None);
        assert_eq!(decode(&[6, 8], 3, 3), None);
        assert_eq!(decode(&[0, 1], 3, 3), None);
        assert_eq!(decode(&[6, 1], 33, 3), None);
        // A run without end has no more numbers than are wanted.
        let run = [0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1];
        assert_eq!(decode(&run, 1, 3), Some(vec![1; 3]));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_decoded_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            width in 0..40_u8,
            count in 0..1000_usize,
        ) {
            if let Some(numbers) = decode(&bytes, width, count) {
                prop_assert_eq!(numbers.len(), count);
                prop_assert!(numbers.iter().all(|number| u64::from(*number) < 1 << width));
            }
        }
    }
}
