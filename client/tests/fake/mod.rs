//! A server whose microbatches are a function of their names, with faults that a test plans.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_proto::v1;
use forebay_proto::v1::forebay_service_server::{ForebayService, ForebayServiceServer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status};

/// The server's dataset and recipe.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    /// The first byte of both digests.
    pub(crate) version: u8,
    pub(crate) records: u64,
    pub(crate) repeats: u64,
    /// Whether it is an evaluation, whose last step has what is left, and maybe not every microbatch.
    pub(crate) sequential: bool,
    pub(crate) batch: u32,
    pub(crate) microbatches: u32,
    pub(crate) image_size: u32,
    /// Payload bytes of a frame.
    pub(crate) frame: usize,
}

impl Default for Data {
    /// 5 steps per epoch, 4 microbatches per step, 6 samples per microbatch.
    fn default() -> Self {
        Self {
            version: 1,
            records: 121,
            repeats: 1,
            sequential: false,
            batch: 24,
            microbatches: 4,
            image_size: 8,
            frame: 500,
        }
    }
}

/// A fault in the middle of a microbatch.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The response ends as if it were complete.
    Truncated,
    /// The response ends with this status.
    Status(Status),
    /// A byte of the payload is changed.
    Corrupt,
    /// Nothing more is sent.
    Hang,
    /// The next microbatch is sent instead.
    Order,
    /// The header has another recipe's digest.
    Recipe,
    /// A frame is missing.
    Gap,
    /// A record number is wrong, although the payload's hash is right.
    Record,
}

/// A fault in the microbatch of that number, counted from 0 over all that the server sends, and if the
/// last value is true also in every later one.
pub(crate) type Plan = Option<(u64, Fault, bool)>;

/// Epoch, step and index of each microbatch that was begun.
type Served = Arc<Mutex<Vec<(u64, u64, u32)>>>;

