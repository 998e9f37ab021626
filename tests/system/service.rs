//! Servers and clients on loopback: a microbatch has the same content from every server and by every call.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use forebay::dataset::{self, Dataset};
use forebay_client::{
    Client, Cursor, Digest, End, Error, Job, Microbatch, MicrobatchName, Options, Rank,
};
use forebay_loadtest::Report;
use forebay_server::Limits;

use forebay_tests::world::{SMALL, Server, WORLD, pipeline, recipe, request};

fn job(base: &str, set: &[&str]) -> Job {
    let resize = ["crop.resize = 50"];
    let resize: &[&str] = if base == "eval" { &resize } else { &[] };
    let set = SMALL.iter().chain(resize).chain(set).map(|change| (*change).to_owned());
    Job { set: set.collect(), seed: 5, ..Job::new("train", base) }
}

fn client(servers: &[&Server]) -> Client {
    Client::connect(Options::new(servers.iter().map(|server| server.endpoint()))).unwrap()
}

/// A microbatch's name, pixels, records, and the bits of its labels and mixing weights.
type Content = (MicrobatchName, Vec<u8>, Vec<u64>, [Vec<u32>; 3]);

fn content(made: &Microbatch) -> Content {
    let lambda = made.lambda.iter().map(|value| value.to_bits()).collect();
    let targets = [made.label_a.clone(), made.label_b.clone(), lambda];
    (made.name, made.pixels.to_vec(), made.records.clone(), targets)
}

