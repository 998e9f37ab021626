//! Tests of the pool: bounds, order, and that everyone progresses.

use std::collections::VecDeque;
use std::thread;

use proptest::prelude::*;

use super::*;

/// Calls `f` on another thread that waits for a buffer of `len` bytes by the time it runs.
fn while_waiting(pool: &BufferPool, len: usize, f: impl FnOnce()) -> Result<usize, Error> {
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.acquire(len).map(|buffer| buffer.len()));
        while pool.waiting() == 0 {
            thread::yield_now();
        }
        f();
        waiter.join().unwrap()
    })
}

#[test]
fn an_exhausted_pool_makes_callers_wait_until_a_buffer_returns() {
    let pool = BufferPool::new(100);
    let (first, second) = (pool.acquire(50).unwrap(), pool.acquire(50).unwrap());
    assert_eq!(while_waiting(&pool, 40, || drop(first)).unwrap(), 40);
    assert_eq!((pool.bytes_in_use(), pool.waiting()), (50, 0));
    drop(second);
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn buffers_are_reused() {
    let pool = BufferPool::new(1000);
    let first = pool.acquire(400).unwrap().as_ptr();
    assert_eq!(pool.acquire(400).unwrap().as_ptr(), first);
}

#[test]
fn a_buffer_takes_the_bytes_that_were_asked_for_whatever_was_there_before() {
    let pool = BufferPool::new(1000);
    drop((pool.acquire(600).unwrap(), pool.acquire(400).unwrap()));
    let small: Vec<Buffer> = (0..10).map(|_| pool.acquire(100).unwrap()).collect();
    assert_eq!(pool.bytes_in_use(), 1000);
    assert!(small.iter().all(|buffer| buffer.len() == 100));
}

#[test]
fn a_caller_is_passed_by_as_many_bytes_as_it_waits_for_and_then_by_none() {
    let pool = BufferPool::new(100);
    let mut held = VecDeque::from([pool.acquire(50).unwrap(), pool.acquire(50).unwrap()]);
    let mut passed = 0;
    let waited = while_waiting(&pool, 100, || {
        while passed < 100 {
            held.pop_front();
            let Some(small) = pool.try_acquire(50) else { break };
            held.push_back(small);
            passed += 1;
        }
        held.clear();
    });
    assert_eq!((waited.unwrap(), passed), (100, 2));
}

#[test]
fn callers_of_equal_sizes_are_served_in_order() {
    let pool = BufferPool::new(10);
    let held = pool.acquire(10).unwrap();
    let served = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..4 {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                let buffer = pool.acquire(10).unwrap();
                served.lock().unwrap().push(number);
                drop(buffer);
            });
            while pool.waiting() <= number {
                thread::yield_now();
            }
        }
        drop(held);
    });
    assert_eq!(*served.lock().unwrap(), [0, 1, 2, 3]);
}

/// A caller of a simulated pool.
enum Taker {
    Waits(u64),
    Holds { _buffer: Buffer },
}

proptest! {
    /// Takers of any sizes that take, hold and release again and again, in any order of events.
    #[test]
    fn everyone_progresses_whatever_the_sizes(
        sizes in prop::collection::vec(1..=20_usize, 2..10),
        mut seed: u64,
    ) {
        let pool = BufferPool::new(20);
        let mut below = |limit: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % limit
        };
        let join = |size| lock(&pool.shared.state).line.join(size);
        let mut takers: Vec<Taker> = sizes.iter().map(|size| Taker::Waits(join(*size))).collect();
        let mut turns = vec![0; sizes.len()];
        // A taker is behind all others at most, each of which may be passed by its size in single bytes.
        for round in 0..3 * 20 * sizes.len() {
            for (number, taker) in takers.iter_mut().enumerate() {
                // A reader that takes up to three rounds.
                let done = (round + number) % 3 == 0 || below(2) == 0;
                if done && matches!(taker, Taker::Holds { .. }) {
                    *taker = Taker::Waits(join(sizes[number]));
                }
            }
            // Whoever wakes up first looks first.
            let mut awake: Vec<usize> = (0..sizes.len()).collect();
            while !awake.is_empty() {
                let number = awake.swap_remove(below(awake.len()));
                let Taker::Waits(place) = takers[number] else { continue };
                let mut state = lock(&pool.shared.state);
                let size = (sizes[number], 0);
                if let Some((buffer, _)) = pool.take(&mut state, size, Some(place)).unwrap() {
                    state.line.leave(place);
                    drop(state);
                    takers[number] = Taker::Holds { _buffer: buffer };
                    turns[number] += 1;
                }
            }
            prop_assert!(pool.bytes_in_use() <= 20);
        }
        prop_assert!(turns.iter().all(|turns| *turns > 0), "{:?}: {:?}", sizes, turns);
    }
}

