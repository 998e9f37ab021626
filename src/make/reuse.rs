//! The policy of the repeat cache: precompute for the jobs that use the results.
//!
//! Whether a precomputed sample is used depends on which server is asked for its microbatch. If
//! all ranks of a job use this server, nearly all are. If one rank does, none is, and precomputing
//! multiplies the server's work. A server cannot know in advance, but a job's pattern of requests
//! rarely changes, so each finished step predicts the next one:
//!
//! ```text
//!   unknown job ------------> precompute everything
//!   >= 1/2 of a step used --> precompute everything
//!   <  1/2 of a step used --> precompute 1 group in PROBE, to notice when the other ranks return
//! ```
//!
//! Probes make the decision reversible at 1/64 of the cost: if at least half of a step's probes are
//! used, everything is precomputed again.

use std::collections::BTreeMap;

use forebay_types::Digest;

/// One group of repeats in this many is precomputed for a job that did not use them.
const PROBE: u64 = 64;

/// Requests after which a job that makes none is forgotten.
const MEMORY: u64 = 4096;

/// The inputs that determine samples, except for the step. They are the same for all ranks and clients
/// of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct JobKey {
    pub(super) dataset: Digest,
    pub(super) recipe: Digest,
    pub(super) seed: u64,
}

/// The observation of each job's latest finished step.
#[derive(Debug, Default)]
pub(super) struct ReuseHistory {
    jobs: BTreeMap<JobKey, Observation>,
}

#[derive(Clone, Copy, Debug)]
struct Observation {
    reuses: bool,
    /// Logical time of the observation.
    at: u64,
}

impl ReuseHistory {
    /// Whether the repeats of a group are worth precomputing.
    pub(super) fn should_precompute(&self, job: JobKey, group: u64) -> bool {
        let reuses = self.jobs.get(&job).is_none_or(|observation| observation.reuses);
        reuses || group.is_multiple_of(PROBE)
    }

    /// Records how many of a step's precomputed samples were used, if there were any. `now` is the
    /// number of requests so far.
    pub(super) fn observe(&mut self, job: JobKey, precomputed: u64, used: u64, now: u64) {
        if precomputed > 0 {
            self.jobs.insert(job, Observation { reuses: used * 2 >= precomputed, at: now });
        }
    }

    /// Forgets jobs without a recent observation.
    pub(super) fn expire(&mut self, now: u64) {
        self.jobs.retain(|_, observation| now - observation.at < MEMORY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(seed: u64) -> JobKey {
        JobKey { dataset: Digest([0; 32]), recipe: Digest([1; 32]), seed }
    }

    /// How many of 128 groups are precomputed.
    fn precomputed(history: &ReuseHistory, seed: u64) -> usize {
        (0..128).filter(|group| history.should_precompute(job(seed), *group)).count()
    }

    #[test]
    fn an_unknown_job_and_one_that_reuses_half_are_precomputed() {
        let mut history = ReuseHistory::default();
        assert_eq!(precomputed(&history, 1), 128);
        history.observe(job(1), 10, 5, 0);
        assert_eq!(precomputed(&history, 1), 128);
    }

    #[test]
    fn a_job_that_reuses_little_is_probed_until_it_reuses_again() {
        let mut history = ReuseHistory::default();
        history.observe(job(1), 10, 4, 0);
        assert_eq!((precomputed(&history, 1), precomputed(&history, 2)), (2, 128));
        history.observe(job(1), 0, 0, 1);
        assert_eq!(precomputed(&history, 1), 2, "a step without probes teaches nothing");
        history.observe(job(1), 2, 2, 2);
        assert_eq!(precomputed(&history, 1), 128);
    }

    #[test]
    fn a_job_is_forgotten_after_many_requests_of_others() {
        let mut history = ReuseHistory::default();
        history.observe(job(1), 10, 0, 5);
        history.expire(5 + MEMORY - 1);
        assert_eq!(precomputed(&history, 1), 2);
        history.expire(5 + MEMORY);
        assert_eq!(precomputed(&history, 1), 128);
    }
}
