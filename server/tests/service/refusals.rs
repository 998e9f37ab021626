//! Refusals, and the status that the client gets.

use bytes::Bytes;
use forebay_proto::v1::{
    self, DescribeRequest, ExplainRequest, FetchRequest, Recipe, StreamRequest,
};
use forebay_server::Limits;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Make, drain, job, next, patient, start, steps};

/// Checks the code of a status, and that its message contains some parts.
fn assert_says(status: &Status, code: Code, parts: &[&str]) {
    assert_eq!(status.code(), code, "{status:?}");
    for part in parts {
        assert!(status.message().contains(part), "{part:?} in {:?}", status.message());
    }
}

#[tokio::test]
async fn malformed_streams_are_refused_with_the_invalid_field() {
    let server = start(Make::Now, Limits { max_selection: 5, ..patient() }).await;
    let mut client = server.client().await;
    let invalid = Code::InvalidArgument;
    let cases = [
        (StreamRequest { job: None, ..steps(1) }, invalid, "invalid job: missing"),
        (steps(0), invalid, "invalid steps: 0 (expected 1 to"),
        (steps(u64::MAX), invalid, "invalid steps: 18446744073709551615"),
        (StreamRequest { dtype: 99, ..steps(1) }, invalid, "invalid dtype: 99"),
        (StreamRequest { layout: 7, ..steps(1) }, invalid, "invalid layout: 7"),
        (StreamRequest { mixed_by: -1, ..steps(1) }, invalid, "invalid mixed_by: -1"),
        (StreamRequest { skip: 4, ..steps(1) }, invalid, "invalid skip: 4 (step 0 has 4"),
        (StreamRequest { step: 2, skip: 3, ..steps(2) }, invalid, "invalid skip: 3 (step 2 has 3"),
        (StreamRequest { epoch: u64::MAX, ..steps(1) }, invalid, "invalid epoch: "),
        (
            StreamRequest { microbatches: vec![1, 1], ..steps(1) },
            invalid,
            "invalid microbatches: 1 is listed twice",
        ),
        (
            StreamRequest { microbatches: vec![0; 6], ..steps(1) },
            invalid,
            "invalid microbatches: 6 entries (at most 5)",
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
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let fetch =
        FetchRequest { job: Some(job()), step: 2, microbatch: 3, ..FetchRequest::default() };
    let says = ["microbatch 3 is out of range: expected 0 to 2"];
    assert_says(&client.fetch(fetch).await.unwrap_err(), Code::OutOfRange, &says);
    let explain = ExplainRequest { job: Some(job()), step: 2, microbatch: 3, ..Default::default() };
    assert_says(&client.explain(explain).await.unwrap_err(), Code::OutOfRange, &says);
}

#[tokio::test]
async fn a_job_that_cannot_be_sent_is_refused_before_anything_is_submitted() {
    let server = start(Make::TooLarge, patient()).await;
    let mut client = server.client().await;
    let fetch = FetchRequest { job: Some(job()), ..FetchRequest::default() };
    let refused = [
        client.fetch(fetch).await.map(drop).unwrap_err(),
        client.stream(steps(1)).await.map(drop).unwrap_err(),
    ];
    for status in refused {
        assert_says(&status, Code::InvalidArgument, &["2 bytes"]);
    }
    assert_eq!(server.fake.submitted(), 0);
}

#[tokio::test]
async fn the_error_for_an_unknown_dataset_lists_the_known_ones() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let job = Some(v1::Job { dataset: "../etc".into(), ..v1::Job::default() });
    let status = client.describe(DescribeRequest { job, first_class: 0 }).await.unwrap_err();
    assert_says(&status, Code::NotFound, &["\"../etc\"", "pets"]);
}

#[tokio::test]
async fn the_error_for_a_wrong_digest_shows_both() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let right = job();
    let recipe = v1::Job { recipe_digest: Bytes::from_static(&[1; 32]), ..right.clone() };
    let status = client.stream(StreamRequest { job: Some(recipe), ..steps(1) }).await.unwrap_err();
    let (expected, found) = ("01".repeat(32), "ec".repeat(32));
    assert_says(
        &status,
        Code::FailedPrecondition,
        &["recipe", &expected, &found, "image_size = 840"],
    );

    let dataset = v1::Job { dataset_digest: Bytes::from_static(&[2; 32]), ..right.clone() };
    let status =
        client.describe(DescribeRequest { job: Some(dataset), first_class: 0 }).await.unwrap_err();
    let (expected, found) = ("02".repeat(32), "da".repeat(32));
    assert_says(&status, Code::FailedPrecondition, &["dataset", &expected, &found, "24 records"]);

    let short = v1::Job { dataset_digest: Bytes::from_static(&[2; 31]), ..right.clone() };
    let status =
        client.describe(DescribeRequest { job: Some(short), first_class: 0 }).await.unwrap_err();
    assert_says(&status, Code::InvalidArgument, &["invalid job.dataset_digest: 31 bytes"]);

    let dataset_digest = Bytes::from_static(&[0xda; 32]);
    let recipe_digest = Bytes::from_static(&[0xec; 32]);
    let right = v1::Job { dataset_digest, recipe_digest, ..right };
    client.describe(DescribeRequest { job: Some(right), first_class: 0 }).await.unwrap();
}

#[tokio::test]
async fn an_oversize_request_is_refused() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let recipe = Some(Recipe { toml: "#".repeat(64 << 10), ..Recipe::default() });
    let job = Some(v1::Job { recipe, ..job() });
    let status = client.stream(StreamRequest { job: job.clone(), ..steps(1) }).await.unwrap_err();
    assert_says(
        &status,
        Code::InvalidArgument,
        &["invalid request: exceeds the limit of 65536 bytes"],
    );
    let status = client.describe(DescribeRequest { job, first_class: 0 }).await.unwrap_err();
    assert_says(&status, Code::InvalidArgument, &["65536"]);
}

#[tokio::test]
async fn one_stream_too_many_is_refused_with_a_retry_delay() {
    let server = start(Make::Held, Limits { max_streams: 1, ..patient() }).await;
    let mut client = server.client().await;
    let first = client.stream(steps(1)).await.unwrap();
    let status = client.stream(steps(1)).await.unwrap_err();
    assert_says(&status, Code::ResourceExhausted, &["all 1 streams of this server are open"]);
    let retry = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(!retry.is_zero());
    drop(first);
    while let Err(status) = client.stream(steps(1)).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn an_error_of_the_pipeline_arrives_after_the_microbatches_before_it() {
    let server = start(Make::BadFrom(1), patient()).await;
    let mut stream = server.client().await.stream(steps(2)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    assert_eq!(names.len(), 4);
    assert_says(&end.unwrap_err(), Code::InvalidArgument, &["raise --buffer-bytes"]);
}

#[tokio::test]
async fn a_dropped_request_means_that_the_server_shuts_down() {
    let server = start(Make::Held, patient()).await;
    let mut stream = server.client().await.stream(steps(1)).await.unwrap().into_inner();
    crate::support::until("one is submitted", || server.fake.submitted() == 1).await;
    server.fake.held.lock().unwrap().clear();
    assert_says(&next(&mut stream).await.unwrap_err(), Code::Unavailable, &["from another server"]);
}
