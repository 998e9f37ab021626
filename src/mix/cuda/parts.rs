//! Splits a microbatch into parts: samples from its front, and their partners from its back.

use std::ops::Range;

/// Two runs of samples that are each other's partners, or one run in the middle that is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) front: Range<usize>,
    pub(super) back: Range<usize>,
}

impl Part {
    pub(super) fn len(&self) -> usize {
        self.front.len() + self.back.len()
    }

    /// The samples, in order.
    pub(super) fn samples(&self) -> impl Iterator<Item = usize> {
        self.front.clone().chain(self.back.clone())
    }

    /// The runs that are not empty: the offset of each within the part, and its range of a buffer whose
    /// samples take `bytes` each.
    pub(super) fn runs(&self, bytes: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let back = self.front.len() * bytes;
        [(0, self.front.clone()), (back, self.back.clone())]
            .into_iter()
            .filter(|(_, run)| !run.is_empty())
            .map(move |(offset, run)| (offset, run.start * bytes..run.end * bytes))
    }
}

/// Splits n samples into parts of at most `max`, which is at least 2.
pub(super) fn parts(n: usize, max: usize) -> impl Iterator<Item = Part> {
    let mut left = 0..n;
    std::iter::from_fn(move || {
        let Range { start, end } = left;
        if left.is_empty() {
            return None;
        }
        if left.len() <= max {
            left = end..end;
            return Some(Part { front: start..end, back: 0..0 });
        }
        left = start + max / 2..end - max / 2;
        Some(Part { front: start..left.start, back: left.end..end })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_one_part_with_its_partner() {
        for n in 0..40 {
            for max in 2..20 {
                let mut seen = vec![0; n];
                for part in parts(n, max) {
                    let samples: Vec<usize> = part.samples().collect();
                    assert!((1..=max).contains(&samples.len()) && part.len() == samples.len());
                    for (own, partner) in samples.iter().zip(samples.iter().rev()) {
                        seen[*own] += 1;
                        assert_eq!(own + partner, n - 1, "{n} in parts of {max}: {part:?}");
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{n} in parts of {max}: {seen:?}");
            }
        }
    }

    #[test]
    fn runs_follow_one_another() {
        let part = Part { front: 2..4, back: 10..12 };
        let runs: Vec<_> = part.runs(10).collect();
        assert_eq!(runs, [(0, 20..40), (20, 100..120)]);
        let whole = Part { front: 0..3, back: 0..0 };
        assert_eq!(whole.runs(10).collect::<Vec<_>>(), [(0, 0..30)]);
    }
}
