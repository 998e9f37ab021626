//! Assigns steps to servers by rendezvous hashing (highest random weight).
//!
//! Every rank computes the same order of the same servers, so that all microbatches of a step are
//! made by one server, which decodes repeated records once. A server that joins takes an equal share
//! from each of the others; the steps of one that leaves move to the next server in their order.

use forebay_proto::types::{Cursor, Digest};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// A hash that identifies a step among all steps of all jobs.
pub(crate) fn key(dataset: Digest, recipe: Digest, seed: u64, step: Cursor) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&dataset.0);
    hash.update(&recipe.0);
    for number in [seed, step.epoch, step.step] {
        hash.update(&number.to_le_bytes());
    }
    hash.digest()
}

/// The weight of a server for a step. Servers are used in descending order of their weights.
pub(crate) fn weight(key: u64, address: &str) -> u64 {
    xxh3_64_with_seed(address.as_bytes(), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(key: u64, servers: &[String]) -> Vec<&String> {
        let mut order: Vec<_> = servers.iter().collect();
        order.sort_by_key(|server| std::cmp::Reverse(weight(key, server)));
        order
    }

    fn keys() -> impl Iterator<Item = u64> {
        let step = |i: u64| Cursor { epoch: i / 500, step: i % 500 };
        (0..6000).map(move |i| key(Digest([1; 32]), Digest([2; 32]), 7, step(i)))
    }

    fn servers(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("10.0.{i}.7:50051")).collect()
    }

    #[test]
    fn steps_are_spread_evenly_and_a_server_that_joins_or_leaves_moves_only_its_share() {
        for n in [1, 2, 3, 7] {
            let (before, after) = (servers(n), servers(n + 1));
            let (mut moved, mut owned) = (0, vec![0; n + 1]);
            for key in keys() {
                let (old, new) = (order(key, &before), order(key, &after));
                owned[after.iter().position(|server| server == new[0]).unwrap()] += 1;
                if old[0] != new[0] {
                    assert_eq!(new[0], &after[n], "steps move to the new server only");
                    assert_eq!(new[1], old[0], "the previous server comes second");
                    moved += 1;
                }
            }
            let share = 6000 / (n + 1);
            assert!((share * 9 / 10..=share * 11 / 10).contains(&moved), "{moved} of {share}");
            let even = owned.iter().all(|count| (share * 9 / 10..=share * 11 / 10).contains(count));
            assert!(even, "{owned:?} of {share} each");
        }
    }

    #[test]
    fn every_part_of_the_name_changes_the_key() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let at = |epoch, step| Cursor { epoch, step };
        let keys = [
            key(a, b, 0, at(0, 0)),
            key(b, a, 0, at(0, 0)),
            key(a, b, 1, at(0, 0)),
            key(a, b, 0, at(1, 0)),
            key(a, b, 0, at(0, 1)),
        ];
        let mut distinct = keys.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), keys.len());
    }
}
