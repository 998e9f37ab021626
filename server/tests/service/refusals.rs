//! What is refused, and what the client is told.

use bytes::Bytes;
use forebay_proto::v1::{
    DescribeRequest, ExplainRequest, FetchRequest, Job, Recipe, StreamRequest,
};
use forebay_server::Limits;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Make, drain, job, next, start, steps};

/// Checks a status, and that its message says each of some things.
fn assert_says(status: &Status, code: Code, says: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for part in says {
        assert!(status.message().contains(part), "{part:?} in {:?}", status.message());
    }
}

#[tokio::test]
async fn malformed_streams_are_refused_by_field() {
    let server = start(Make::Now, Limits { microbatches: 5, ..Limits::default() }).await;
    let mut client = server.client().await;
    let invalid = Code::InvalidArgument;
    let cases = [
        (StreamRequest { job: None, ..steps(1) }, invalid, "job: is missing"),
        (steps(0), invalid, "steps: 0 is not in 1 to"),
        (steps(u64::MAX), invalid, "steps: 18446744073709551615"),
        (StreamRequest { dtype: 99, ..steps(1) }, invalid, "dtype: 99"),
        (StreamRequest { layout: 7, ..steps(1) }, invalid, "layout: 7"),
        (StreamRequest { mixed_by: -1, ..steps(1) }, invalid, "mixed_by: -1"),
        (StreamRequest { skip: 4, ..steps(1) }, invalid, "skip: 4 leaves none of the 4 of step 0"),
        (StreamRequest { step: 2, skip: 3, ..steps(2) }, invalid, "skip: 3 leaves none of the 3"),
        (StreamRequest { epoch: u64::MAX, ..steps(1) }, invalid, "epoch: "),
        (
            StreamRequest { microbatches: vec![1, 1], ..steps(1) },
            invalid,
            "microbatches: lists 1 twice",
        ),
        (
            StreamRequest { microbatches: vec![0; 6], ..steps(1) },
            invalid,
            "microbatches: lists 6, at most 5",
        ),
        (
            StreamRequest { microbatches: vec![4], ..steps(1) },
            Code::OutOfRange,
            "microbatch 4 is out of range",
        ),
        (
            StreamRequest { step: 3, ..steps(1) },
            Code::OutOfRange,
            "step 3 is out of range: expected 0 to 2",
        ),
    ];
    for (request, code, says) in cases {
        assert_says(&client.stream(request).await.unwrap_err(), code, &[says]);
    }
    assert_eq!(server.fake.submitted(), 0);
}

#[tokio::test]
async fn a_microbatch_past_the_end_of_a_short_step_is_out_of_range() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let fetch =
        FetchRequest { job: Some(job()), step: 2, microbatch: 3, ..FetchRequest::default() };
    let says = ["microbatch 3 is out of range: expected 0 to 2"];
    assert_says(&client.fetch(fetch).await.unwrap_err(), Code::OutOfRange, &says);
    let explain = ExplainRequest { job: Some(job()), step: 2, microbatch: 3, epoch: 0 };
    assert_says(&client.explain(explain).await.unwrap_err(), Code::OutOfRange, &says);
}

#[tokio::test]
async fn an_unknown_dataset_is_answered_with_those_there_are() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let job = Some(Job { dataset: "../etc".into(), ..Job::default() });
    let status = client.describe(DescribeRequest { job }).await.unwrap_err();
    assert_says(&status, Code::NotFound, &["\"../etc\"", "pets"]);
}

#[tokio::test]
async fn a_wrong_digest_is_answered_with_both() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let right = job();
    let recipe = Job { recipe_digest: Bytes::from_static(&[1; 32]), ..right.clone() };
    let status = client.stream(StreamRequest { job: Some(recipe), ..steps(1) }).await.unwrap_err();
    let (expected, found) = ("01".repeat(32), "ec".repeat(32));
    assert_says(
        &status,
        Code::FailedPrecondition,
        &["recipe", &expected, &found, "image_size = 840"],
    );

    let dataset = Job { dataset_digest: Bytes::from_static(&[2; 32]), ..right.clone() };
    let status = client.describe(DescribeRequest { job: Some(dataset) }).await.unwrap_err();
    let (expected, found) = ("02".repeat(32), "da".repeat(32));
    assert_says(&status, Code::FailedPrecondition, &["dataset", &expected, &found, "24 records"]);

    let short = Job { dataset_digest: Bytes::from_static(&[2; 31]), ..right.clone() };
    let status = client.describe(DescribeRequest { job: Some(short) }).await.unwrap_err();
    assert_says(&status, Code::InvalidArgument, &["job.dataset_digest: has 31 bytes"]);

    let dataset_digest = Bytes::from_static(&[0xda; 32]);
    let recipe_digest = Bytes::from_static(&[0xec; 32]);
    let right = Job { dataset_digest, recipe_digest, ..right };
    client.describe(DescribeRequest { job: Some(right) }).await.unwrap();
}

#[tokio::test]
async fn an_oversize_request_is_refused() {
    let server = start(Make::Now, Limits::default()).await;
    let mut client = server.client().await;
    let recipe = Some(Recipe { toml: "#".repeat(64 << 10), ..Recipe::default() });
    let job = Some(Job { recipe, ..job() });
    let status = client.stream(StreamRequest { job: job.clone(), ..steps(1) }).await.unwrap_err();
    assert_says(&status, Code::InvalidArgument, &["request: has more than the 65536 bytes"]);
    let status = client.describe(DescribeRequest { job }).await.unwrap_err();
    assert_says(&status, Code::InvalidArgument, &["65536"]);
}

#[tokio::test]
async fn one_stream_too_many_is_told_when_to_try_again() {
    let server = start(Make::Held, Limits { streams: 1, ..Limits::default() }).await;
    let mut client = server.client().await;
    let first = client.stream(steps(1)).await.unwrap();
    let status = client.stream(steps(1)).await.unwrap_err();
    assert_says(&status, Code::ResourceExhausted, &["1 streams are open"]);
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(!retry.is_zero());
    drop(first);
    while let Err(status) = client.stream(steps(1)).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn an_error_of_the_pipeline_comes_after_the_microbatches_before_it() {
    let server = start(Make::BadFrom(1), Limits::default()).await;
    let mut stream = server.client().await.stream(steps(2)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    assert_eq!(names.len(), 4);
    assert_says(&end.unwrap_err(), Code::InvalidArgument, &["raise --buffer-bytes"]);
}

#[tokio::test]
async fn a_maker_that_drops_the_request_says_that_the_server_stops() {
    let server = start(Make::Held, Limits::default()).await;
    let mut stream = server.client().await.stream(steps(1)).await.unwrap().into_inner();
    crate::support::until("one is asked for", || server.fake.submitted() == 1).await;
    server.fake.held.lock().unwrap().clear();
    assert_says(&next(&mut stream).await.unwrap_err(), Code::Unavailable, &["ask another one"]);
}
