//! The repeat cache by itself: samples of 100 bytes, groups of three, steps of twelve positions.

use forebay_types::Digest;

use super::*;

const BYTES: usize = 100;

fn step(number: u64) -> StepKey {
    let digest = Digest([0; 32]);
    let job = JobKey { dataset: digest, recipe: digest, seed: 0 };
    StepKey { job, epoch: 0, step: number }
}

/// A cache with one visited step.
fn visited(max_bytes: usize) -> RepeatCache {
    let cache = RepeatCache::new(max_bytes);
    cache.visit(step(0), 0..12);
    cache
}

/// Claims a position of the first group of a step. Returns whether it was ready, and how many samples
/// were precomputed with it.
fn claim(cache: &RepeatCache, number: u64, own: u64) -> (bool, usize) {
    let first = number * 12;
    let others: Vec<u64> = (first..first + 3).filter(|p| *p != first + own).collect();
    let claim = cache.claim(step(number), &[first + own], &others, BYTES, WhenBusy::Defer).unwrap();
    let mut precomputed = 0;
    if let Some(mut reserved) = claim.reserved {
        precomputed = reserved.samples.len();
        for (position, buffer) in &mut reserved.samples {
            buffer.fill(u8::try_from(*position % 256).unwrap());
        }
        reserved.publish();
    }
    if let [Some(pixels)] = &claim.ready[..] {
        assert!(pixels.iter().all(|&byte| u64::from(byte) == (first + own) % 256));
    }
    (claim.ready[0].is_some(), precomputed)
}

#[test]
fn one_worker_precomputes_what_the_others_take_in_any_order() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let cache = visited(10 * BYTES);
        let claims = order.map(|own| claim(&cache, 0, own));
        assert_eq!(claims, [(false, 2), (true, 0), (true, 0)]);
        assert_eq!(cache.pool.bytes_in_use(), 0, "dropped after the last use");
    }
}

#[test]
fn samples_are_kept_for_every_client_that_requested_their_repeats() {
    let cache = visited(10 * BYTES);
    let claims = [0, 0, 1, 1, 2, 2].map(|own| claim(&cache, 0, own));
    let made = [(false, 2), (false, 0)];
    assert_eq!(claims, [made[0], made[1], (true, 0), (true, 0), (true, 0), (true, 0)]);
    assert_eq!(cache.pool.bytes_in_use(), 0);
}

#[test]
fn a_full_pool_precomputes_only_what_fits() {
    let cache = visited(BYTES);
    let claims = [0, 1, 2].map(|own| claim(&cache, 0, own));
    assert_eq!(claims, [(false, 1), (true, 0), (false, 0)]);
    let off = visited(0);
    assert_eq!([0, 1, 2].map(|own| claim(&off, 0, own)), [(false, 0); 3]);
}

#[test]
fn a_sample_that_is_being_made_is_busy_until_it_is_published_or_given_up() {
    let cache = visited(10 * BYTES);
    let first = cache.claim(step(0), &[0], &[1, 2], BYTES, WhenBusy::Defer).unwrap();
    assert!(cache.claim(step(0), &[1], &[0, 2], BYTES, WhenBusy::Defer).is_none());
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| cache.claim(step(0), &[1], &[0, 2], BYTES, WhenBusy::Wait).unwrap());
        drop(first);
        let second = waiter.join().unwrap();
        assert!(second.ready[0].is_none());
        let reserved = second.reserved.unwrap();
        assert_eq!(reserved.samples.len(), 1, "position 2; the first worker claimed 0");
    });
    assert_eq!(cache.pool.bytes_in_use(), 0);
}

#[test]
fn a_job_of_one_rank_stops_precomputing_and_resumes_when_the_other_ranks_return() {
    let cache = RepeatCache::new(1000 * BYTES);
    let precomputed = |steps: Range<u64>, ranks: &[u64]| -> usize {
        steps
            .map(|number| {
                let claims = ranks.iter().map(|own| {
                    cache.visit(step(number), number * 12..number * 12 + 12);
                    claim(&cache, number, *own).1
                });
                claims.sum::<usize>()
            })
            .sum()
    };
    assert_eq!(precomputed(0..64, &[0]), 128, "at first nothing is known");
    // The first group of step n is group 4 n of the epoch: one step in 16 has a probe.
    assert_eq!(precomputed(64..128, &[0]), 8);
    assert!(cache.pool.bytes_in_use() <= 130 * BYTES, "unused samples are dropped");
    assert!(precomputed(128..256, &[0, 1, 2]) > 128, "most is precomputed again");
}
