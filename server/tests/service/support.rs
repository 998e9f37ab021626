//! A server with a fake pipeline, and what a test observes of both.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use forebay::{BufferPool, FetchAhead, Pixels};
use forebay_proto::frame::{FRAME_BYTES, Join};
use forebay_proto::v1::forebay_service_client::ForebayServiceClient;
use forebay_proto::v1::{self, DescribeResponse, Frame, Header, StreamRequest};
use forebay_server::{
    Done, Limits, ListenAddress, Listeners, Load, MicrobatchName, OpenJob, PixelFormat, Refusal,
    Report, Setup, Source, SubmitOptions, Timings, WireMicrobatch,
};
use forebay_types::Layout;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

/// Bound that only a hang exceeds.
pub(crate) const HANG: Duration = Duration::from_mins(5);

/// Longer than any test takes, also one that waits for several things.
const NEVER: Duration = Duration::from_hours(1);

/// Limits under which time ends no stream and no connection, so that attackers keep their places on a busy
/// machine too, and no reader counts as slow. Tests shorten what they are about.
pub(crate) fn patient() -> Limits {
    Limits {
        slow_after: NEVER,
        stall_timeout: NEVER,
        handshake_timeout: NEVER,
        request_timeout: NEVER,
        authentication_timeout: NEVER,
        idle_timeout: NEVER,
        keep_alive: NEVER,
        admin_head_timeout: NEVER,
        admin_lifetime: NEVER,
        ..Limits::default()
    }
}

/// Microbatches of 2 images of 840 x 840: more than 4 frames, and more than a client's stream window.
pub(crate) const SIDE: u32 = 840;
pub(crate) const MICROBATCH_BYTES: u64 = 2 * 3 * 840 * 840;

/// How the fake pipeline computes.
#[derive(Clone, Copy)]
pub(crate) enum Make {
    /// Immediately.
    Now,
    /// In a thread, after a delay.
    After(Duration),
    /// When the test completes it.
    Held,
    /// Not at all, from this step on: an error.
    BadFrom(u64),
    /// Not at all: no microbatch can be sent.
    TooLarge,
}

/// Steps of 4 microbatches, 3 to an epoch, the last of them with only 3.
pub(crate) struct Fake {
    facts: DescribeResponse,
    make: Make,
    pub(crate) names: Mutex<Vec<MicrobatchName>>,
    pub(crate) formats: Mutex<Vec<PixelFormat>>,
    /// Clients of the requests, with their limits of outstanding microbatches.
    pub(crate) clients: Mutex<Vec<(Arc<str>, usize)>>,
    pub(crate) held: Mutex<Vec<(Arc<AtomicBool>, Done)>>,
    /// Buffers alive.
    pub(crate) live: Arc<AtomicUsize>,
    pub(crate) classes: Vec<String>,
    /// Bytes of an explanation; 0 for the name of the microbatch.
    explanation_bytes: usize,
    /// Niceness of the threads that made explanations, one for each.
    pub(crate) explained: Mutex<Vec<i32>>,
    /// Buffers that can be lent, for microbatches that are computed now. Others have their own.
    pub(crate) buffers: Option<BufferPool>,
    /// Fetches ahead, if a test sets it.
    pub(crate) ahead: OnceLock<Box<dyn Fn(MicrobatchName) -> Option<FetchAhead> + Send + Sync>>,
}

impl Fake {
    pub(crate) fn new(make: Make, classes: Vec<String>, explanation_bytes: usize) -> Arc<Self> {
        let facts = DescribeResponse {
            dataset_digest: Bytes::from_static(&[0xda; 32]),
            records: 24,
            recipe_digest: Bytes::from_static(&[0xec; 32]),
            recipe_toml: "image_size = 840\n".into(),
            samples_per_epoch: 22,
            steps_per_epoch: 3,
            batch: 8,
            microbatches: 4,
            image_size: SIDE,
            ..DescribeResponse::default()
        };
        let (names, formats, held) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (clients, live) = (Mutex::default(), Arc::default());
        Arc::new(Self {
            facts,
            make,
            names,
            formats,
            clients,
            held,
            live,
            classes,
            explanation_bytes,
            explained: Mutex::default(),
            buffers: None,
            ahead: OnceLock::new(),
        })
    }

