//! The queue in a whole pipeline: equal requests are made once, cached microbatches stay within
//! bounds, and clients get equal shares of the workers. The queue by itself is tested in
//! src/schedule/tests.rs.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay::{
    DType, Error, Layout, MadeMicrobatch, MixedBy, Pipeline, PipelineConfig, PixelFormat, Request,
    SubmitOptions,
};
use forebay_client::{Client, Cursor, End, Job, Microbatches, Options, Rank};
use forebay_server::Limits;

use forebay_tests::world::{SMALL, Server, WORLD, recipe, request};

/// Bytes of a microbatch of 2 samples of 48 x 48.
const BYTES: usize = 2 * 48 * 48 * 3;

/// A time that only a request without an answer exceeds.
const HANG: Duration = Duration::from_mins(2);

type Answer = Receiver<Result<MadeMicrobatch, Error>>;

fn pipeline(buffers: usize, cached: usize) -> Pipeline {
    let (buffer_bytes, cache_bytes) = (buffers * BYTES, cached * BYTES);
    let config = PipelineConfig { buffer_bytes, cache_bytes, ..PipelineConfig::default() };
    Pipeline::new(config).unwrap()
}

fn single_threaded(cache_bytes: usize) -> Pipeline {
    let threads = NonZeroUsize::MIN;
    Pipeline::new(PipelineConfig { threads, cache_bytes, ..PipelineConfig::default() }).unwrap()
}

fn for_client(client: &str) -> SubmitOptions {
    SubmitOptions { client: client.into(), ..SubmitOptions::default() }
}

fn submit(pipeline: &Pipeline, request: Request, options: SubmitOptions) -> Answer {
    let (sender, answer) = sync_channel(1);
    pipeline.submit(request, options, move |result| drop(sender.send(result))).unwrap();
    answer
}

fn receive(answer: &Answer) -> MadeMicrobatch {
    answer.recv_timeout(HANG).unwrap().unwrap()
}

fn receive_all(answers: &[Answer]) {
    for answer in answers {
        drop(receive(answer));
    }
}

