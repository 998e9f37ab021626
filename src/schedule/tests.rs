//! The queue by itself: keys and jobs are numbers, results are strings.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::{Needs, Origin, Outcome, Queue, SubmitError, SubmitOptions, Submitted, Task, TaskEnd};

type TestQueue = Queue<u32, u32, String, &'static str>;
type TestOutcome = Outcome<String, &'static str>;

fn queue(cache_bytes: usize) -> TestQueue {
    Queue::new(cache_bytes, 2, usize::MAX)
}

fn client(name: &str) -> SubmitOptions {
    SubmitOptions { client: name.into(), ..SubmitOptions::default() }
}

/// Submits a request whose job is its key.
fn submit(queue: &TestQueue, key: u32, options: &SubmitOptions) -> Receiver<TestOutcome> {
    let (sender, outcome) = sync_channel(1);
    let done = move |outcome| sender.send(outcome).unwrap();
    queue.submit(key, (key, Needs::Nothing), options.clone(), Box::new(done)).unwrap();
    outcome
}

/// Ends a task with its key as the result, of as many bytes as it has letters.
fn finish(queue: &TestQueue, task: &Task<u32, u32>, millis: u64) {
    let made = TaskEnd::Made(task.job.to_string(), Duration::from_millis(millis));
    queue.finish(task, made, |result| Some(result.len()));
}

fn ready(outcome: &Receiver<TestOutcome>) -> (String, Origin) {
    match outcome.try_recv().unwrap() {
        Outcome::Ready(result, origin) => (result, origin),
        other => panic!("{other:?}"),
    }
}

/// Takes all tasks in turn, and finishes each before the next.
fn drain(queue: &TestQueue, tasks: usize, millis: impl Fn(u32) -> u64) -> Vec<u32> {
    let process = |_| {
        let task = queue.next().unwrap();
        finish(queue, &task, millis(task.job));
        task.job
    };
    (0..tasks).map(process).collect()
}

#[test]
fn equal_requests_become_one_task_whose_result_all_get() {
    let queue = queue(0);
    let [a, b] = ["a", "b"].map(|name| submit(&queue, 7, &client(name)));
    let task = queue.next().unwrap();
    // One more joins while the task is in progress.
    let c = submit(&queue, 7, &client("c"));
    assert_eq!(queue.stats().outstanding, 3);
    finish(&queue, &task, 1);
    assert_eq!(ready(&a), ("7".to_owned(), Origin::Made));
    for joined in [b, c] {
        let (result, origin) = ready(&joined);
        assert!(result == "7" && matches!(origin, Origin::Joined(_)), "{result} {origin:?}");
    }
    assert_eq!((queue.stats().outstanding, queue.stats().joined), (0, 2));
    queue.close();
    assert!(queue.next().is_none(), "there was one task");
}

#[test]
fn the_request_that_is_charged_is_told_that_the_result_was_made_for_it() {
    let queue = queue(0);
    let _before = submit(&queue, 1, &client("a"));
    let [a, b] = ["a", "b"].map(|name| submit(&queue, 7, &client(name)));
    // The first task is of a, so the turn is b's, although a was first to request 7.
    assert_eq!(drain(&queue, 2, |_| 1), [1, 7]);
    assert_eq!(ready(&b).1, Origin::Made);
    assert!(matches!(ready(&a).1, Origin::Joined(_)));
}

#[test]
fn different_requests_are_different_tasks() {
    let queue = queue(0);
    let [one, two] = [1, 2].map(|key| submit(&queue, key, &client("a")));
    assert_eq!(drain(&queue, 2, |_| 1), [1, 2]);
    assert_eq!((ready(&one).0, ready(&two).0), ("1".to_owned(), "2".to_owned()));
    assert_eq!(queue.stats().joined, 0);
}

#[test]
fn a_client_with_as_many_tasks_in_progress_as_it_may_have_is_passed_over() {
    let queue: TestQueue = Queue::new(0, 2, 2);
    let a = client("a");
    let answers: Vec<_> = (0..4).map(|key| submit(&queue, key, &a)).collect();
    let [first, second] = [queue.next().unwrap(), queue.next().unwrap()];
    assert_eq!((first.job, second.job), (0, 1));
    // A maker that waits for a task gets that of another client.
    let b = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.next().unwrap());
        submit(&queue, 10, &client("b"));
        waiting.join().unwrap()
    });
    assert_eq!(b.job, 10);
    finish(&queue, &b, 1);
    finish(&queue, &second, 100);
    let third = queue.next().unwrap();
    assert_eq!(third.job, 2);
    finish(&queue, &first, 100);
    assert_eq!(drain(&queue, 1, |_| 100), [3]);
    finish(&queue, &third, 100);
    assert!(answers.iter().all(|answer| answer.try_recv().is_ok()));
}

