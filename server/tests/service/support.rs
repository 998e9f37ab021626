//! A server over a source of made-up microbatches, and what a test sees of both.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay_proto::frame::{FRAME_BYTES, Join};
use forebay_proto::v1::forebay_service_client::ForebayServiceClient;
use forebay_proto::v1::{self, DescribeResponse, Frame, Header, Layout, StreamRequest, Timings};
use forebay_server::{
    Done, Job, Microbatch, Name, Output, Refusal, Report, Requester, Setup, Source,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

/// Microbatches of 2 images of 840 x 840: 4 frames and a bit, more than a client's stream window.
pub(crate) const SIDE: u32 = 840;
pub(crate) const MICROBATCH_BYTES: u64 = 2 * 3 * 840 * 840;

/// How a source answers.
#[derive(Clone, Copy)]
pub(crate) enum Make {
    /// At once.
    Now,
    /// From a thread, after a while.
    After(Duration),
    /// When the test says so.
    Held,
    /// With an error, for steps from this one on.
    BadFrom(u64),
}

/// Steps of 4 microbatches, 3 to an epoch, the last of them with only 3.
pub(crate) struct Fake {
    facts: DescribeResponse,
    make: Make,
    pub(crate) names: Mutex<Vec<Name>>,
    pub(crate) outputs: Mutex<Vec<Output>>,
    /// Who asked, and how many each may have asked for.
    pub(crate) clients: Mutex<Vec<(Arc<str>, usize)>>,
    pub(crate) held: Mutex<Vec<(Arc<AtomicBool>, Done)>>,
    /// Buffers alive.
    pub(crate) live: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn new(make: Make) -> Arc<Self> {
        let facts = DescribeResponse {
            dataset_digest: Bytes::from_static(&[0xda; 32]),
            records: 24,
            classes: vec!["cat".into(), "dog".into()],
            recipe_digest: Bytes::from_static(&[0xec; 32]),
            recipe_toml: "image_size = 840\n".into(),
            samples_per_epoch: 22,
            steps_per_epoch: 3,
            batch: 8,
            microbatches: 4,
            image_size: SIDE,
            ..DescribeResponse::default()
        };
        let (names, outputs, held) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (clients, live) = (Mutex::default(), Arc::default());
        Arc::new(Self { facts, make, names, outputs, clients, held, live })
    }

    pub(crate) fn submitted(&self) -> usize {
        self.names.lock().unwrap().len()
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

/// A buffer of a ring, of which only the number counts.
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

/// The pixels that a name stands for.
pub(crate) fn pixels(name: Name) -> Vec<u8> {
    let key = [name.seed, name.epoch, name.step, u64::from(name.index)];
    let mut word = xxh3_64(&key.map(u64::to_le_bytes).concat());
    let words = (0..MICROBATCH_BYTES / 8).flat_map(|_| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.to_le_bytes()
    });
    words.collect()
}

fn microbatch(name: Name, layout: Layout, live: &Arc<AtomicUsize>) -> Microbatch {
    let pixels = pixels(name);
    let xxh3 = xxh3_64(&pixels);
    live.fetch_add(1, Ordering::SeqCst);
    Microbatch {
        payload: Bytes::from_owner(Buffer(pixels, Arc::clone(live))),
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

/// What `Done` gets for a name.
pub(crate) fn finish(name: Name, layout: Layout, live: &Arc<AtomicUsize>, done: Done) {
    done(Ok(microbatch(name, layout, live)));
}

pub(crate) struct FakeJob(Arc<Fake>);

pub(crate) struct FakeSource(Arc<Fake>);

impl Source for FakeSource {
    fn datasets(&self) -> Vec<String> {
        vec!["pets".into()]
    }

    fn open(&self, job: &v1::Job) -> Result<Arc<dyn Job>, Refusal> {
        if job.dataset == "pets" {
            Ok(Arc::new(FakeJob(Arc::clone(&self.0))))
        } else {
            Err(Refusal::UnknownDataset { name: job.dataset.clone(), served: self.datasets() })
        }
    }
}

impl Job for FakeJob {
    fn facts(&self) -> &DescribeResponse {
        &self.0.facts
    }

    fn microbatches(&self, step: u64) -> u32 {
        if step == 2 { 3 } else { 4 }
    }

    fn submit(
        &self,
        name: Name,
        output: Output,
        requester: Requester,
        done: Done,
    ) -> Result<(), Refusal> {
        let fake = &self.0;
        fake.names.lock().unwrap().push(name);
        fake.outputs.lock().unwrap().push(output);
        fake.clients.lock().unwrap().push((requester.client, requester.max_outstanding));
        let live = Arc::clone(&fake.live);
        match fake.make {
            Make::BadFrom(step) if name.step >= step => {
                let error = forebay::Error::BufferBudget { need: 2, limit: 1 };
                done(Err(error.into()));
            }
            Make::Now | Make::BadFrom(_) => finish(name, output.layout, &live, done),
            Make::After(delay) => {
                let make = move || {
                    std::thread::sleep(delay);
                    finish(name, output.layout, &live, done);
                };
                std::thread::Builder::new().spawn(make).unwrap();
            }
            Make::Held => fake.held.lock().unwrap().push((requester.cancelled, done)),
        }
        Ok(())
    }

    fn explain(&self, name: Name) -> Result<String, Refusal> {
        Ok(format!("{name:?}"))
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) fake: Arc<Fake>,
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    report: JoinHandle<Report>,
}

pub(crate) async fn start(make: Make, setup: impl Into<Setup>) -> Server {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let fake = Fake::new(make);
    let source = Arc::new(FakeSource(Arc::clone(&fake)));
    let setup = setup.into();
    let shutdown = async { drop(stopped.await) };
    let report = tokio::spawn(forebay_server::run(listener, source, setup, shutdown));
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

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// What the server did, once it stopped.
    pub(crate) async fn report(self) -> Report {
        tokio::time::timeout(Duration::from_secs(20), self.report).await.unwrap().unwrap()
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
pub(crate) async fn drain(stream: &mut Streaming<Frame>) -> (Vec<Name>, Result<(), Status>) {
    let mut names = Vec::new();
    loop {
        match next(stream).await {
            Ok(Some((header, payload))) => {
                let Header { seed, epoch, step, microbatch: index, .. } = header;
                let name = Name { seed, epoch, step, index };
                assert!(payload == pixels(name), "pixels of {name:?}");
                names.push(name);
            }
            Ok(None) => return (names, Ok(())),
            Err(status) => return (names, Err(status)),
        }
    }
}

/// Waits until something holds, or fails after ten seconds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("after 10 s it still does not hold that {what}");
}
