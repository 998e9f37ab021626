//! Memory: all of it is declared, and what large pictures take returns.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use forebay::{DType, Error, Pipeline, PipelineConfig, PixelFormat, Request, Size, dataset};
use forebay_client::{Client, Cursor, End, Job, Options, Rank};
use forebay_server::Limits;
use forebay_tests::HANG;
use forebay_tests::fuzz::seeds::Jpeg;
use forebay_tests::process::ServerProcess;
use forebay_tests::world::{SMALL, Server, WORLD, recipe, request};
use forebay_types::process::Memory;
use tokio::time::timeout;

/// Bytes of a microbatch of 2 samples of 48 x 48 in f32.
const PAYLOAD: usize = 2 * Size::square(48).rgb_bytes() * 4;

fn with_workers_of(worker_bytes: usize, buffer_bytes: usize) -> Pipeline {
    let config = PipelineConfig { worker_bytes, buffer_bytes, ..PipelineConfig::default() };
    Pipeline::new(config).unwrap()
}

#[test]
fn workers_that_borrow_make_the_same_bytes_and_return_the_loan() {
    let recipe = recipe("a2", &[]);
    let format = PixelFormat { dtype: DType::F32, ..PixelFormat::default() };
    let usual = with_workers_of(64 << 20, 256 << 20);
    let borrowing = with_workers_of(0, 256 << 20);
    for (step, index) in [(0, 0), (0, 1), (2, 5)] {
        let request = Request { format, ..request(&recipe, 0, step, index) };
        let made = borrowing.make(request.clone()).unwrap();
        assert_eq!(made.payload[..], usual.make(request).unwrap().payload[..]);
        let cached = borrowing.queue_stats().cache_bytes;
        drop(made);
        assert_eq!(borrowing.buffers().bytes_in_use(), cached, "{step}, {index}");
    }
}

#[test]
fn a_picture_for_which_there_is_no_memory_is_refused_before_it_is_read() {
    let recipe = recipe("a2", &[]);
    let format = PixelFormat { dtype: DType::F32, ..PixelFormat::default() };
    let pipeline = with_workers_of(0, PAYLOAD);
    let request = Request { format, ..request(&recipe, 0, 0, 0) };
    let refused = [
        pipeline.check(&request.dataset, &recipe, format, 2).unwrap_err(),
        pipeline.check_records(&request.dataset).unwrap_err(),
        pipeline.make(request).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, Error::BufferBudget { .. }), "{error}");
        assert!(error.to_string().contains("--memory"), "{error}");
    }
    assert_eq!(pipeline.totals().decoded, 0);
}

#[tokio::test]
async fn a_stream_of_microbatches_of_more_than_half_of_the_buffers_is_refused() {
    let pipeline = Arc::new(with_workers_of(64 << 20, 2 * PAYLOAD - 1));
    let server = Server::of(&WORLD.dataset, pipeline, Limits::default()).await;
    let format = PixelFormat { dtype: DType::F32, ..PixelFormat::default() };
    for (format, refused) in [(PixelFormat::default(), false), (format, true)] {
        let options = Options { format, ..Options::new([format!("http://{}", server.address)]) };
        let client = Client::connect(options).unwrap();
        let job = Job { set: SMALL.map(str::to_owned).to_vec(), ..Job::new("train", "a2") };
        let (cursor, end) = (Cursor::default(), End::Steps(1));
        let first = async {
            let mut stream = client.stream(&job, cursor, end, Rank::SINGLE).await?;
            stream.next().await.expect("an answer")
        };
        let first = timeout(HANG, first).await.expect("an answer");
        assert_eq!(first.is_err(), refused, "{first:?}");
        if let Err(error) = first {
            assert!(format!("{error:?}").contains("half of the buffers"), "{error:?}");
        }
    }
}

/// A server in a process of its own.
fn start(train: &Path, flags: &[&str]) -> ServerProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("forebay").env("RUST_LOG", "warn");
    let dataset = format!("train={}", train.display());
    ServerProcess::start(&mut command, None, &[&["--dataset", &dataset], flags].concat())
}

#[tokio::test]
async fn a_server_returns_the_memory_of_large_pictures_and_stays_within_its_budget() {
    const BUDGET: u64 = 640 << 20;
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("a");
    std::fs::create_dir(&class).unwrap();
    // 24 megapixels, 72 MB of RGB; as progressive files, as much again and more of coefficients.
    let files = [0, 4].map(|scans| Jpeg { size: (6000, 4000), scans, ..Jpeg::USUAL }.encode());
    for number in 0..4 {
        std::fs::write(class.join(format!("{number}.jpg")), &files[number % 2]).unwrap();
    }
    for number in 4..8 {
        std::fs::write(class.join(format!("{number}.jpg")), Jpeg::USUAL.encode()).unwrap();
    }
    dataset::build(folder.path(), None, 1, &|_| {}).unwrap();
    let budget = BUDGET.to_string();
    let server = start(folder.path(), &["--memory", &budget, "--threads", "2"]);
    let client = Client::connect(Options::new([server.address()])).unwrap();
    let set = ["batch = 4", "microbatches = 1", "image_size = 48", "crop.resize = 48"];
    let job = Job { set: set.map(str::to_owned).to_vec(), ..Job::new("train", "eval") };
    let before = server.memory().resident;
    let (cursor, end) = (Cursor::default(), End::Steps(4));
    let mut stream = client.stream(&job, cursor, end, Rank::SINGLE).await.unwrap();
    while let Some(next) = timeout(HANG, stream.next()).await.expect("the stream goes on") {
        next.unwrap();
    }
    let Memory { resident, peak_resident, .. } = server.memory();
    println!("{} MiB, at most {} MiB", resident >> 20, peak_resident >> 20);
    assert!(peak_resident < BUDGET, "{peak_resident} bytes");
    // Each of the two workers may keep 32 MiB, and code, buffers and the allocator take some. One picture whose memory was
    // kept takes more than 200 MB.
    assert!(resident < before + (96 << 20), "{before} bytes, then {resident}");
}