#[test]
fn a_cached_result_answers_at_once() {
    let queue = queue(3);
    for key in [10, 11] {
        submit(&queue, key, &client("a"));
        finish(&queue, &queue.next().unwrap(), 1);
    }
    assert_eq!(queue.stats().cache_bytes, 2, "11 took the place of 10");
    assert_eq!(ready(&submit(&queue, 11, &client("b"))), ("11".to_owned(), Origin::Cached));
    assert_eq!((queue.stats().cached, queue.stats().outstanding), (1, 0));
    let made_again = submit(&queue, 10, &client("b"));
    let task = queue.next().unwrap();
    let made = TaskEnd::Made("10".to_owned(), Duration::ZERO);
    queue.finish(&task, made, |_| None);
    assert_eq!(ready(&made_again).1, Origin::Made);
    assert_eq!(ready(&submit(&queue, 11, &client("b"))).1, Origin::Cached, "10 was not cached");
    assert!(queue.evict_one(|_| true) && !queue.evict_one(|_| true));
    assert_eq!(queue.stats().cache_bytes, 0);
}

#[test]
fn cancelling_one_waiter_never_cancels_another() {
    let queue = queue(0);
    let (leaving, staying) = (client("a"), client("b"));
    let left = submit(&queue, 1, &leaving);
    let stayed = submit(&queue, 1, &staying);
    leaving.cancelled.store(true, Ordering::Relaxed);
    let task = queue.next().unwrap();
    assert_eq!(left.try_recv().unwrap(), Outcome::Cancelled, "its turn came first");
    assert!(!task.cancellation.is_total());
    finish(&queue, &task, 1);
    assert_eq!(ready(&stayed).0, "1");
}

#[test]
fn a_request_that_nobody_waits_for_is_no_task() {
    let queue = queue(0);
    let leaving = client("a");
    let left = [1, 2, 3].map(|key| submit(&queue, key, &leaving));
    leaving.cancelled.store(true, Ordering::Relaxed);
    submit(&queue, 4, &client("b"));
    assert_eq!(queue.next().unwrap().job, 4);
    queue.close();
    assert!(queue.next().is_none());
    for outcome in left {
        assert_eq!(outcome.try_recv().unwrap(), Outcome::Cancelled);
    }
}

#[test]
fn who_joins_a_task_that_is_being_cancelled_gets_a_new_one() {
    let queue = queue(0);
    let leaving = client("a");
    let left = submit(&queue, 1, &leaving);
    let task = queue.next().unwrap();
    leaving.cancelled.store(true, Ordering::Relaxed);
    assert!(task.cancellation.is_total(), "the maker stops");
    let joined = submit(&queue, 1, &client("b"));
    queue.finish(&task, TaskEnd::Cancelled, |_| None);
    assert_eq!(left.try_recv().unwrap(), Outcome::Cancelled);
    assert!(joined.try_recv().is_err());
    let task = queue.next().unwrap();
    assert!(!task.cancellation.is_total());
    finish(&queue, &task, 1);
    assert_eq!(ready(&joined), ("1".to_owned(), Origin::Made));
}

#[test]
fn an_error_is_shared_by_all_waiters() {
    let queue = queue(10);
    let outcomes = ["a", "b", "c"].map(|name| submit(&queue, 1, &client(name)));
    let task = queue.next().unwrap();
    queue.finish(&task, TaskEnd::Failed("no such record"), |_| None);
    for outcome in outcomes {
        assert_eq!(outcome.try_recv().unwrap(), Outcome::Failed("no such record"));
    }
    assert_eq!((queue.stats().outstanding, queue.stats().cache_bytes), (0, 0));
    // A later request is made again.
    submit(&queue, 1, &client("a"));
    assert_eq!(queue.next().unwrap().job, 1);
}

