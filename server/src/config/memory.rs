//! The memory of a server: one budget, and its parts.
//!
//! | part | share of `--memory` | at most | its own setting |
//! |---|---|---|---|
//! | the process: code, threads, connections, indexes | 1/16, and 32 MiB | | |
//! | requests and answers of all connections | 1/8 | 256 MiB | |
//! | precomputed samples | 1/8 | 96 MiB | `--share-bytes` |
//! | bytes of buckets, if a dataset is in one | 1/8 | 256 MiB | `--read-ahead` |
//! | scratch memory of the workers | 1/4 | 64 MiB each | |
//! | batch buffers, with the cache, and loans for large pictures | what is left | | `--buffer-bytes` |
//!
//! A part that is set replaces its share. Parts that do not fit a given `--memory` are an error; without
//! `--memory` the budget is the sum of the parts.

use std::num::NonZeroUsize;

use anyhow::bail;
use forebay_types::settings::ByteSize;

/// Default for a machine that has enough: 1 GiB, and 64 MiB for each worker.
const BASE: u64 = 1 << 30;
const WORKER: u64 = 64 << 20;
/// What the process takes in addition to its share.
const PROCESS: u64 = 32 << 20;
const MESSAGES: u64 = 256 << 20;
const PRECOMPUTED: u64 = 96 << 20;
const FETCHED: u64 = 256 << 20;

/// The parts of a server's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All parts together.
    pub total: u64,
    /// Batch buffers.
    pub buffers: u64,
    /// Precomputed samples.
    pub precomputed: u64,
    /// Scratch memory of each worker.
    pub worker: u64,
    /// Requests and answers of all connections.
    pub messages: u64,
    /// Bytes of buckets; 0 if no dataset is in one.
    pub fetched: u64,
}

/// The settings of an operator.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) memory: Option<u64>,
    pub(super) buffers: Option<u64>,
    pub(super) precomputed: Option<u64>,
    pub(super) fetched: Option<u64>,
    /// Whether a dataset is in a bucket.
    pub(super) fetches: bool,
}

impl Memory {
    /// Divides the budget.
    ///
    /// # Errors
    /// When the parts do not fit a given budget.
    pub(super) fn new(
        given: Given,
        workers: NonZeroUsize,
        available: Option<u64>,
    ) -> anyhow::Result<Self> {
        let workers = workers.get() as u64;
        let usual = BASE.saturating_add(WORKER.saturating_mul(workers));
        let available = available.map_or(usual, |bytes| bytes / 4 * 3);
        let budget = given.memory.unwrap_or(usual.min(available));
        let worker = (budget / 4 / workers).min(WORKER);
        let messages = (budget / 8).min(MESSAGES);
        let precomputed = given.precomputed.unwrap_or((budget / 8).min(PRECOMPUTED));
        let fetched = given.fetched.unwrap_or((budget / 8).min(FETCHED));
        let fetched = if given.fetches { fetched } else { 0 };
        let workers_bytes = worker.saturating_mul(workers);
        let fixed = [PROCESS, budget / 16, workers_bytes, messages, precomputed, fetched];
        let fixed = fixed.into_iter().fold(0, u64::saturating_add);
        let left = budget.saturating_sub(fixed);
        let buffers = given.buffers.unwrap_or(left);
        let total = fixed.saturating_add(buffers);
        if buffers == 0 || given.memory.is_some() && total > budget {
            bail!(
                "--memory {} is too small: its parts take {}MiB; raise it, or lower --buffer-bytes, \
                 --share-bytes, --read-ahead or --threads",
                ByteSize(budget),
                total.div_ceil(1 << 20),
            );
        }
        Ok(Self { total, buffers, precomputed, worker, messages, fetched })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn divide(given: Given, workers: usize, available: u64) -> anyhow::Result<Memory> {
        Memory::new(given, NonZeroUsize::new(workers).unwrap(), Some(available))
    }

    #[test]
    fn the_default_is_the_usual_size_or_three_quarters_of_what_there_is() {
        let memory = |workers, available| divide(Given::default(), workers, available).unwrap();
        let roomy = memory(4, 64 << 30);
        assert_eq!(
            roomy,
            Memory {
                total: 1280 * MIB,
                buffers: 656 * MIB,
                precomputed: 96 * MIB,
                worker: 64 * MIB,
                messages: 160 * MIB,
                fetched: 0,
            }
        );
        let remote = divide(Given { fetches: true, ..Given::default() }, 4, 64 << 30).unwrap();
        assert_eq!((remote.buffers, remote.fetched), (496 * MIB, 160 * MIB));
        assert_eq!(memory(4, 512 * MIB).total, 384 * MIB);
        assert_eq!(memory(64, 2048 * MIB).total, 1536 * MIB);
    }

    #[test]
    fn the_parts_add_up_to_the_budget() {
        for megabytes in [128, 300, 1000, 5000, 100_000] {
            for workers in [1, 2, 64, 4096] {
                let memory = Some(megabytes * MIB);
                let given = Given { memory, fetches: workers > 1, ..Given::default() };
                let Memory { total, buffers, precomputed, worker, messages, fetched } =
                    divide(given, workers, MIB).unwrap();
                let process = 32 * MIB + megabytes * MIB / 16;
                let workers = worker * workers as u64;
                let parts = [buffers, precomputed, workers, messages, fetched, process];
                assert_eq!(parts.iter().sum::<u64>(), total);
                assert_eq!(total, megabytes * MIB);
            }
        }
    }

    #[test]
    fn a_part_that_is_set_fits_a_given_budget_or_enlarges_the_default() {
        let buffers = Some(4096 * MIB);
        let memory = divide(Given { buffers, ..Given::default() }, 2, 64 << 30).unwrap();
        assert_eq!((memory.buffers, memory.total > 4096 * MIB), (4096 * MIB, true));
        let given = Given { memory: Some(1024 * MIB), buffers, ..Given::default() };
        let error = divide(given, 2, 64 << 30).unwrap_err().to_string();
        assert!(error.contains("--memory 1GiB is too small") && error.contains("MiB"), "{error}");
        let given = Given { memory: Some(MIB), ..Given::default() };
        divide(given, 2, 64 << 30).unwrap_err();
    }
}
