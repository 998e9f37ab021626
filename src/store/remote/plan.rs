//! Which requests get the bytes that a microbatch lacks: plain values, decided before anything is sent.

use std::ops::Range;

use super::super::cache::BLOCK;

/// Largest gap between two ranges that are read by one request: less than what a connection moves during the time
/// that a request takes. And less than a block of the cache, so that a block that is there is never fetched again because
/// its neighbors are.
pub(super) const MAX_GAP: u64 = BLOCK - 1;

/// Largest request. A longer one is split, so that a part that fails costs little, and parts arrive together.
pub(super) const MAX_READ: u64 = 8 << 20;

/// A range of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) shard: u32,
    pub(super) range: Range<u64>,
}

impl Run {
    pub(super) const fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// Joins runs whose gaps are small, so that one request reads them. `may_join` says whether a gap may be read.
pub(super) fn join(mut runs: Vec<Run>, may_join: impl Fn(&Run) -> bool) -> Vec<Run> {
    runs.sort_unstable_by_key(|run| (run.shard, run.range.start));
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        if let Some(last) = joined.last_mut().filter(|last| last.shard == run.shard) {
            // Records may overlap in a hostile index.
            let gap = last.range.end..run.range.start.max(last.range.end);
            let end = last.range.end.max(run.range.end);
            let fits = gap.end - gap.start <= MAX_GAP && end - last.range.start <= MAX_READ;
            let gap = Run { shard: run.shard, range: gap };
            if run.range.start < last.range.end || fits && (gap.bytes() == 0 || may_join(&gap)) {
                last.range.end = end;
                continue;
            }
        }
        joined.push(run);
    }
    joined
}

/// Splits a run that is too long for one request.
pub(super) fn split(Run { shard, range }: Run) -> impl Iterator<Item = Run> + use<> {
    let starts =
        (range.start..range.end).step_by(usize::try_from(MAX_READ).expect("a small number"));
    starts.map(move |start| Run { shard, range: start..range.end.min(start + MAX_READ) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(shard: u32, range: Range<u64>) -> Run {
        Run { shard, range }
    }

    #[test]
    fn neighbors_are_read_by_one_request_and_others_by_their_own() {
        let runs = vec![run(1, 0..10), run(0, 500..600), run(0, 0..100), run(0, 100..200)];
        assert_eq!(join(runs.clone(), |_| true), [run(0, 0..600), run(1, 0..10)]);
        let apart = join(runs, |_| false);
        assert_eq!(apart, [run(0, 0..200), run(0, 500..600), run(1, 0..10)]);
        let far = 100 + MAX_GAP + 1;
        let apart = join(vec![run(0, 0..100), run(0, far..far + 1)], |_| true);
        assert_eq!(apart.len(), 2, "the gap is too large");
        let around = vec![run(0, 0..BLOCK), run(0, 2 * BLOCK..3 * BLOCK)];
        assert_eq!(join(around.clone(), |_| true), around, "the block between may be cached");
    }

    #[test]
    fn requests_are_bounded() {
        let long: Vec<Run> = split(run(0, 5..2 * MAX_READ + 6)).collect();
        let (a, b) = (5 + MAX_READ, 5 + 2 * MAX_READ);
        assert_eq!(long, [run(0, 5..a), run(0, a..b), run(0, b..b + 1)]);
        let many = (0..300).map(|n| run(0, n * 100_000..n * 100_000 + 90_000)).collect();
        let many = join(many, |_| true);
        assert!(many.len() < 5 && many.iter().all(|run| run.bytes() <= MAX_READ), "{many:?}");
    }

    #[test]
    fn equal_ranges_are_read_once() {
        let runs = vec![run(0, 0..100), run(0, 0..100), run(0, 50..70)];
        assert_eq!(join(runs, |_| false), [run(0, 0..100)]);
    }
}
