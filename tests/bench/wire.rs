//! CPU time of sending and receiving, in plain text and over TLS, without the pipeline.
//!
//! Server and client run on one thread each, whose CPU time is measured. Run with
//! `cargo bench -p forebay-tests --bench wire`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "tests use the rest")]
#[path = "../../server/tests/service/certificates.rs"]
mod certificates;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use bytes::Bytes;
use certificates::Authority;
use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_proto::v1::{self, DescribeResponse};
use forebay_server::{
    Access, AccessFiles, Done, Limits, MicrobatchName, OpenJob, PixelFormat, Refusal, Setup,
    Source, SubmitOptions, Timings, WireMicrobatch,
};
use forebay_types::process::thread_cpu_time;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

/// A microbatch has 256 images of 224 x 224, as in the paper.
const IMAGES: u32 = 256;
const SIDE: u32 = 224;
const MICROBATCHES: u32 = 8;
const STEPS: u64 = 10;
const ROUNDS: usize = 9;

/// The response to every request.
struct Ready {
    facts: DescribeResponse,
    classes: Vec<String>,
    payload: Bytes,
    xxh3: u64,
}

struct Always(Arc<Ready>);

impl Source for Always {
    fn datasets(&self) -> Vec<String> {
        vec!["train".into()]
    }

    fn open(&self, _job: &v1::Job) -> Result<Arc<dyn OpenJob>, Refusal> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }
}

impl OpenJob for Always {
    fn facts(&self) -> &DescribeResponse {
        &self.0.facts
    }

    fn classes(&self) -> &[String] {
        &self.0.classes
    }

    fn microbatches(&self, _step: u64) -> u32 {
        MICROBATCHES
    }

    fn check(&self, _format: PixelFormat) -> Result<(), Refusal> {
        Ok(())
    }

    fn submit(
        &self,
        _: MicrobatchName,
        _: PixelFormat,
        _: SubmitOptions,
        done: Done,
    ) -> Result<(), Refusal> {
        let images = IMAGES as usize;
        done(Ok(WireMicrobatch {
            payload: self.0.payload.clone(),
            shared: None,
            shape: [IMAGES, SIDE, SIDE, 3],
            records: vec![0; images],
            label_a: vec![0; images],
            label_b: vec![0; images],
            lambda: vec![1.0; images],
            mix: None,
            xxh3: self.0.xxh3,
            timings: Timings::default(),
        }));
        Ok(())
    }

    fn explain(&self, _name: MicrobatchName, _first: u32) -> Result<(String, u32), Refusal> {
        Ok((String::new(), 0))
    }
}

fn source() -> Always {
    let pixels =
        (0..IMAGES * SIDE * SIDE * 3).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
    let payload: Bytes = pixels.collect::<Vec<u8>>().into();
    let facts = DescribeResponse {
        dataset_digest: Bytes::from_static(&[1; 32]),
        recipe_digest: Bytes::from_static(&[2; 32]),
        records: 1 << 20,
        samples_per_epoch: 1 << 20,
        steps_per_epoch: 512,
        batch: IMAGES * MICROBATCHES,
        microbatches: MICROBATCHES,
        image_size: SIDE,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
        ..DescribeResponse::default()
    };
    let xxh3 = xxh3_64(&payload);
    Always(Arc::new(Ready { facts, classes: vec!["one".into()], payload, xxh3 }))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// CPU seconds per GB of the server and of the client.
fn round(authority: &Authority, tls: bool) -> [f64; 2] {
    let (sender, address) = sync_channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut files = AccessFiles::default();
    if tls {
        let certificate = authority.certify("localhost");
        files.tls_cert = Some(certificate.cert);
        files.tls_key = Some(certificate.key);
    }
    let server = thread::Builder::new().spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let access = Arc::new(Access::new(files).unwrap());
            let setup = Setup { access, ..Setup::from(Limits::default()) };
            let source = Arc::new(source());
            let begun = thread_cpu_time();
            forebay_server::run(listener, source, setup, async { drop(stopped.await) }).await;
            thread_cpu_time().saturating_sub(begun)
        })
    });
    let mut options = Options::new([address.recv().unwrap().to_string()]);
    if tls {
        options.access.tls_ca = Some(authority.ca());
        options.access.tls_name = Some("localhost".into());
    }
    let begun = thread_cpu_time();
    let bytes = runtime().block_on(async {
        let client = Client::connect(options).unwrap();
        let job = Job::new("train", "a2");
        let end = End::Steps(STEPS);
        let mut stream = client.stream(&job, Cursor::default(), end, Rank::SINGLE).await.unwrap();
        let mut bytes = 0;
        while let Some(microbatch) = stream.next().await {
            bytes += microbatch.unwrap().pixels.len();
        }
        bytes
    });
    let client = thread_cpu_time().saturating_sub(begun);
    stop.send(()).unwrap();
    let server = server.unwrap().join().unwrap();
    [server, client].map(|cpu| cpu.as_secs_f64() / (bytes as f64 / 1e9))
}

fn main() {
    let authority = Authority::new();
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (tls, rounds) in rounds.iter_mut().enumerate() {
            rounds.push(round(&authority, tls == 1));
        }
    }
    for (name, rounds) in ["plain text", "TLS 1.3"].iter().zip(rounds) {
        let median = |side: usize| {
            let mut values: Vec<f64> = rounds.iter().map(|round| round[side]).collect();
            values.sort_by(f64::total_cmp);
            values[ROUNDS / 2]
        };
        println!("{name:<10}  server {:.3}  client {:.3} CPU s/GB", median(0), median(1));
    }
}
