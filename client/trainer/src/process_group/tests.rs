//! The collective operations, between threads.

use super::ProcessGroup;
use crate::Error;

/// Runs each rank of a world on a thread. Returns the results by rank.
fn world<R: Send>(world: u32, work: impl Fn(&mut ProcessGroup) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |mut group: ProcessGroup| scope.spawn(move || work(&mut group));
        let threads: Vec<_> = ProcessGroup::threads(world).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers of very different magnitudes, so that the order of additions shows in the sum.
fn numbers(rank: u32, count: usize) -> Vec<f32> {
    let mut state = u64::from(rank + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u16::try_from(state >> 48).unwrap()
    };
    (0..count).map(|_| f32::from(next()) * 2_f32.powi(i32::from(next() % 40) - 20)).collect()
}

#[test]
fn a_sum_is_added_in_the_order_of_ranks_and_the_same_on_all() {
    // A message has 16384 f32, and a link queues 8 messages.
    for (size, count) in
        [(1, 5), (2, 0), (2, 1), (2, 16_384), (3, 16_385), (4, 300_000), (8, 40_000)]
    {
        let sums = world(size, |group| {
            let mut values = numbers(group.rank().rank, count);
            group.all_reduce(&mut values).unwrap();
            values
        });
        let mut expected = numbers(0, count);
        for rank in 1..size {
            expected.iter_mut().zip(numbers(rank, count)).for_each(|(sum, x)| *sum += x);
        }
        assert!(sums.iter().all(|sum| *sum == expected), "{size} ranks, {count} numbers");
    }
}

#[test]
fn rounds_of_reductions_are_the_additions_of_one_process() {
    let (size, rounds, count) = (4, 3, 20_000);
    let sums = world(size, |group| {
        let mut values = vec![0.0; count];
        for round in 0..rounds {
            let microbatch = numbers(round * size + group.rank().rank, count);
            values.iter_mut().zip(microbatch).for_each(|(sum, x)| *sum += x);
            group.reduce(&mut values).unwrap();
        }
        group.broadcast(&mut values).unwrap();
        values
    });
    let mut expected = vec![0.0; count];
    for microbatch in 0..rounds * size {
        expected.iter_mut().zip(numbers(microbatch, count)).for_each(|(sum, x)| *sum += x);
    }
    assert!(sums.iter().all(|sum| *sum == expected));
}

#[test]
fn all_gather_concatenates_the_values_of_all_ranks() {
    for (size, count) in [(1, 3), (2, 0), (3, 2), (5, 10_000)] {
        let all = world(size, |group| {
            let own: Vec<u64> =
                (0..count).map(|i| u64::from(group.rank().rank) << 32 | i).collect();
            let mut all = vec![0; own.len() * size as usize];
            group.all_gather(&own, &mut all).unwrap();
            all
        });
        let expected: Vec<u64> =
            (0..u64::from(size)).flat_map(|rank| (0..count).map(move |i| rank << 32 | i)).collect();
        assert!(all.iter().all(|all| *all == expected), "{size} ranks, {count} numbers");
    }
}

#[test]
fn ranks_in_different_exchanges_get_an_error() {
    let problems = world(2, |group| {
        let rank = group.rank().rank;
        let mut values = [0.0_f32; 3];
        let result =
            if rank == 0 { group.broadcast(&mut values) } else { group.reduce(&mut values) };
        result.map_or_else(|error| error.to_string(), |()| String::new())
    });
    assert!(problems[1].contains("rank 0"), "{problems:?}");
    assert!(problems[1].contains("received a broadcast of 12 bytes, number 1"), "{problems:?}");
    let problems = world(2, |group| {
        let mut values = vec![1.0_f64; 3 + group.rank().rank as usize];
        group.all_reduce(&mut values).map_or_else(|error| error.to_string(), |()| String::new())
    });
    assert!(problems[1].contains("of 24 bytes"), "{problems:?}");
}

#[test]
fn a_rank_that_has_ended_is_named() {
    let results = world(3, |group| {
        if group.rank().rank == 1 { Ok(()) } else { group.all_reduce(&mut vec![0.0_f32; 100_000]) }
    });
    let error = results[2].as_ref().unwrap_err();
    assert!(matches!(error, Error::Rank { rank: 1, .. }), "{error}");
}