    pub(crate) fn submitted(&self) -> usize {
        self.names.lock().unwrap().len()
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

/// A buffer that counts itself.
struct Buffer(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The pixels of a microbatch.
pub(crate) fn pixels(name: MicrobatchName) -> Vec<u8> {
    let key = [name.seed, name.epoch, name.step, u64::from(name.index)];
    let mut word = xxh3_64(&key.map(u64::to_le_bytes).concat());
    let words = (0..MICROBATCH_BYTES / 8).flat_map(|_| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.to_le_bytes()
    });
    words.collect()
}

fn microbatch(name: MicrobatchName, layout: Layout, live: &Arc<AtomicUsize>) -> WireMicrobatch {
    let pixels = pixels(name);
    let xxh3 = xxh3_64(&pixels);
    live.fetch_add(1, Ordering::SeqCst);
    WireMicrobatch {
        payload: Bytes::from_owner(Buffer(pixels, Arc::clone(live))),
        shared: None,
        shape: if layout == Layout::Nchw { [2, 3, SIDE, SIDE] } else { [2, SIDE, SIDE, 3] },
        records: vec![name.step, name.index.into()],
        label_a: vec![0, 1],
        label_b: vec![1, 0],
        lambda: vec![0.5, 1.0],
        mix: None,
        xxh3,
        timings: Timings::default(),
    }
}

/// Completes a request.
pub(crate) fn finish(name: MicrobatchName, layout: Layout, live: &Arc<AtomicUsize>, done: Done) {
    done(Ok(microbatch(name, layout, live)));
}

pub(crate) struct FakeJob(Arc<Fake>);

pub(crate) struct FakeSource(Arc<Fake>);

impl Source for FakeSource {
    fn datasets(&self) -> Vec<String> {
        vec!["pets".into()]
    }

    fn load(&self) -> Load {
        let Some(buffers) = &self.0.buffers else { return Load::default() };
        Load {
            buffer_bytes: buffers.bytes_in_use() as u64,
            buffer_limit_bytes: buffers.limit() as u64,
            microbatches_waiting_for_buffer: buffers.waiting(),
            ..Load::default()
        }
    }

    fn open(&self, job: &v1::Job) -> Result<Arc<dyn OpenJob>, Refusal> {
        if job.dataset == "pets" {
            Ok(Arc::new(FakeJob(Arc::clone(&self.0))))
        } else {
            Err(Refusal::UnknownDataset { name: job.dataset.clone(), served: self.datasets() })
        }
    }
}

impl OpenJob for FakeJob {
    fn facts(&self) -> &DescribeResponse {
        &self.0.facts
    }

    fn classes(&self) -> &[String] {
        &self.0.classes
    }

    fn microbatches(&self, step: u64) -> u32 {
        if step == 2 { 3 } else { 4 }
    }

    fn check(&self, _format: PixelFormat) -> Result<(), Refusal> {
        match self.0.make {
            Make::TooLarge => Err(forebay::Error::BufferBudget { need: 2, limit: 1 }.into()),
            _ => Ok(()),
        }
    }

    fn submit(
        &self,
        name: MicrobatchName,
        format: PixelFormat,
        options: SubmitOptions,
        done: Done,
    ) -> Result<(), Refusal> {
        let fake = &self.0;
        fake.names.lock().unwrap().push(name);
        fake.formats.lock().unwrap().push(format);
        fake.clients.lock().unwrap().push((options.client, options.max_outstanding));
        let live = Arc::clone(&fake.live);
        match fake.make {
            Make::BadFrom(step) if name.step >= step => {
                let error = forebay::Error::BufferBudget { need: 2, limit: 1 };
                done(Err(error.into()));
            }
            Make::Now | Make::BadFrom(_) | Make::TooLarge => match fake.buffers.clone() {
                None => finish(name, format.layout, &live, done),
                Some(buffers) => {
                    let lend = move || {
                        let mut buffer = buffers.acquire(pixels(name).len()).unwrap();
                        buffer.copy_from_slice(&pixels(name));
                        let pixels = Pixels::from(buffer);
                        let mut made = microbatch(name, format.layout, &live);
                        (made.payload, made.shared) =
                            (Bytes::from_owner(pixels.clone()), Some(pixels));
                        done(Ok(made));
                    };
                    std::thread::Builder::new().spawn(lend).unwrap();
                }
            },
            Make::After(delay) => {
                let make = move || {
                    std::thread::sleep(delay);
                    finish(name, format.layout, &live, done);
                };
                std::thread::Builder::new().spawn(make).unwrap();
            }
            Make::Held => fake.held.lock().unwrap().push((options.cancelled, done)),
        }
        Ok(())
    }

    fn fetch_ahead_limit(&self) -> u64 {
        self.0.ahead.get().map_or(0, |_ahead| u64::MAX)
    }

    fn fetch_ahead(&self, name: MicrobatchName) -> Option<FetchAhead> {
        self.0.ahead.get()?(name)
    }

    fn explain(&self, name: MicrobatchName, first: u32) -> Result<(String, u32), Refusal> {
        self.0.explained.lock().unwrap().push(niceness("/proc/thread-self/stat"));
        let name = format!("{name:?} from {first}");
        let bytes = self.0.explanation_bytes;
        Ok((if bytes == 0 { name } else { "x".repeat(bytes) }, 0))
    }
}

/// The niceness of the process or thread of a `stat` file.
pub(crate) fn niceness(stat: &str) -> i32 {
    let stat = std::fs::read_to_string(stat).unwrap();
    // The name, which may have spaces, is in parentheses; the niceness is 17 fields after it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(16).unwrap().parse().unwrap()
}

/// A running server.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    report: JoinHandle<Report>,
}

pub(crate) async fn start(make: Make, setup: impl Into<Setup>) -> Server {
    let classes = vec!["cat".into(), "dog".into()];
    start_fake(Fake::new(make, classes, 0), setup).await
}

/// Starts a server of a dataset with given classes, whose explanations have `explanation_bytes`.
pub(crate) async fn start_with(
    classes: Vec<String>,
    explanation_bytes: usize,
    limits: Limits,
) -> Server {
    start_fake(Fake::new(Make::Now, classes, explanation_bytes), limits).await
}

async fn start_fake(fake: Arc<Fake>, setup: impl Into<Setup>) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    serve(fake, listener.into(), address, setup)
}