#[test]
fn a_callback_that_panics_harms_neither_the_maker_nor_other_waiters() {
    let queue = queue(0);
    let panics = |_| panic!("a callback of this test");
    queue.submit(1, (1, Needs::Nothing), client("a"), Box::new(panics)).unwrap();
    let other = submit(&queue, 1, &client("b"));
    finish(&queue, &queue.next().unwrap(), 1);
    assert_eq!(ready(&other).0, "1");
    assert_eq!(queue.stats().outstanding, 0);
    let next = submit(&queue, 2, &client("a"));
    finish(&queue, &queue.next().unwrap(), 1);
    assert_eq!(ready(&next).0, "2");
}

#[test]
fn clients_get_equal_cpu_time() {
    let queue = queue(0);
    for key in 0..40 {
        submit(&queue, key, &client("cheap"));
        submit(&queue, 100 + key, &client("expensive"));
    }
    let order = drain(&queue, 40, |key| if key < 100 { 100 } else { 300 });
    let expensive = order.iter().filter(|key| **key >= 100).count();
    assert!((9..=11).contains(&expensive), "a quarter of the tasks: {order:?}");
    let of_client: Vec<u32> = order.into_iter().filter(|key| *key < 100).collect();
    assert!(of_client.is_sorted(), "each client's requests are answered in order");
}

#[test]
fn a_shared_result_is_as_early_as_its_first_client_and_paid_by_it() {
    let queue = queue(0);
    for key in 0..6 {
        submit(&queue, key, &client("long"));
    }
    // The other client needs what the first has queued last.
    let shared = submit(&queue, 5, &client("short"));
    assert_eq!(drain(&queue, 2, |_| 100), [0, 5]);
    assert_eq!(ready(&shared).0, "5");
    submit(&queue, 10, &client("short"));
    submit(&queue, 11, &client("short"));
    assert_eq!(drain(&queue, 4, |_| 100), [1, 10, 2, 11]);
}

#[test]
fn a_client_has_at_most_its_bound_of_outstanding_requests() {
    let queue = queue(0);
    let bounded = |name| SubmitOptions { max_outstanding: 2, ..client(name) };
    let leaving = bounded("a");
    let left = submit(&queue, 1, &leaving);
    submit(&queue, 2, &bounded("a"));
    let refused = queue.submit(3, (3, Needs::Nothing), bounded("a"), Box::new(|_| unreachable!()));
    assert_eq!(refused, Err(SubmitError::TooMany { limit: 2, drain_estimate: Duration::ZERO }));
    submit(&queue, 3, &bounded("b"));
    // A cancelled request makes room for another.
    leaving.cancelled.store(true, Ordering::Relaxed);
    submit(&queue, 4, &bounded("a"));
    assert_eq!(left.try_recv().unwrap(), Outcome::Cancelled);
    assert_eq!(queue.stats().outstanding, 3);
}

#[test]
fn clients_that_request_and_cancel_under_ever_new_names_hold_a_bounded_number_of_requests() {
    let queue = queue(0);
    let waits = submit(&queue, 0, &client("waits"));
    let mut cancelled = Vec::new();
    for number in 1..10_000 {
        let options = client(&format!("invented-{number}"));
        cancelled.push(submit(&queue, number, &options));
        options.cancelled.store(true, Ordering::Relaxed);
        assert!(queue.stats().outstanding <= 1025, "after {number}");
    }
    assert!(matches!(cancelled[0].try_recv().unwrap(), Outcome::Cancelled));
    assert_eq!(drain(&queue, 1, |_| 1), [0]);
    assert_eq!(ready(&waits).0, "0");
}

#[test]
fn the_drain_estimate_follows_the_cost_of_the_latest_tasks() {
    let queue = queue(0);
    for key in 0..12 {
        submit(&queue, key, &client("a"));
    }
    assert_eq!(queue.drain_estimate(), Duration::ZERO, "no cost is known");
    drain(&queue, 2, |_| 400);
    assert_eq!(queue.drain_estimate(), Duration::from_secs(2), "ten tasks on two threads");
    drain(&queue, 8, |_| 100);
    let estimate = queue.drain_estimate();
    assert!(estimate > Duration::from_millis(100) && estimate < Duration::from_millis(400));
}

#[test]
fn a_task_is_isolated_if_all_its_waiters_are() {
    let queue = queue(0);
    let isolated = SubmitOptions { isolated: true, ..client("a") };
    submit(&queue, 1, &isolated);
    submit(&queue, 2, &isolated);
    submit(&queue, 2, &client("b"));
    let tasks = [queue.next().unwrap(), queue.next().unwrap()];
    assert_eq!(tasks.map(|task| (task.job, task.isolated)), [(1, true), (2, false)]);
}

