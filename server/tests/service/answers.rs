//! Answers of one message: what they may hold, whoever takes them, and what fits into them.

use std::time::Duration;

use forebay_proto::v1::{DescribeRequest, ExplainRequest, FetchRequest};
use forebay_server::Limits;
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;

use crate::raw::{
    DATA, END_STREAM, Frame, HEADERS, HELLO, RESET, Raw, SETTINGS, WINDOW_UPDATE, frame, headers,
    message,
};
use crate::support::{
    HANG, MICROBATCH_BYTES, Make, Server, job, next, niceness, patient, start, start_with, steps,
    until,
};

const SHORT: Duration = Duration::from_millis(300);

/// A preface, and settings that grant no window to streams.
fn hello_without_window() -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    [&HELLO[..24], &settings].concat()
}

fn explain() -> ExplainRequest {
    ExplainRequest { job: Some(job()), ..ExplainRequest::default() }
}

/// Begins calls of Explain and takes none of their answers. Returns how many of them were refused.
async fn explain_and_take_nothing(raw: &mut Raw, calls: u32) -> u32 {
    let body = message(&explain().encode_to_vec());
    for call in 0..calls {
        let stream = 2 * call + 1;
        let request = [headers(stream, "Explain"), frame(DATA, END_STREAM, stream, &body)];
        raw.send(&request.concat()).await.unwrap();
    }
    // Each answer begins with headers; those of refused calls also end it.
    let (mut begun, mut refused) = (0, 0);
    while begun < calls {
        let Frame { kind, flags, .. } = raw.next().await.unwrap().expect("an answer");
        begun += u32::from(kind == HEADERS);
        refused += u32::from(kind == HEADERS && flags & END_STREAM != 0);
    }
    refused
}

async fn raw(server: &Server) -> Raw {
    Raw::open(server.address.trim_start_matches("http://")).await.unwrap()
}

#[tokio::test]
async fn answers_that_are_not_taken_hold_bounded_bytes_and_end() {
    let limits = Limits { stall_timeout: 10 * SHORT, stall_linger: SHORT, ..patient() };
    // Four answers fit into what a connection may hold.
    let server = start_with(vec![], 1 << 20, limits).await;
    let mut other = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    let mut raw = raw(&server).await;
    raw.send(&hello_without_window()).await.unwrap();
    let calls = timeout(HANG, explain_and_take_nothing(&mut raw, 32)).await;
    assert_eq!(calls.expect("each call has an answer"), 32 - 3);
    assert_eq!(server.fake.explained.lock().unwrap().len(), 3, "what is refused is not made");
    next(&mut other).await.unwrap().expect("others are served");
    let reset = async { while raw.next().await.unwrap().unwrap().kind != RESET {} };
    timeout(HANG, reset).await.expect("what is not taken ends");
    next(&mut other).await.unwrap().expect("others are served");
    let mut client = server.client().await;
    assert_eq!(client.explain(explain()).await.unwrap().into_inner().json.len(), 1 << 20);
}

#[tokio::test]
async fn answers_are_made_at_a_lower_priority_than_microbatches() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.explain(explain()).await.unwrap();
    }
    let lower = (niceness("/proc/self/stat") + 19).min(19);
    assert_eq!(*server.fake.explained.lock().unwrap(), [lower; 3]);
}

#[tokio::test]
async fn explanations_count_as_streams() {
    let limits = Limits { max_streams: 2, ..patient() };
    let server = start_with(vec![], 1 << 20, limits).await;
    let mut raw = raw(&server).await;
    raw.send(&hello_without_window()).await.unwrap();
    let refused = timeout(HANG, explain_and_take_nothing(&mut raw, 2)).await;
    assert_eq!(refused.expect("each call has an answer"), 0);
    let mut client = server.client().await;
    let status = client.explain(explain()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("all 2 streams"), "{status:?}");
    drop(raw);
    let served = async {
        while client.explain(explain()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, served).await.expect("the slots are free");
}

#[tokio::test]
async fn a_finished_stream_whose_end_is_not_taken_loses_its_buffer_and_its_connection() {
    let limits = Limits { stall_timeout: SHORT, stall_linger: SHORT, ..patient() };
    let server = start(Make::Now, limits).await;
    let mut raw = raw(&server).await;
    let request = FetchRequest { job: Some(job()), ..FetchRequest::default() };
    raw.call("Fetch", &request.encode_to_vec()).await.unwrap();
    // The window is 10,000 bytes too small: the server queues the rest, and the end of the call.
    let all = MICROBATCH_BYTES - 10_000;
    let window = u32::try_from(all - 65_535).unwrap().to_be_bytes();
    let grants = [1, 0].map(|stream| frame(WINDOW_UPDATE, 0, stream, &window));
    raw.send(&grants.concat()).await.unwrap();
    let mut received = 0;
    while received < all {
        let answer = timeout(HANG, raw.next()).await.unwrap().unwrap().unwrap();
        received += answer.payload.len() as u64 * u64::from(answer.kind == DATA);
    }
    assert_eq!(server.fake.live(), 1);
    let closed = async { while raw.next().await.is_ok_and(|frame| frame.is_some()) {} };
    timeout(HANG, closed).await.expect("the connection is closed");
    until("the buffer is back", || server.fake.live() == 0).await;
}

#[tokio::test]
async fn a_client_with_default_limits_can_describe_a_million_classes() {
    let classes: Vec<String> = (0..1_000_000).map(|class| format!("n{class:08}")).collect();
    let server = start_with(classes.clone(), 0, patient()).await;
    let mut client = server.client().await;
    let (mut names, mut answers) = (Vec::new(), 0);
    while names.len() < classes.len() {
        let request = DescribeRequest { job: Some(job()), first_class: names.len() as u64 };
        let answer = client.describe(request).await.unwrap().into_inner();
        assert_eq!(answer.class_count, 1_000_000);
        assert!(!answer.classes.is_empty());
        names.extend(answer.classes);
        answers += 1;
    }
    assert!(names == classes);
    assert!((3..10).contains(&answers), "{answers}");
    let request = DescribeRequest { job: Some(job()), first_class: 1_000_000 };
    let past = client.describe(request).await.unwrap_err();
    assert_eq!(past.code(), Code::OutOfRange, "{past:?}");
}