/// Starts a server that listens on a Unix socket and, if it has buffers to lend, beside it.
pub(crate) async fn start_at(path: &Path, fake: Arc<Fake>, setup: impl Into<Setup>) -> Server {
    let addresses = [ListenAddress::Unix(path.to_owned())];
    let listeners = Listeners::bind(&addresses, 0o600, fake.buffers.is_some()).await.unwrap();
    serve(fake, listeners, format!("unix:{}", path.display()), setup)
}

fn serve(
    fake: Arc<Fake>,
    listeners: Listeners,
    address: String,
    setup: impl Into<Setup>,
) -> Server {
    let (stop, stopped) = oneshot::channel();
    let source = Arc::new(FakeSource(Arc::clone(&fake)));
    let setup = setup.into();
    let shutdown = async { drop(stopped.await) };
    let report = tokio::spawn(forebay_server::run(listeners, source, setup, shutdown));
    Server { fake, address, stop: Some(stop), report }
}

impl Server {
    pub(crate) async fn channel(&self) -> Channel {
        Channel::from_shared(self.address.clone()).unwrap().connect().await.unwrap()
    }

    /// A stock client under its default limits.
    pub(crate) async fn client(&self) -> ForebayServiceClient<Channel> {
        ForebayServiceClient::new(self.channel().await)
    }

    /// Shuts the server down.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// What the server has done, once it has stopped.
    pub(crate) async fn report(self) -> Report {
        tokio::time::timeout(HANG, self.report).await.unwrap().unwrap()
    }
}

pub(crate) fn job() -> v1::Job {
    v1::Job { dataset: "pets".into(), seed: 7, ..v1::Job::default() }
}

pub(crate) fn steps(steps: u64) -> StreamRequest {
    StreamRequest { job: Some(job()), steps, ..StreamRequest::default() }
}

/// The next microbatch of a stream, joined and checked; `None` at its end.
pub(crate) async fn next(
    stream: &mut Streaming<Frame>,
) -> Result<Option<(Header, Vec<u8>)>, Status> {
    let mut join = Join::new(MICROBATCH_BYTES);
    while let Some(frame) = stream.message().await? {
        assert!(frame.payload.len() <= FRAME_BYTES);
        assert!(frame.encoded_len() < 4 << 20);
        if let Some(whole) = join.push(frame).unwrap() {
            return Ok(Some(whole));
        }
    }
    join.end().unwrap();
    Ok(None)
}

/// Reads a stream to its end: the names of its microbatches, and how it ended.
pub(crate) async fn drain(
    stream: &mut Streaming<Frame>,
) -> (Vec<MicrobatchName>, Result<(), Status>) {
    let mut names = Vec::new();
    loop {
        match next(stream).await {
            Ok(Some((header, payload))) => {
                let Header { seed, epoch, step, microbatch: index, .. } = header;
                let name = MicrobatchName { seed, epoch, step, index };
                assert!(payload == pixels(name), "pixels of {name:?}");
                names.push(name);
            }
            Ok(None) => return (names, Ok(())),
            Err(status) => return (names, Err(status)),
        }
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, held).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