#[test]
fn a_closed_queue_accepts_nothing_and_ends_after_its_last_task() {
    let queue = queue(0);
    let left = submit(&queue, 1, &client("a"));
    queue.close();
    let refused = queue.submit(2, (2, Needs::Nothing), client("a"), Box::new(|_| unreachable!()));
    assert_eq!(refused, Err(SubmitError::Closed));
    assert_eq!(drain(&queue, 1, |_| 1), [1]);
    assert_eq!(ready(&left).0, "1");
    assert!(queue.next().is_none());
}

#[test]
fn a_maker_that_waits_is_woken_by_a_request_and_by_the_end() {
    let queue = Arc::new(queue(0));
    let work = {
        let queue = Arc::clone(&queue);
        move || {
            let mut jobs = Vec::new();
            while let Some(task) = queue.next() {
                finish(&queue, &task, 1);
                jobs.push(task.job);
            }
            jobs
        }
    };
    let maker = std::thread::Builder::new().name("maker".into()).spawn(work).unwrap();
    let outcome = submit(&queue, 1, &client("a"));
    assert!(matches!(outcome.recv().unwrap(), Outcome::Ready(..)));
    queue.close();
    assert_eq!(maker.join().unwrap(), [1]);
}

/// Submits a request that waits for storage.
fn submit_waiting(
    queue: &TestQueue,
    key: u32,
    options: &SubmitOptions,
) -> (Submitted, Receiver<TestOutcome>) {
    let (sender, outcome) = sync_channel(1);
    let done = move |outcome| sender.send(outcome).unwrap();
    let submitted =
        queue.submit(key, (key, Needs::Storage), options.clone(), Box::new(done)).unwrap();
    (submitted, outcome)
}

#[test]
fn a_request_that_waits_for_storage_takes_no_maker_until_it_is_ready() {
    let queue = queue(0);
    let (submitted, first) = submit_waiting(&queue, 1, &client("a"));
    assert_eq!(submitted, Submitted::New);
    let (submitted, joined) = submit_waiting(&queue, 1, &client("b"));
    assert_eq!(submitted, Submitted::Known, "it is fetched once");
    let later = submit(&queue, 2, &client("a"));
    assert_eq!(drain(&queue, 1, |_| 1), [2]);
    ready(&later);
    queue.ready(&1);
    queue.ready(&1);
    assert_eq!(drain(&queue, 1, |_| 1), [1]);
    assert_eq!((ready(&first).0, ready(&joined).0), ("1".into(), "1".into()));
    assert_eq!((queue.stats().outstanding, queue.stats().pending), (0, 0));
}

#[test]
fn waiters_of_storage_that_fails_get_the_error_and_can_request_again() {
    let queue = queue(0);
    let (_, first) = submit_waiting(&queue, 1, &client("a"));
    let (_, joined) = submit_waiting(&queue, 1, &client("b"));
    queue.fail(&1, &"no answer");
    for outcome in [first, joined] {
        assert_eq!(outcome.try_recv().unwrap(), Outcome::Failed("no answer"));
    }
    assert_eq!(queue.stats().outstanding, 0);
    assert_eq!(submit_waiting(&queue, 1, &client("a")).0, Submitted::New);
}

#[test]
fn cancelled_waiters_of_storage_are_forgotten_and_the_others_go_on() {
    let queue = queue(0);
    let bounded = |name| SubmitOptions { max_outstanding: 1, ..client(name) };
    let options = bounded("a");
    let (_, cancelled) = submit_waiting(&queue, 1, &options);
    let (_, other) = submit_waiting(&queue, 1, &client("b"));
    options.cancelled.store(true, Ordering::Relaxed);
    let (_, next) = submit_waiting(&queue, 2, &bounded("a"));
    assert_eq!(cancelled.try_recv().unwrap(), Outcome::Cancelled);
    queue.ready(&1);
    queue.ready(&2);
    drain(&queue, 2, |_| 1);
    assert_eq!((ready(&other).0, ready(&next).0), ("1".into(), "2".into()));
    // An entry without waiters is gone.
    let options = client("c");
    submit_waiting(&queue, 3, &options).1.try_recv().unwrap_err();
    options.cancelled.store(true, Ordering::Relaxed);
    queue.ready(&3);
    queue.ready(&4);
    queue.fail(&4, &"not there");
}