async fn collect(
    client: &Client,
    job: &Job,
    from: Cursor,
    steps: u64,
    rank: Rank,
) -> Result<Vec<Content>, Error> {
    let mut stream = client.stream(job, from, End::Steps(steps), rank).await?;
    let mut received = Vec::new();
    while let Some(made) = stream.next().await {
        received.push(content(&made?));
    }
    Ok(received)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_of_a_million_classes_is_described_and_streamed() {
    let folder = tempfile::tempdir().unwrap();
    let (members, shard) = (folder.path().join("members"), folder.path().join("train.tar"));
    fs::create_dir(&members).unwrap();
    for id in 0..16 {
        let place = |suffix| members.join(format!("{id:02}.{suffix}"));
        let good = WORLD.dataset.good_or_next(id);
        fs::copy(WORLD.train().join(WORLD.dataset.name(good)), place("jpg")).unwrap();
        fs::write(place("cls"), (999_984 + id).to_string()).unwrap();
    }
    let mut command = Command::new("tar");
    command.args(["--sort=name", "-cf"]).arg(&shard).arg("-C").arg(&members).arg(".");
    assert!(command.status().unwrap().success());
    dataset::build(&shard, None, 2, &|_| {}).unwrap();
    let opened = Arc::new(Dataset::open(&shard, None).unwrap());
    let server = Server::of(&opened, Arc::new(pipeline(2)), Limits::default()).await;
    let (client, job) = (client(&[&server]), job("a2", &[]));
    let description = client.describe(&job).await.unwrap();
    assert_eq!(description.classes.len(), 1_000_000);
    assert_eq!(description.classes.last().unwrap(), "999999");
    let received = collect(&client, &job, Cursor::default(), 1, Rank::SINGLE).await.unwrap();
    let mut labels = received.iter().flat_map(|made| &made.3[0]);
    assert!(labels.all(|label| (999_984..1_000_000).contains(label)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_fetch_and_pipeline_agree_on_two_servers_and_after_a_restart() {
    let (one, two) = (Server::start(1).await, Server::start(4).await);
    let job = job("a2", &[]);
    let streamed =
        collect(&client(&[&one]), &job, Cursor::default(), 2, Rank::SINGLE).await.unwrap();
    assert_eq!(streamed.len(), 16);
    let (recipe, pipeline) = (recipe("a2", &[]), pipeline(3));
    for made in streamed.iter().rev() {
        let name = made.0;
        let fetched = client(&[&two]).fetch(&job, name.cursor(), name.index).await.unwrap();
        assert_eq!(&content(&fetched), made);
        let request = request(&recipe, name.epoch, name.step, name.index);
        assert_eq!(pipeline.make(request).unwrap().payload[..], made.1);
    }
    one.stop().await;
    let again = Server::start(2).await;
    let streamed_again =
        collect(&client(&[&again]), &job, Cursor::default(), 2, Rank::SINGLE).await.unwrap();
    assert_eq!(streamed_again, streamed);
}

#[tokio::test(flavor = "multi_thread")]
async fn worlds_of_1_2_4_and_8_train_on_the_same_bytes() {
    let server = Server::start(2).await;
    let (client, job) = (client(&[&server]), job("a2", &[]));
    let whole = collect(&client, &job, Cursor::default(), 3, Rank::SINGLE).await.unwrap();
    for world in [2, 4, 8] {
        let mut parts = Vec::new();
        for rank in 0..world {
            let rank = Rank { rank, world };
            parts.extend(collect(&client, &job, Cursor::default(), 3, rank).await.unwrap());
        }
        parts.sort();
        assert!(parts == whole, "world {world}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_resumed_at_any_step_continues_across_epochs() {
    let server = Server::start(2).await;
    let client = client(&[&server]);
    for base in ["a2", "eval"] {
        let job = job(base, &[]);
        let steps_per_epoch = client.describe(&job).await.unwrap().steps_per_epoch;
        let n = 2 * steps_per_epoch + 1;
        let start = Cursor { epoch: 1, step: 1 };
        let whole = collect(&client, &job, start, n, Rank::SINGLE).await.unwrap();
        for k in 0..=n {
            let mut parts = collect(&client, &job, start, k, Rank::SINGLE).await.unwrap();
            let from = start.after(k, steps_per_epoch);
            parts.extend(collect(&client, &job, from, n - k, Rank::SINGLE).await.unwrap());
            assert!(parts == whole, "{base}, resumed after {k} of {n} steps");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_returns_the_plan_of_the_served_microbatch() {
    let server = Server::start(1).await;
    let step = Cursor { epoch: 1, step: 2 };
    let text = client(&[&server]).explain(&job("a1", &[]), step, 3).await.unwrap();
    let served: serde_json::Value = serde_json::from_str(&text).unwrap();
    let planned = forebay::explain(&request(&recipe("a1", &[]), 1, 2, 3)).unwrap();
    assert_eq!(served, serde_json::to_value(planned).unwrap());
    let made = client(&[&server]).fetch(&job("a1", &[]), step, 3).await.unwrap();
    for (sample, record) in served["samples"].as_array().unwrap().iter().zip(&made.records) {
        assert_eq!(sample["record"], *record);
        assert_eq!(sample["file"], WORLD.dataset.name(*record));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_continues_where_one_stops() {
    let (one, two) = (Server::start(2).await, Server::start(2).await);
    let job = job("a2", &[]);
    let undisturbed =
        collect(&client(&[&two]), &job, Cursor::default(), 6, Rank::SINGLE).await.unwrap();
    let client = client(&[&one, &two]);
    let mut stream =
        client.stream(&job, Cursor::default(), End::Steps(6), Rank::SINGLE).await.unwrap();
    let mut received = vec![content(&stream.next().await.unwrap().unwrap())];
    let report = one.stop().await;
    assert!(report.microbatches < 48, "{report:?}");
    while let Some(made) = stream.next().await {
        received.push(content(&made.unwrap()));
    }
    assert!(received == undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexpected_recipe_or_dataset_digest_is_refused() {
    let server = Server::start(1).await;
    let client = client(&[&server]);
    let wrong = Some(Digest([7; 32]));
    for job in [
        Job { recipe_digest: wrong, ..job("a2", &[]) },
        Job { dataset_digest: wrong, ..job("a2", &[]) },
    ] {
        let error = client.describe(&job).await.unwrap_err().to_string();
        assert!(error.contains("0707"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_for_bad_requests_say_what_is_wrong() {
    let server = Server::start(1).await;
    let client = client(&[&server]);
    let unknown = Job::new("val", "a2");
    let error = client.describe(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("val") && error.contains("train"), "{error}");
    let error = client.describe(&Job::new("train", "a9")).await.unwrap_err().to_string();
    assert!(error.contains("a9") && error.contains("a1, a2, a3, eval"), "{error}");
    let error = client.describe(&Job::new("train", "a2")).await.unwrap_err().to_string();
    assert!(error.contains("60 samples") && error.contains("--batch"), "{error}");
    let past = Cursor { epoch: 0, step: 3 };
    let error = client.fetch(&job("a2", &[]), past, 0).await.unwrap_err().to_string();
    assert!(error.contains("step 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_would_overflow_the_stack_is_refused() {
    let server = Server::start(1).await;
    let client = client(&[&server]);
    // 80 tables for each of 41 keys, one inside of the other.
    let key = ["a"; 80].join(".");
    let deep = format!("{key} = {}1{}", format!("{{{key} = ").repeat(40), "}".repeat(40));
    let error = client.describe(&job("a2", &[&deep])).await.unwrap_err().to_string();
    assert!(error.contains("expected at most 512"), "{error}");
    client.describe(&job("a2", &[])).await.unwrap();
    server.stop().await;
}

async fn load(servers: &[&Server], trainers: u32, base: &str, set: &[&str]) -> Report {
    let endpoints = servers.iter().map(|server| server.endpoint());
    let client = Options::new(endpoints);
    let options = forebay_loadtest::Options::new(client, job(base, set), 3);
    forebay_loadtest::run(forebay_loadtest::Options { trainers, ..options }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_test_finds_no_violation_and_the_same_checksum_for_every_world() {
    let (one, two) = (Server::start(1).await, Server::start(3).await);
    for (base, set) in [("a2", &[][..]), ("a3", &["mix.mode = \"elem\""]), ("eval", &[])] {
        let alone = load(&[&one], 1, base, set).await;
        assert!(alone.violations.is_empty(), "{base}: {:?}", alone.violations);
        assert_eq!(alone.images, 48, "{base}");
        for trainers in [2, 8] {
            let many = load(&[&one, &two], trainers, base, set).await;
            assert!(many.violations.is_empty(), "{base}: {:?}", many.violations);
            assert_eq!(many.checksum, alone.checksum, "{base}, {trainers} trainers");
        }
    }
}
