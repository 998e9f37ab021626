//! How a microbatch is cut into parts: samples from its front, and their partners from its back.

use std::ops::Range;

/// Two runs of samples, which are each other's partners; or one run, in the middle, which is its own.
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

    /// The runs that are not empty, as parts of a buffer that begins at `at`, with so many bytes a
    /// sample, and how far into the part each begins.
    pub(super) fn runs(
        &self,
        at: usize,
        bytes: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        let back = self.front.len() * bytes;
        [(0, self.front.clone()), (back, self.back.clone())]
            .into_iter()
            .filter(|(_, run)| !run.is_empty())
            .map(move |(into, run)| (into, at + run.start * bytes..at + run.end * bytes))
    }
}

/// Cuts n samples into parts of at most `most`, which is at least 2.
pub(super) fn parts(n: usize, most: usize) -> impl Iterator<Item = Part> {
    let mut left = 0..n;
    std::iter::from_fn(move || {
        let Range { start, end } = left;
        if left.is_empty() {
            return None;
        }
        if left.len() <= most {
            left = end..end;
            return Some(Part { front: start..end, back: 0..0 });
        }
        left = start + most / 2..end - most / 2;
        Some(Part { front: start..left.start, back: left.end..end })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_in_one_part_with_its_partner() {
        for n in 0..40 {
            for most in 2..20 {
                let mut seen = vec![0; n];
                for part in parts(n, most) {
                    let samples: Vec<usize> = part.samples().collect();
                    assert!((1..=most).contains(&samples.len()) && part.len() == samples.len());
                    for (own, partner) in samples.iter().zip(samples.iter().rev()) {
                        seen[*own] += 1;
                        assert_eq!(own + partner, n - 1, "{n} by {most}: {part:?}");
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{n} by {most}: {seen:?}");
            }
        }
    }

    #[test]
    fn runs_lie_behind_one_another() {
        let part = Part { front: 2..4, back: 10..12 };
        let runs: Vec<_> = part.runs(100, 10).collect();
        assert_eq!(runs, [(0, 120..140), (20, 200..220)]);
        let whole = Part { front: 0..3, back: 0..0 };
        assert_eq!(whole.runs(0, 10).collect::<Vec<_>>(), [(0, 0..30)]);
    }
}
