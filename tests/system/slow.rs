//! Slow readers next to a fast trainer: the buffers that they hold are bounded, and the trainer gets its share.
//!
//! `FOREBAY_SLOW_READERS` sets the number of slow readers, `FOREBAY_SLOW_MICROBATCHES` how many microbatches the
//! trainer reads in each half of the test, and `FOREBAY_SLOW_PIXELS` the width and height of the images. A
//! microbatch has 16 images, and the server has thirteen buffers.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, End, Job, Microbatches, Options, Rank};
use forebay_proto::v1::{self, StreamRequest};
use forebay_tests::HANG;
use forebay_tests::process::ServerProcess;
use forebay_tests::world::WORLD;

use prost::Message as _;
use tokio::time::timeout;

use crate::raw::Raw;

/// Images in a microbatch.
const IMAGES: u64 = 16;

/// Width and height of the images.
#[derive(Clone, Copy)]
struct Size(u64);

impl Size {
    fn set(self) -> Vec<String> {
        let batch = format!("batch = {IMAGES}");
        vec![batch, "microbatches = 1".into(), format!("image_size = {}", self.0)]
    }

    const fn microbatch_bytes(self) -> u64 {
        IMAGES * self.0 * self.0 * 3
    }

    /// `--buffer-bytes` of the server.
    const fn buffer_bytes(self) -> u64 {
        13 * self.microbatch_bytes() + (2 << 20)
    }
}

/// Bytes per second that a slow reader takes at most: a microbatch of images of 224 x 224 in 19 seconds.
const RATE: f64 = 128e3;

/// A slow reader is at least this many times slower than the trainer alone, so that the figures mean the
/// same on a busy machine.
const SLOWER: f64 = 100.0;

fn start(size: Size) -> ServerProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("forebay").env("RUST_LOG", "warn");
    let dataset = format!("train={}", WORLD.train().display());
    let buffers = size.buffer_bytes().to_string();
    let limits = ["--share-bytes", "8MiB", "--slow-after", "1s", "--max-streams", "1024"];
    let own = ["--dataset", &dataset, "--buffer-bytes", &buffers];
    ServerProcess::start(&mut command, None, &[&own[..], &limits].concat())
}

/// Reads a job of its own slowly, and connects again when the server ends the stream.
async fn read_slowly(
    address: String,
    size: Size,
    (seed, rate): (u64, f64),
    received: Arc<AtomicU64>,
) {
    let job = v1::Job {
        dataset: "train".into(),
        recipe: Some(v1::Recipe { name: "a3".into(), set: size.set(), ..v1::Recipe::default() }),
        seed,
        ..v1::Job::default()
    };
    let request = StreamRequest { job: Some(job), steps: 1 << 20, ..StreamRequest::default() };
    while let Ok(mut raw) = Raw::open(&address).await {
        raw.call("Stream", &request.encode_to_vec()).await.unwrap();
        // An error means that the server closed the connection.
        raw.read_slowly(rate, &received).await.ok();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reads microbatches as a fast trainer. Returns images per second, and the peak memory of the server.
async fn train(stream: &mut Microbatches, server: &ServerProcess, microbatches: u64) -> (f64, u64) {
    let (begin, mut memory) = (Instant::now(), 0);
    for _ in 0..microbatches {
        let next = timeout(HANG, stream.next()).await.expect("slow readers stop the trainer");
        next.unwrap().unwrap();
        memory = memory.max(server.memory().resident);
    }
    ((microbatches * IMAGES) as f64 / begin.elapsed().as_secs_f64(), memory)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_bounded_memory_and_a_fast_one_gets_its_share() {
    let number = |name: &str, default| match std::env::var_os(name) {
        Some(text) => text.to_str().unwrap().parse().unwrap(),
        None => default,
    };
    let readers = number("FOREBAY_SLOW_READERS", 24);
    let microbatches = number("FOREBAY_SLOW_MICROBATCHES", 40);
    let size = Size(number("FOREBAY_SLOW_PIXELS", 224));
    let server = start(size);
    let client = Client::connect(Options::new([server.address()])).unwrap();
    let job = Job { set: size.set(), seed: 5, ..Job::new("train", "a3") };
    let end = End::Steps(1 << 20);
    let mut stream = client.stream(&job, Cursor::default(), end, Rank::SINGLE).await.unwrap();
    let (alone, _) = train(&mut stream, &server, microbatches / 2).await;

    let received = Arc::new(AtomicU64::new(0));
    let bytes_per_s = alone * size.microbatch_bytes() as f64 / IMAGES as f64;
    let rate = RATE.min(bytes_per_s / SLOWER);
    let slow =
        |reader| read_slowly(server.address(), size, (100 + reader, rate), Arc::clone(&received));
    let slow: Vec<_> = (0..readers).map(|reader| tokio::spawn(slow(reader))).collect();
    let (_, early) = train(&mut stream, &server, microbatches).await;
    let (with_slow, late) = train(&mut stream, &server, microbatches).await;
    slow.iter().for_each(tokio::task::JoinHandle::abort);

    let bytes = received.load(Ordering::Relaxed);
    let per_reader = bytes as f64 / readers as f64 / size.microbatch_bytes() as f64;
    println!(
        "{readers} slow readers: {alone:.0} images/s without them, {with_slow:.0} with them; \
         {per_reader:.1} microbatches per slow reader and {} of the trainer; \
         memory at most {} MiB in the first half, {} MiB in the second",
        2 * microbatches,
        early >> 20,
        late >> 20
    );
    assert!(bytes > 0, "the slow readers received nothing");
    // Without admission control slow readers hold all buffers, and the trainer reads no faster than one of them.
    assert!((2 * microbatches) as f64 > 8.0 * per_reader, "{per_reader} per slow reader");
    assert!(late < early + (8 << 20), "{early} bytes, then {late}");
    // Buffers, precomputed samples, and the process itself with its decoders.
    let bound = size.buffer_bytes() + (8 << 20) + (64 << 20) + readers * (256 << 10);
    // A stand-in for a GPU has the GPU's memory in this process, and counts pinned buffers twice.
    let gpu = if forebay_tests::gpu().is_some() { size.buffer_bytes() + (96 << 20) } else { 0 };
    assert!(late < bound + gpu, "{late} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_trainer_is_served_beside_readers_of_small_microbatches_that_take_next_to_nothing() {
    let size = Size(224);
    let server = start(size);
    let received = Arc::new(AtomicU64::new(0));
    // All of a microbatch fits into the buffers of HTTP/2, so that no stream waits for its reader.
    let slow = |seed| read_slowly(server.address(), size, (seed, 1e3), Arc::clone(&received));
    let slow: Vec<_> = (100..124).map(|seed| tokio::spawn(slow(seed))).collect();
    // A frame of as many as have a buffer: three quarters of thirteen.
    let full = async {
        while received.load(Ordering::Relaxed) < 9 * 16_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, full).await.unwrap();
    let client = Client::connect(Options::new([server.address()])).unwrap();
    let job = Job { set: size.set(), seed: 5, ..Job::new("train", "a3") };
    let end = End::Steps(4);
    let mut stream = client.stream(&job, Cursor::default(), end, Rank::SINGLE).await.unwrap();
    train(&mut stream, &server, 4).await;
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}