#[test]
fn free_buffers_of_other_sizes_are_released_to_make_room() {
    let pool = BufferPool::new(100);
    drop((pool.acquire(30).unwrap(), pool.acquire(30).unwrap()));
    assert_eq!(pool.acquire(100).unwrap().len(), 100);
    let small: Vec<Buffer> = (0..3).map(|_| pool.acquire(30).unwrap()).collect();
    assert_eq!(pool.bytes_in_use(), 90, "the large buffer was released");
    drop(small);
}

#[test]
fn a_loan_is_taken_from_the_buffers_and_returns() {
    let pool = BufferPool::new(100);
    drop((pool.acquire(40).unwrap(), pool.acquire(60).unwrap()));
    let (buffer, loan) = pool.acquire_with_loan(40, 50, || false).unwrap();
    assert_eq!((buffer.len(), pool.bytes_in_use()), (40, 90));
    assert!(pool.try_acquire(11).is_none(), "the free buffer was released for the loan");
    drop(loan);
    assert_eq!(pool.bytes_in_use(), 40);
    assert_eq!(pool.try_acquire(60).unwrap().len(), 60);
    let refused = pool.acquire_with_loan(40, 61, || false).unwrap_err();
    assert!(matches!(refused, Error::BufferBudget { need: 101, limit: 100 }), "{refused}");
}

#[test]
fn what_a_microbatch_has_besides_its_pixels_returns_with_them() {
    let pool = BufferPool::new(100);
    let (buffer, mut loan) = pool.acquire_with_loan(40, 50, || false).unwrap();
    let pixels = Pixels::with_loan(buffer, loan.split(20));
    drop(loan);
    let clone = pixels.clone();
    assert_eq!((pool.bytes_in_use(), pixels.held_bytes()), (60, 60));
    drop(pixels);
    assert!(pool.try_acquire(41).is_none());
    drop(clone);
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn try_acquire_never_waits() {
    let pool = BufferPool::new(100);
    let held = pool.try_acquire(60).unwrap();
    assert!(pool.try_acquire(60).is_none());
    assert_eq!(pool.try_acquire(40).unwrap().len(), 40);
    drop(held);
    assert_eq!(pool.try_acquire(100).unwrap().len(), 100);
    assert!(pool.try_acquire(101).is_none());
}

#[test]
fn cached_buffers_are_evicted_before_a_caller_waits() {
    let pool = BufferPool::new(100);
    let cached = Mutex::new(vec![pool.acquire(50).unwrap(), pool.acquire(50).unwrap()]);
    let evict_one = || {
        assert_eq!(pool.waiting(), 1);
        cached.lock().unwrap().pop().is_some()
    };
    assert_eq!(pool.acquire_evicting(50, evict_one).unwrap().len(), 50);
    assert_eq!((cached.lock().unwrap().len(), pool.waiting()), (1, 0));
    // A buffer of another size needs the room of both.
    assert_eq!(pool.acquire_evicting(100, evict_one).unwrap().len(), 100);
}

#[test]
fn pixels_return_with_their_last_reader() {
    let pool = BufferPool::new(100);
    let first = Pixels::from(pool.acquire(70).unwrap());
    let second = first.clone();
    assert!(!first.is_unique() && first.len() == 70);
    drop(first);
    assert!(second.is_unique() && pool.bytes_in_use() == 70);
    drop(second);
    assert_eq!(pool.bytes_in_use(), 0);
}

#[test]
fn a_buffer_that_exceeds_the_limit_is_refused_at_once() {
    let error = BufferPool::new(100).acquire(101).unwrap_err();
    assert!(matches!(error, Error::BufferBudget { need: 101, limit: 100 }), "{error}");
}

#[test]
fn closing_the_pool_ends_all_waits() {
    let pool = BufferPool::new(10);
    let held = pool.acquire(10).unwrap();
    let waited = while_waiting(&pool, 10, || pool.close());
    assert!(matches!(waited, Err(Error::Cancelled)));
    assert!(matches!(pool.acquire(1), Err(Error::Cancelled)));
    assert_eq!(held.len(), 10);
}

#[test]
fn a_buffer_that_another_process_has_returns_when_it_is_closed_there() {
    let pool = BufferPool::with_memory(200_000, HostMemory::Shared);
    assert!(pool.shares_memory());
    let pixels = Pixels::from(pool.acquire(100_000).unwrap());
    let reader = pixels.shared().unwrap().reader().unwrap();
    drop(pixels);
    assert_eq!((pool.bytes_in_use(), pool.unreturned_bytes()), (100_000, 100_000));
    assert!(pool.try_acquire(150_000).is_none());
    // A caller that waits finds it, although nothing tells that it is free.
    assert_eq!(while_waiting(&pool, 150_000, || drop(reader)).unwrap(), 150_000);
    assert_eq!((pool.bytes_in_use(), pool.unreturned_bytes()), (0, 0));
}
