//! A pseudorandom permutation of `0..n` that is computed instead of stored.
//!
//! A balanced Feistel network permutes the numbers of `bits` bits, where `2^bits` is the smallest
//! power of two that is not below n. Each round changes one half of the bits by a keyed hash of the
//! other half, so the same hash undoes it, whatever the hash is: every round is a bijection, and so is
//! the whole.
//!
//! ```text
//!   i = left | right      left  ^= hash(right ^ key[0])
//!                         right ^= hash(left  ^ key[1])      six times, with fresh keys
//! ```
//!
//! The result may be n or larger. The network is then applied again until it is not (cycle walking;
//! Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). The walk follows a cycle of the
//! larger permutation and returns at the first number below n, which keeps it a bijection of `0..n`.
//! As n is more than half of `2^bits`, it takes fewer than two applications on average.
//!
//! Compared with a stored shuffle, this takes no memory and has random access: the record at any
//! position of any epoch costs some 30 ns, for 10^3 and 10^12 records alike.

/// A pseudorandom permutation of `0..n`.
#[derive(Clone, Debug)]
pub(super) struct Permutation {
    n: u64,
    left_bits: u32,
    right_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Permutation {
    /// Rounds, alternating between the halves. Four suffice for large halves (Luby and Rackoff); halves
    /// of a few bits need more before every record is equally likely at every position.
    const ROUNDS: usize = 12;

    /// Derives the permutation of `0..n` for one epoch of a seed.
    ///
    /// # Panics
    /// When n is 0 or above 2^62.
    pub(super) fn new(n: u64, seed: u64, epoch: u64) -> Self {
        let mut key_name = *b"forebay order 1\0................";
        key_name[16..24].copy_from_slice(&seed.to_le_bytes());
        key_name[24..].copy_from_slice(&epoch.to_le_bytes());
        Self::with_key(n, &key_name)
    }

    /// Derives the permutation of the n records of a class, for one of the rounds of an epoch that have each once.
    ///
    /// # Panics
    /// When n is 0 or above 2^62.
    pub(super) fn of_class(n: u64, seed: u64, epoch: u64, (class, round): (u32, u64)) -> Self {
        let mut key_name = *b"forebay class 1\0................................";
        for (bytes, part) in
            key_name[16..].as_chunks_mut::<8>().0.iter_mut().zip([seed, epoch, class.into(), round])
        {
            *bytes = part.to_le_bytes();
        }
        Self::with_key(n, &key_name)
    }

    /// Derives the permutation of the n records of a part of a mix, for one of the rounds that have each once.
    ///
    /// # Panics
    /// When n is 0 or above 2^62.
    pub(super) fn of_part(n: u64, seed: u64, (part, round): (u64, u64)) -> Self {
        let mut key_name = *b"forebay parts 1\0........................";
        for (bytes, word) in
            key_name[16..].as_chunks_mut::<8>().0.iter_mut().zip([seed, part, round])
        {
            *bytes = word.to_le_bytes();
        }
        Self::with_key(n, &key_name)
    }

    fn with_key(n: u64, key_name: &[u8]) -> Self {
        assert!(n > 0 && n <= 1 << 62, "a permutation needs 1 to 2^62 elements, not {n}");
        let bits = n.next_power_of_two().trailing_zeros().max(2);
        let mut bytes = [0; Self::ROUNDS * 8];
        blake3::Hasher::new().update(key_name).finalize_xof().fill(&mut bytes);
        let mut keys = [0; Self::ROUNDS];
        for (key, bytes) in keys.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*bytes);
        }
        Self { n, left_bits: bits / 2, right_bits: bits - bits / 2, keys }
    }

    /// Maps `i` to its image under the permutation.
    ///
    /// # Panics
    /// When `i` is not below n.
    pub(super) fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "index {i} is out of bounds for {} elements", self.n);
        let mut value = i;
        loop {
            value = self.feistel(value);
            if value < self.n {
                return value;
            }
        }
    }

    /// Applies the Feistel network once.
    fn feistel(&self, value: u64) -> u64 {
        let left_mask = (1 << self.left_bits) - 1;
        let right_mask = (1 << self.right_bits) - 1;
        let (mut left, mut right) = (value >> self.right_bits, value & right_mask);
        for keys in self.keys.as_chunks::<2>().0 {
            left ^= hash(right ^ keys[0]) & left_mask;
            right ^= hash(left ^ keys[1]) & right_mask;
        }
        left << self.right_bits | right
    }
}

/// Hashes with the finalizer of `SplitMix64` (Steele, Lea and Flood, 2014); the high half is folded
/// into the low one, because callers use the low bits.
fn hash(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_permutation_is_a_bijection(n in 1_u64..3000, seed: u64, epoch: u64) {
            let permutation = Permutation::new(n, seed, epoch);
            let mut seen = vec![false; usize::try_from(n).unwrap()];
            for i in 0..n {
                let image = usize::try_from(permutation.at(i)).unwrap();
                prop_assert!(!std::mem::replace(&mut seen[image], true), "{image} twice");
            }
        }

        #[test]
        fn a_huge_permutation_stays_in_bounds(n in 1_u64 << 40..=1 << 62, i: u64, seed: u64) {
            let permutation = Permutation::new(n, seed, 0);
            let (a, b) = (i % n, (i.wrapping_mul(3) + 1) % n);
            prop_assert!(permutation.at(a) < n && permutation.at(b) < n);
            prop_assert_eq!(a == b, permutation.at(a) == permutation.at(b));
        }
    }

    #[test]
    fn every_record_is_equally_likely_at_every_position() {
        // For each position, count how often each of n records occurs there in 60,000 epochs. Chi-square
        // with n - 1 degrees of freedom has mean n - 1 and variance 2 (n - 1). The bound leaves room for
        // the n positions that are tested.
        for n in [2_u64, 3, 5, 17, 24, 33] {
            let size = usize::try_from(n).unwrap();
            let epochs = 60_000_u32;
            let mut counts = vec![vec![0_u32; size]; size];
            for epoch in 0..epochs {
                let permutation = Permutation::new(n, 7, u64::from(epoch));
                for (i, counts) in (0_u64..).zip(&mut counts) {
                    counts[usize::try_from(permutation.at(i)).unwrap()] += 1;
                }
            }
            let expected = f64::from(epochs) / n as f64;
            let freedom = n as f64 - 1.0;
            for (position, counts) in counts.iter().enumerate() {
                let chi: f64 =
                    counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
                assert!(
                    chi < freedom + 6.0 * (2.0 * freedom).sqrt() + 6.0,
                    "n {n} position {position}: {chi}"
                );
            }
        }
    }

    #[test]
    fn adjacent_records_are_not_kept_adjacent() {
        // In a random permutation, the record after i is i + 1 once per epoch on average.
        let (n, epochs) = (1000, 400);
        let followed: usize = (0..epochs)
            .map(|epoch| {
                let permutation = Permutation::new(n, 3, epoch);
                (1..n).filter(|&i| permutation.at(i) == permutation.at(i - 1) + 1).count()
            })
            .sum();
        let mean = followed as f64 / epochs as f64;
        assert!((mean - 1.0).abs() < 5.0 / (epochs as f64).sqrt(), "{mean} per epoch");
    }

    #[test]
    fn another_epoch_or_seed_has_another_order() {
        let order = |seed, epoch| {
            let permutation = Permutation::new(1000, seed, epoch);
            (0..1000).map(|i| permutation.at(i)).collect::<Vec<_>>()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(order(1, 0), order(1, 0));
    }
}
