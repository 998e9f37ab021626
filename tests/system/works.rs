//! Work shared between jobs: what is asked for by several is made once, ready microbatches are kept
//! within bounds, and clients get equal shares of the workers.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use forebay::mix::{DType, Layout, Output};
use forebay::pipeline::{Asker, Settings};
use forebay::{Error, Microbatch, Pipeline, Request};
use forebay_client::{Client, Cursor, End, Job, Microbatches, Options, Rank};
use forebay_server::Limits;

use forebay_tests::world::{SMALL, Server, WORLD, recipe, request};

/// Bytes of a microbatch of 2 samples of 48 x 48.
const BYTES: usize = 2 * 48 * 48 * 3;
const LONG: Duration = Duration::from_secs(20);

type Made = Receiver<Result<Microbatch, Error>>;

fn pipeline(buffers: usize, cached: usize) -> Pipeline {
    let (buffer_bytes, cache_bytes) = (buffers * BYTES, cached * BYTES);
    let settings = Settings { buffer_bytes, cache_bytes, ..Settings::default() };
    Pipeline::new(settings).unwrap()
}

fn asker(client: &str) -> Asker {
    Asker { client: client.into(), ..Asker::default() }
}

fn ask(pipeline: &Pipeline, request: Request, asker: Asker) -> Made {
    let (sender, made) = sync_channel(1);
    pipeline.submit(request, asker, move |result| drop(sender.send(result))).unwrap();
    made
}

fn got(made: &Made) -> Microbatch {
    made.recv_timeout(LONG).unwrap().unwrap()
}

fn all_got(made: &[Made]) {
    for made in made {
        drop(got(made));
    }
}

/// Holds all buffers of a pipeline: what is asked for meanwhile waits.
fn hold(pipeline: &Pipeline) -> impl Sized + use<> {
    pipeline.ring().take(pipeline.ring().limit()).unwrap()
}