fn wait_until_idle(pipeline: &Pipeline) {
    while pipeline.queue_stats().outstanding > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Holds all buffers of a pipeline, so that requests wait until it is dropped.
fn hold(pipeline: &Pipeline) -> impl Sized + use<> {
    pipeline.buffers().acquire(pipeline.buffers().limit()).unwrap()
}

#[test]
fn equal_requests_of_two_clients_are_made_once_and_share_a_buffer() {
    let (pipeline, a2) = (pipeline(4, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let wanted = request(&a2, 0, 1, 2);
    let both = ["a", "b"].map(|client| submit(&pipeline, wanted.clone(), for_client(client)));
    drop(held);
    let [first, second] = both.map(|answer| receive(&answer));
    assert_eq!(first.payload.as_ptr(), second.payload.as_ptr(), "the same buffer");
    assert_eq!((pipeline.totals().microbatches, pipeline.queue_stats().joined), (1, 1));
    assert_eq!(pipeline.queue_stats().outstanding, 0);
    assert_eq!(pipeline.buffers().bytes_in_use(), BYTES);
    drop((first, second));
    assert_eq!(pipeline.buffers().bytes_in_use(), 0);
}

#[test]
fn a_large_microbatch_is_made_beside_small_ones_that_readers_keep() {
    // Buffers for seven small microbatches, of which six are kept, always the latest. The large one needs
    // four.
    let (pipeline, a2) = (pipeline(7, 0), recipe("a2", &[]));
    let mut names = (0..).map(|number: u64| {
        request(&a2, number / 24, number / 8 % 3, u32::try_from(number % 8).unwrap())
    });
    let mut small = || submit(&pipeline, names.next().unwrap(), for_client("small"));
    let mut kept: VecDeque<MadeMicrobatch> = (0..6).map(|_| receive(&small())).collect();
    let format = PixelFormat { dtype: DType::F32, layout: Layout::Nchw, ..PixelFormat::default() };
    let wanted = Request { format, ..request(&a2, 99, 0, 0) };
    let large = submit(&pipeline, wanted, for_client("large"));
    while pipeline.buffers().waiting() == 0 {
        std::thread::yield_now();
    }
    let (mut pending, mut passed, begun) = (small(), 0, Instant::now());
    while large.try_recv().is_err() {
        assert!(passed < 100 && begun.elapsed() < HANG, "passed by {passed} small ones");
        if let Ok(made) = pending.try_recv() {
            kept.push_back(made.unwrap());
            (pending, passed) = (small(), passed + 1);
        }
        // A reader takes its microbatch when there is another one, or nothing happens any more.
        if kept.len() > 6 || pipeline.buffers().waiting() == 2 {
            kept.pop_front();
        }
        std::thread::yield_now();
    }
    assert!(passed <= 5, "passed by {passed} small ones");
    drop(kept);
    receive(&pending);
}

#[test]
fn requests_that_differ_in_anything_are_not_shared() {
    let (pipeline, a2) = (pipeline(64, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let base = request(&a2, 0, 1, 2);
    let plain = PixelFormat::default();
    let with_format = |format| Request { format, ..base.clone() };
    let mut different = vec![
        base.clone(),
        Request { recipe: recipe("a2", &["smoothing = 0.2"]), ..base.clone() },
        request(&a2, 1, 1, 2),
        request(&a2, 0, 2, 2),
        request(&a2, 0, 1, 3),
        with_format(PixelFormat { mixed_by: MixedBy::Trainer, ..plain }),
        with_format(PixelFormat { layout: Layout::Nchw, ..plain }),
        with_format(PixelFormat { dtype: DType::F16, ..plain }),
    ];
    let mut seeded = base;
    seeded.name.seed += 1;
    different.push(seeded);
    let count = different.len();
    let answers: Vec<Answer> =
        different.into_iter().map(|request| submit(&pipeline, request, for_client("a"))).collect();
    drop(held);
    receive_all(&answers);
    let (made, joined) = (pipeline.totals().microbatches, pipeline.queue_stats().joined);
    assert_eq!((made, joined), (count as u64, 0));
}

#[test]
fn cancelling_one_waiter_never_cancels_another() {
    let (pipeline, a2) = (pipeline(16, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    // Makers have taken some of them, the others are queued.
    let requests: Vec<Request> = (0..6).map(|index| request(&a2, 0, 0, index)).collect();
    let (leaving, staying) = (for_client("a"), for_client("b"));
    let submit_all = |options: &SubmitOptions| -> Vec<Answer> {
        requests.iter().map(|wanted| submit(&pipeline, wanted.clone(), options.clone())).collect()
    };
    let left = submit_all(&leaving);
    leaving.cancelled.store(true, Ordering::Relaxed);
    let stayed = submit_all(&staying);
    drop(held);
    receive_all(&stayed);
    for answer in left {
        // A microbatch that was being made when the other joined is an answer to both.
        let result = answer.recv_timeout(HANG).unwrap();
        assert!(matches!(result, Ok(_) | Err(Error::Cancelled)), "{result:?}");
    }
    assert_eq!((pipeline.totals().microbatches, pipeline.queue_stats().outstanding), (6, 0));
}

#[test]
fn a_microbatch_that_nobody_waits_for_is_not_made() {
    let (pipeline, a2) = (pipeline(1, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let leaving = for_client("a");
    let submit = |index| submit(&pipeline, request(&a2, 0, 0, index), leaving.clone());
    let answers: Vec<Answer> = (0..6).map(submit).collect();
    leaving.cancelled.store(true, Ordering::Relaxed);
    drop(held);
    for answer in answers {
        assert!(matches!(answer.recv_timeout(HANG).unwrap(), Err(Error::Cancelled)));
    }
    assert_eq!((pipeline.totals().microbatches, pipeline.queue_stats().outstanding), (0, 0));
}

#[test]
fn all_waiters_for_a_microbatch_that_cannot_be_made_get_the_error() {
    let (pipeline, a2) = (pipeline(2, 0), recipe("a2", &[]));
    let answers =
        ["a", "b", "c"].map(|client| submit(&pipeline, request(&a2, 0, 99, 0), for_client(client)));
    for answer in answers {
        let error = answer.recv_timeout(HANG).unwrap().unwrap_err();
        assert!(matches!(error, Error::OutOfRange { what: "step", got: 99, .. }), "{error}");
    }
    assert_eq!(pipeline.queue_stats().outstanding, 0);
}

#[test]
fn a_callback_that_panics_ends_no_maker() {
    let (pipeline, a2) = (pipeline(2, 0), recipe("a2", &[]));
    for index in 0..8 {
        let panics = |_| panic!("a callback of this test");
        pipeline.submit(request(&a2, 0, 0, index), for_client("a"), panics).unwrap();
    }
    drop(receive(&submit(&pipeline, request(&a2, 0, 1, 0), for_client("b"))));
    wait_until_idle(&pipeline);
    assert_eq!(pipeline.totals().microbatches, 9);
}

#[test]
fn two_jobs_that_read_the_same_have_each_microbatch_made_once() {
    let (pipeline, a2) = (pipeline(8, 4), recipe("a2", &[]));
    let names: Vec<(u64, u32)> =
        (0..3).flat_map(|step| (0..8).map(move |index| (step, index))).collect();
    let mut pixels = BTreeMap::new();
    // The second is two microbatches behind the first.
    for at in 0..names.len() + 2 {
        for (client, at) in [("first", Some(at)), ("second", at.checked_sub(2))] {
            let Some(&(step, index)) = at.and_then(|at| names.get(at)) else { continue };
            let request = request(&a2, 0, step, index);
            let made = receive(&submit(&pipeline, request, for_client(client)));
            let earlier = pixels.insert((step, index), made.payload.to_vec());
            assert!(earlier.is_none_or(|earlier| earlier == made.payload[..]));
            assert!(pipeline.queue_stats().cache_bytes <= 4 * BYTES);
            assert!(pipeline.buffers().bytes_in_use() <= 5 * BYTES, "four cached, one held here");
        }
    }
    assert_eq!(pipeline.totals().microbatches, 24);
    let stats = pipeline.queue_stats();
    assert_eq!((stats.cached, stats.joined), (24, 0));
}

#[test]
fn cached_microbatches_are_evicted_when_buffers_are_needed() {
    let (pipeline, a2) = (pipeline(2, 2), recipe("a2", &[]));
    let make = |index| receive(&submit(&pipeline, request(&a2, 0, 0, index), for_client("a")));
    drop((make(0), make(1)));
    assert_eq!(pipeline.queue_stats().cache_bytes, 2 * BYTES, "they take all buffers");
    let third = make(2);
    drop(make(1));
    assert_eq!(pipeline.queue_stats().cached, 1, "the oldest was evicted");
    // One is held here, and another is cached.
    drop(make(3));
    // Both buffers are held here, so evicting them from the cache frees none: the next one waits.
    let fourth = make(3);
    let fifth = submit(&pipeline, request(&a2, 0, 0, 5), for_client("a"));
    while pipeline.buffers().waiting() == 0 || pipeline.queue_stats().cache_bytes > 0 {
        std::thread::yield_now();
    }
    assert!(fifth.try_recv().is_err());
    drop(fourth);
    drop(receive(&fifth));
    drop(third);
    // A microbatch of another size needs the room of both.
    let twice = recipe("a2", &["microbatches = 4"]);
    drop(receive(&submit(&pipeline, request(&twice, 0, 0, 0), for_client("a"))));
    assert_eq!(pipeline.buffers().bytes_in_use(), 2 * BYTES, "it is cached");
}

#[test]
fn a_client_has_at_most_its_bound_of_requests_and_learns_how_long_to_wait() {
    let (pipeline, a2) = (pipeline(8, 0), recipe("a2", &[]));
    drop(receive(&submit(&pipeline, request(&a2, 0, 0, 0), for_client("a"))));
    let held = hold(&pipeline);
    let bounded = |client: &str| SubmitOptions { max_outstanding: 3, ..for_client(client) };
    let submit_of = |client, index| submit(&pipeline, request(&a2, 0, 1, index), bounded(client));
    let mut answers: Vec<Answer> = (0..3).map(|index| submit_of("a", index)).collect();
    let refused = pipeline.submit(request(&a2, 0, 1, 3), bounded("a"), |_| unreachable!());
    let Err(Error::Busy { limit: 3, wait }) = refused else { panic!("{refused:?}") };
    assert!(wait > Duration::ZERO && wait < HANG, "{wait:?}");
    // Another client has a bound of its own.
    answers.push(submit_of("b", 3));
    drop(held);
    receive_all(&answers);
    drop(receive(&submit_of("a", 4)));
}

#[test]
fn a_client_with_many_jobs_and_one_with_a_single_job_get_equal_shares() {
    let (pipeline, a2) = (single_threaded(0), recipe("a2", &["microbatches = 1"]));
    let (answered, held) = (Arc::new(Mutex::new(Vec::new())), hold(&pipeline));
    let submit = |client: &'static str, seed: u64, number: u64| {
        let mut request = request(&a2, number / 3, number % 3, 0);
        request.name.seed = seed;
        let answered = Arc::clone(&answered);
        let done = move |_| answered.lock().unwrap().push(client);
        pipeline.submit(request, for_client(client), done).unwrap();
    };
    for seed in 0..32 {
        (0..8).for_each(|number| submit("many", seed, number));
    }
    (0..80).for_each(|number| submit("single", 99, number));
    drop(held);
    wait_until_idle(&pipeline);
    let answered = answered.lock().unwrap();
    let last = answered.iter().rposition(|client| *client == "single").unwrap();
    let share = 80.0 / (last + 1) as f64;
    assert!((0.4..=0.65).contains(&share), "80 of {}", last + 1);
}

/// A stream of a job of large microbatches, from an epoch on.
async fn stream(server: &Server, seed: u64, epoch: u64) -> Microbatches {
    let client = Client::connect(Options::new([server.endpoint()])).unwrap();
    let set = SMALL.iter().chain(&["microbatches = 1"]).map(|change| (*change).to_owned());
    let job = Job { set: set.collect(), seed, ..Job::new("train", "a3") };
    let from = Cursor { epoch, step: 0 };
    client.stream(&job, from, End::Steps(1 << 20), Rank::SINGLE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_32_streams_leaves_half_to_a_trainer_of_one() {
    let pipeline = Arc::new(single_threaded(0));
    let server = Server::of(&WORLD.dataset, Arc::clone(&pipeline), Limits::default()).await;
    let mut greedy = Vec::new();
    for number in 0..32 {
        let mut stream = stream(&server, 6, 1000 * number).await;
        greedy.push(tokio::spawn(async move { while stream.next().await.unwrap().is_ok() {} }));
    }
    let mut trainer = stream(&server, 5, 0).await;
    let mut read = async |count: u64| {
        for _ in 0..count {
            trainer.next().await.unwrap().unwrap();
        }
    };
    // By then, what is made ahead of either reader has been made.
    read(60).await;
    let (before, count) = (pipeline.totals().microbatches, 150);
    read(count).await;
    let made = pipeline.totals().microbatches - before;
    greedy.iter().for_each(tokio::task::JoinHandle::abort);
    let share = count as f64 / made as f64;
    assert!((0.4..=0.65).contains(&share), "{count} of {made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_trainers_of_one_job_have_each_microbatch_made_once() {
    let pipeline = Arc::new(single_threaded(64 << 20));
    let server = Server::of(&WORLD.dataset, Arc::clone(&pipeline), Limits::default()).await;
    let (mut first, mut second) = (stream(&server, 5, 0).await, stream(&server, 5, 0).await);
    for _ in 0..60 {
        let (one, other) = tokio::join!(first.next(), second.next());
        let (one, other) = (one.unwrap().unwrap(), other.unwrap().unwrap());
        assert_eq!(one.name, other.name);
        assert!(one.pixels[..] == other.pixels[..]);
    }
    drop((first, second));
    let (made, stats) = (pipeline.totals().microbatches, pipeline.queue_stats());
    // More may have been made ahead, each of them also once.
    assert!(made >= 60 && stats.joined + stats.cached >= 60, "{made} made, {stats:?}");
    assert!(made < 60 + 1024, "{made}");
    let requests = made + stats.joined + stats.cached;
    assert!(requests.abs_diff(2 * made) <= 80, "{made} made of {requests} requests, {stats:?}");
}