/// A running server. Dropping it kills it, with all its connections.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    begun: Arc<AtomicU64>,
    served: Served,
    /// One reference of each open stream, and one of the server.
    open: Arc<()>,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start(data: Data, plan: Plan) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), data, plan)
    }

    /// Starts on a port that a server used until a moment ago.
    pub(crate) fn at(address: SocketAddr, data: Data, plan: Plan) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let begun = Arc::new(AtomicU64::new(0));
        let (plan, served) = (Arc::new(Mutex::new(plan)), Served::default());
        let service = Service {
            data,
            plan,
            begun: Arc::clone(&begun),
            served: Arc::clone(&served),
            open: Arc::default(),
        };
        let open = Arc::clone(&service.open);
        // On another thread, because block_on panics in asynchronous code.
        let start = move || {
            handle.block_on(async move {
                let listener = loop {
                    match TcpListener::bind(address).await {
                        Ok(listener) => break listener,
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                };
                let address = listener.local_addr().unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(ForebayServiceServer::new(service))
                    .serve_with_incoming(TcpListenerStream::new(listener));
                tokio::spawn(server);
                address
            })
        };
        let thread = std::thread::Builder::new().name("start".into()).spawn(start).unwrap();
        let address = thread.join().unwrap();
        Self { address, begun, served, open, runtime: Some(runtime) }
    }

    /// The service of a server without faults, without a network.
    pub(crate) fn service(data: Data) -> ForebayServiceServer<impl ForebayService> {
        let (plan, begun, open) = (Arc::default(), Arc::default(), Arc::default());
        ForebayServiceServer::new(Service { data, plan, begun, served: Served::default(), open })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Number of microbatches that the server began to send.
    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Number of streams that the server has not ended.
    pub(crate) fn open_streams(&self) -> usize {
        // Besides the streams, this and the service hold a reference.
        Arc::strong_count(&self.open) - 2
    }

    /// Their names.
    pub(crate) fn served(&self) -> Vec<(u64, u64, u32)> {
        self.served.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Data {
    /// 27 records: an evaluation whose second and last step has 3 of 4 microbatches.
    pub(crate) fn evaluation() -> Self {
        Self { records: 27, sequential: true, frame: 100, ..Self::default() }
    }

    fn samples_per_epoch(&self) -> u64 {
        let whole = self.records / u64::from(self.batch) * u64::from(self.batch);
        if self.sequential { self.records } else { whole }
    }

    pub(crate) fn steps_per_epoch(&self) -> u64 {
        self.samples_per_epoch().div_ceil(self.batch.into())
    }

    /// Number of microbatches of a step that have samples.
    pub(crate) fn microbatches_of(&self, step: u64) -> u32 {
        let left = self.samples_per_epoch() - step * u64::from(self.batch);
        u32::try_from(left.min(self.microbatches.into())).unwrap()
    }

    pub(crate) fn digest(&self, of: u8) -> Vec<u8> {
        let mut digest = vec![of; 32];
        digest[0] = self.version;
        digest
    }

    /// The microbatch of a name.
    pub(crate) fn microbatch(
        &self,
        seed: u64,
        epoch: u64,
        step: u64,
        index: u32,
    ) -> (v1::Header, Vec<u8>) {
        let (batch, groups) = (u64::from(self.batch), u64::from(self.microbatches));
        let positions = (step * batch..self.samples_per_epoch().min((step + 1) * batch))
            .filter(|p| p % groups == u64::from(index));
        let record = |p: u64| (p / self.repeats * 7 + epoch * 31 + seed) % self.records;
        let records: Vec<u64> = positions.map(record).collect();
        let n = u32::try_from(records.len()).unwrap();
        let shape = vec![n, self.image_size, self.image_size, 3];
        let length: u32 = shape.iter().product();
        let mut state = (seed << 48) ^ (epoch << 32) ^ (step << 8) ^ u64::from(index);
        let payload: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let label = |record: &u64| u32::try_from(record % CLASSES.len() as u64).unwrap();
        let header = v1::Header {
            epoch,
            step,
            microbatch: index,
            seed,
            dataset_digest: self.digest(1).into(),
            recipe_digest: self.digest(2).into(),
            dtype: v1::DType::DtypeU8.into(),
            layout: v1::Layout::Nhwc.into(),
            shape,
            payload_bytes: payload.len() as u64,
            payload_xxh3: xxhash_rust::xxh3::xxh3_64(&payload),
            label_a: records.iter().map(label).collect(),
            label_b: records.iter().rev().map(label).collect(),
            lambda: vec![0.75; records.len()],
            records,
            mix: None,
            timings: Some(v1::ServerTimings {
                decode: 1500,
                make: 900,
                ..v1::ServerTimings::default()
            }),
            targets_xxh3: None,
            lease: 0,
        };
        (header, payload)
    }
}

#[derive(Debug)]
struct Service {
    data: Data,
    plan: Arc<Mutex<Plan>>,
    begun: Arc<AtomicU64>,
    served: Served,
    open: Arc<()>,
}

type Frames = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Frame, Status>> + Send>>;
type Sender = mpsc::Sender<Result<v1::Frame, Status>>;

impl Service {
    fn check(&self, job: Option<v1::Job>) -> Result<v1::Job, Status> {
        let job = job.ok_or_else(|| {
            Status::invalid_argument("invalid job: missing (expected a dataset and a recipe)")
        })?;
        if job.dataset != "tiny" {
            let message = format!("unknown dataset {:?}: this server has tiny", job.dataset);
            return Err(Status::not_found(message));
        }
        let digests = [
            ("dataset", &job.dataset_digest, self.data.digest(1)),
            ("recipe", &job.recipe_digest, self.data.digest(2)),
        ];
        for (what, expected, own) in digests {
            if !expected.is_empty() && *expected != own {
                let message = format!("the client expects the {what} with another digest");
                return Err(Status::failed_precondition(message));
            }
        }
        Ok(job)
    }

    /// The fault of the microbatch that begins now.
    fn fault(&self) -> Option<Fault> {
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        let mut plan = self.plan.lock().unwrap();
        let (at, fault, always) = plan.clone()?;
        if number < at {
            return None;
        }
        if !always {
            *plan = None;
        }
        Some(fault)
    }

    /// Sends one microbatch. Returns whether to continue.
    async fn send(&self, seed: u64, name: (u64, u64, u32), sender: &Sender) -> bool {
        let fault = self.fault();
        let (epoch, step, index) = name;
        self.served.lock().unwrap().push(name);
        let other =
            matches!(fault, Some(Fault::Order)).then_some((index + 1) % self.data.microbatches);
        let (mut header, mut payload) =
            self.data.microbatch(seed, epoch, step, other.unwrap_or(index));
        match &fault {
            Some(Fault::Corrupt) => payload[600] ^= 4,
            Some(Fault::Recipe) => header.recipe_digest = self.data.digest(9).into(),
            Some(Fault::Record) => header.records[0] = header.records[1],
            _ => {}
        }
        let payload = bytes::Bytes::from(payload);
        let mut header = Some(header);
        for (at, from) in (0..payload.len()).step_by(self.data.frame).enumerate() {
            match &fault {
                Some(Fault::Truncated) if at == 1 => return false,
                Some(Fault::Hang) if at == 1 => std::future::pending().await,
                Some(Fault::Status(status)) if at == 1 => {
                    sender.send(Err(status.clone())).await.ok();
                    return false;
                }
                Some(Fault::Gap) if at == 1 => continue,
                _ => {}
            }
            let piece = payload.slice(from..payload.len().min(from + self.data.frame));
            let frame = v1::Frame { header: header.take(), offset: from as u64, payload: piece };
            if sender.send(Ok(frame)).await.is_err() {
                return false;
            }
        }
        true
    }

    fn clone_for_task(&self) -> Self {
        Self {
            data: self.data.clone(),
            plan: Arc::clone(&self.plan),
            begun: Arc::clone(&self.begun),
            served: Arc::clone(&self.served),
            open: Arc::clone(&self.open),
        }
    }
}

/// Names of the classes; labels are below their number.
pub(crate) const CLASSES: [&str; 10] =
    ["ant", "bee", "cat", "dog", "eel", "fox", "goat", "hare", "ibis", "jay"];
/// Samples of a plan, one in each response.
const SAMPLES: u32 = 3;

#[tonic::async_trait]
impl ForebayService for Service {
    type StreamStream = Frames;
    type FetchStream = Frames;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        let v1::DescribeRequest { job, first_class } = request.into_inner();
        self.check(job)?;
        // Three names for each response.
        let classes = CLASSES.iter().skip(usize::try_from(first_class).unwrap()).take(3);
        Ok(Response::new(v1::DescribeResponse {
            server_version: "fake".into(),
            classes: classes.map(|name| (*name).to_owned()).collect(),
            class_count: CLASSES.len() as u64,
            dataset_digest: self.data.digest(1).into(),
            records: self.data.records,
            recipe_digest: self.data.digest(2).into(),
            samples_per_epoch: self.data.samples_per_epoch(),
            steps_per_epoch: self.data.steps_per_epoch(),
            batch: self.data.batch,
            microbatches: self.data.microbatches,
            image_size: self.data.image_size,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
            ..v1::DescribeResponse::default()
        }))
    }

    async fn stream(
        &self,
        request: Request<v1::StreamRequest>,
    ) -> Result<Response<Frames>, Status> {
        let request = request.into_inner();
        let seed = self.check(request.job)?.seed;
        if request.step >= self.data.steps_per_epoch() {
            return Err(Status::out_of_range("step or microbatch is out of range"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone_for_task();
        tokio::spawn(async move {
            let (mut epoch, mut step, mut skip) =
                (request.epoch, request.step, request.skip as usize);
            for _ in 0..request.steps {
                let there = service.data.microbatches_of(step);
                let has = request.microbatches.iter().filter(|index| **index < there);
                for index in has.skip(skip) {
                    if !service.send(seed, (epoch, step, *index), &sender).await {
                        return;
                    }
                }
                skip = 0;
                step += 1;
                if step == service.data.steps_per_epoch() {
                    (epoch, step) = (epoch + 1, 0);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Frames>, Status> {
        let request = request.into_inner();
        let seed = self.check(request.job)?.seed;
        if request.step >= self.data.steps_per_epoch()
            || request.microbatch >= self.data.microbatches_of(request.step)
        {
            return Err(Status::out_of_range("step or microbatch is out of range"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone_for_task();
        tokio::spawn(async move {
            service.send(seed, (request.epoch, request.step, request.microbatch), &sender).await
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        self.check(request.job)?;
        let (step, sample) = (request.step, request.first_sample);
        let json = format!("{{\"step\":{step},\"samples\":[{sample}]}}");
        Ok(Response::new(v1::ExplainResponse { json, next_sample: (sample + 1) % SAMPLES }))
    }
}