#[test]
fn what_two_ask_for_is_made_once_and_both_get_it() {
    let (pipeline, a2) = (pipeline(4, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let wanted = request(&a2, 0, 1, 2);
    let both = ["a", "b"].map(|client| ask(&pipeline, wanted.clone(), asker(client)));
    drop(held);
    let [first, second] = both.map(|made| got(&made));
    assert_eq!(first.payload.as_ptr(), second.payload.as_ptr(), "the same buffer");
    assert_eq!((pipeline.totals().microbatches, pipeline.sharing().joined), (1, 1));
    assert_eq!(pipeline.sharing().asked, 0);
    assert_eq!(pipeline.ring().bytes_out(), BYTES);
    drop((first, second));
    assert_eq!(pipeline.ring().bytes_out(), 0);
}

#[test]
fn only_what_is_equal_in_all_is_shared() {
    let (pipeline, a2) = (pipeline(64, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let base = request(&a2, 0, 1, 2);
    let name = base.name;
    let mut different = vec![
        base.clone(),
        Request { recipe: recipe("a2", &["smoothing = 0.2"]), ..base.clone() },
        request(&a2, 1, 1, 2),
        request(&a2, 0, 2, 2),
        request(&a2, 0, 1, 3),
        Request { output: Output { mixed: false, ..Output::U8 }, ..base.clone() },
        Request { output: Output { layout: Layout::Nchw, ..Output::U8 }, ..base.clone() },
        Request { output: Output { dtype: DType::F16, ..Output::U8 }, ..base.clone() },
    ];
    let mut seeded = base;
    seeded.name.seed = name.seed + 1;
    different.push(seeded);
    let count = different.len();
    let made: Vec<Made> =
        different.into_iter().map(|request| ask(&pipeline, request, asker("a"))).collect();
    drop(held);
    all_got(&made);
    assert_eq!((pipeline.totals().microbatches, pipeline.sharing().joined), (count as u64, 0));
}

#[test]
fn who_goes_away_takes_nobodys_work_along() {
    let (pipeline, a2) = (pipeline(16, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    // Two are in the hands of makers, the others in line.
    let requests: Vec<Request> = (0..6).map(|index| request(&a2, 0, 0, index)).collect();
    let (gone, here) = (asker("a"), asker("b"));
    let ask_all = |asker: &Asker| -> Vec<Made> {
        requests.iter().map(|wanted| ask(&pipeline, wanted.clone(), asker.clone())).collect()
    };
    let lost = ask_all(&gone);
    gone.wanted.store(false, Ordering::Relaxed);
    let kept = ask_all(&here);
    drop(held);
    all_got(&kept);
    for made in lost {
        // What was in work when others joined is told to all.
        let result = made.recv_timeout(LONG).unwrap();
        assert!(matches!(result, Ok(_) | Err(Error::Cancelled)), "{result:?}");
    }
    assert_eq!((pipeline.totals().microbatches, pipeline.sharing().asked), (6, 0));
}

#[test]
fn what_all_have_left_is_not_made() {
    let (pipeline, a2) = (pipeline(1, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let gone = asker("a");
    let made: Vec<Made> =
        (0..6).map(|index| ask(&pipeline, request(&a2, 0, 0, index), gone.clone())).collect();
    gone.wanted.store(false, Ordering::Relaxed);
    drop(held);
    for made in made {
        assert!(matches!(made.recv_timeout(LONG).unwrap(), Err(Error::Cancelled)));
    }
    assert_eq!((pipeline.totals().microbatches, pipeline.sharing().asked), (0, 0));
}

#[test]
fn each_who_asks_for_what_cannot_be_made_is_told_so() {
    let (pipeline, a2) = (pipeline(2, 0), recipe("a2", &[]));
    let held = hold(&pipeline);
    let asked: Vec<Made> =
        ["a", "b", "c"].map(|who| ask(&pipeline, request(&a2, 0, 99, 0), asker(who))).into();
    drop(held);
    for made in asked {
        let error = made.recv_timeout(LONG).unwrap().unwrap_err();
        assert!(matches!(error, Error::OutOfRange { what: "step", got: 99, .. }), "{error}");
    }
}

#[test]
fn two_jobs_of_one_name_have_each_microbatch_made_once() {
    let (pipeline, a2) = (pipeline(8, 4), recipe("a2", &[]));
    let names: Vec<(u64, u32)> =
        (0..3).flat_map(|step| (0..8).map(move |index| (step, index))).collect();
    let mut pixels = BTreeMap::new();
    // The second is two microbatches behind the first.
    for at in 0..names.len() + 2 {
        for (client, at) in [("first", Some(at)), ("second", at.checked_sub(2))] {
            let Some(&(step, index)) = at.and_then(|at| names.get(at)) else { continue };
            let made = got(&ask(&pipeline, request(&a2, 0, step, index), asker(client)));
            let earlier = pixels.insert((step, index), made.payload.to_vec());
            assert!(earlier.is_none_or(|earlier| earlier == made.payload[..]));
            assert!(pipeline.sharing().cache_bytes <= 4 * BYTES);
            assert!(pipeline.ring().bytes_out() <= 5 * BYTES, "four ready, one in our hands");
        }
    }
    assert_eq!(pipeline.totals().microbatches, 24);
    assert_eq!((pipeline.sharing().cached, pipeline.sharing().joined), (24, 0));
}

#[test]
fn what_is_kept_ready_makes_room_for_what_is_wanted() {
    let (pipeline, a2) = (pipeline(2, 2), recipe("a2", &[]));
    let make = |index| got(&ask(&pipeline, request(&a2, 0, 0, index), asker("a")));
    drop((make(0), make(1)));
    assert_eq!(pipeline.sharing().cache_bytes, 2 * BYTES, "the ring is full of them");
    let third = make(2);
    drop(make(1));
    assert_eq!(pipeline.sharing().cached, 1, "the one made first went");
    // One is in our hands, one kept ready besides.
    drop(make(3));
    // All kept ready, and all in our hands: the next waits for us alone.
    let fourth = make(3);
    let fifth = ask(&pipeline, request(&a2, 0, 0, 5), asker("a"));
    assert!(fifth.recv_timeout(Duration::from_millis(100)).is_err());
    drop(fourth);
    drop(got(&fifth));
    drop(third);
    // Of another size.
    let twice = recipe("a2", &["microbatches = 4"]);
    drop(got(&ask(&pipeline, request(&twice, 0, 0, 0), asker("a"))));
    assert_eq!(pipeline.ring().bytes_out(), 2 * BYTES, "kept ready alone");
}

#[test]
fn a_client_may_ask_for_no_more_than_its_bound_and_is_told_how_long_to_wait() {
    let (pipeline, a2) = (pipeline(8, 0), recipe("a2", &[]));
    drop(got(&ask(&pipeline, request(&a2, 0, 0, 0), asker("a"))));
    let held = hold(&pipeline);
    let bounded = |client: &str| Asker { most: 3, ..asker(client) };
    let first = bounded("a");
    let mut made = vec![ask(&pipeline, request(&a2, 0, 1, 0), first.clone())];
    for index in 1..3 {
        made.push(ask(&pipeline, request(&a2, 0, 1, index), bounded("a")));
    }
    let refused = pipeline.submit(request(&a2, 0, 1, 3), bounded("a"), |_| unreachable!());
    let Err(Error::Busy { limit: 3, wait }) = refused else { panic!("{refused:?}") };
    assert!(wait > Duration::ZERO && wait < LONG, "{wait:?}");
    // Another client is not concerned.
    made.push(ask(&pipeline, request(&a2, 0, 1, 3), bounded("b")));
    drop(held);
    all_got(&made);
    drop(got(&ask(&pipeline, request(&a2, 0, 1, 4), bounded("a"))));
}

/// Reads the microbatches of a client, four asked for at once, for as long as `more` says.
fn read(pipeline: &Pipeline, (client, seed): (&str, u64), mut more: impl FnMut() -> bool) {
    let recipe = recipe("a2", &["microbatches = 1"]);
    let mut asked = VecDeque::new();
    let mut names = (0..).flat_map(|epoch| (0..3).map(move |step| (epoch, step)));
    while more() {
        while asked.len() < 4 {
            let (epoch, step) = names.next().unwrap();
            let mut wanted = request(&recipe, epoch, step, 0);
            wanted.name.seed = seed;
            asked.push_back(ask(pipeline, wanted, asker(client)));
        }
        drop(got(&asked.pop_front().unwrap()));
    }
}

fn of_one_thread(cache_bytes: usize) -> Pipeline {
    let threads = NonZeroUsize::MIN;
    Pipeline::new(Settings { threads, cache_bytes, ..Settings::default() }).unwrap()
}

#[test]
fn one_who_reads_much_and_one_who_reads_little_get_the_same() {
    let (pipeline, stop) = (of_one_thread(0), AtomicBool::new(false));
    let made = || pipeline.totals().microbatches;
    let all = std::thread::scope(|scope| {
        for seed in 0..32 {
            let (pipeline, stop) = (&pipeline, &stop);
            scope.spawn(move || read(pipeline, ("greedy", seed), || !stop.load(Ordering::Relaxed)));
        }
        let (mut times, mut before) = (0, 0);
        read(&pipeline, ("quick", 99), || {
            times += 1;
            if times == 20 {
                before = made();
            }
            times < 100
        });
        stop.store(true, Ordering::Relaxed);
        made() - before
    });
    let share = 80.0 / all as f64;
    assert!((0.4..=0.65).contains(&share), "80 of {all}");
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
    let pipeline = Arc::new(of_one_thread(0));
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
    // What is made ahead for either is made by then.
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
    let pipeline = Arc::new(of_one_thread(64 << 20));
    let server = Server::of(&WORLD.dataset, Arc::clone(&pipeline), Limits::default()).await;
    let (mut first, mut second) = (stream(&server, 5, 0).await, stream(&server, 5, 0).await);
    for _ in 0..60 {
        let (one, other) = tokio::join!(first.next(), second.next());
        let (one, other) = (one.unwrap().unwrap(), other.unwrap().unwrap());
        assert_eq!(one.name, other.name);
        assert!(one.pixels[..] == other.pixels[..]);
    }
    drop((first, second));
    let (made, sharing) = (pipeline.totals().microbatches, pipeline.sharing());
    // Those made ahead besides, each once too.
    assert!(made >= 60 && sharing.joined + sharing.cached >= 60, "{made} made, {sharing:?}");
    assert!(made < 60 + 1024, "{made}");
    let asked = made + sharing.joined + sharing.cached;
    assert!(asked.abs_diff(2 * made) <= 80, "{made} made for {asked} asked, {sharing:?}");
}
