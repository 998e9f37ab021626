//! Back-pressure: slow readers, readers that disconnect, a slow pipeline.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient;
use forebay_proto::v1::{Frame, StreamRequest};
use forebay_server::Limits;
use forebay_types::Layout;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::support::{
    MICROBATCH_BYTES, Make, Server, drain, finish, next, patient, start, steps, until,
};

/// Time in which a server would do what it must not do.
const WHILE: Duration = Duration::from_millis(300);

/// Stall timeout that a busy machine does not reach while a test reads. All of a test runs on one thread,
/// so that a pause of the machine delays reader and server alike.
const STALL: Duration = Duration::from_secs(5);

/// Checks that a stream that requests a window and is not read holds `expected` buffers.
async fn check_held(window_bytes: u64, limit: u64, expected: usize) {
    let limits = Limits { window_bytes: limit, ..patient() };
    let server = start(Make::Now, limits).await;
    let request = StreamRequest { window_bytes, ..steps(100) };
    let mut client = server.client().await;
    let mut stream = client.stream(request).await.unwrap().into_inner();
    // The window starts with one and grows with each delivery.
    until("one is computed", || server.fake.live() == 1).await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(server.fake.live(), 1);
    for _ in 0..5 {
        next(&mut stream).await.unwrap().unwrap();
    }
    until("the window is full", || server.fake.live() == expected).await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(server.fake.live(), expected);
    assert_eq!(server.fake.submitted(), 5 + expected, "submitted but not held");
    drop(stream);
    until("all buffers are back", || server.fake.live() == 0).await;
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_its_window() {
    check_held(3 * MICROBATCH_BYTES, 1 << 40, 3).await;
}

#[tokio::test]
async fn a_window_below_one_microbatch_allows_one() {
    check_held(1, 1 << 40, 1).await;
}

#[tokio::test]
async fn a_window_is_capped_by_the_servers_limit() {
    check_held(0, 2 * MICROBATCH_BYTES, 2).await;
    check_held(u64::MAX, 3 * MICROBATCH_BYTES - 1, 2).await;
}

#[tokio::test]
async fn a_slow_reader_never_holds_more_than_its_window() {
    let server = start(Make::Now, patient()).await;
    let request = StreamRequest { window_bytes: 2 * MICROBATCH_BYTES, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    for _ in 0..8 {
        next(&mut stream).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.fake.live() <= 2, "{}", server.fake.live());
    }
    assert_eq!(next(&mut stream).await.unwrap(), None);
}

#[tokio::test]
async fn a_stalled_reader_gets_the_reason_when_it_resumes() {
    let limits = Limits { stall_timeout: STALL, ..patient() };
    let server = start(Make::Now, limits).await;
    let mut stream = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stream).await.unwrap().unwrap();
    until("more than one is ahead", || server.fake.live() > 1).await;
    // Frames in the HTTP/2 queue stay until the reader accepts them; the rest is returned.
    until("the stream has ended", || server.fake.live() == 1).await;
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("accepted no data for 5s"), "{status:?}");
    until("all buffers are back", || server.fake.live() == 0).await;
}

#[tokio::test]
async fn a_stalled_reader_that_never_resumes_is_reset_and_others_continue() {
    let stall_linger = Duration::from_millis(100);
    let limits = Limits { stall_timeout: STALL, stall_linger, ..patient() };
    let mut server = start(Make::Now, limits).await;
    let mut client = server.client().await;
    let mut stalled = client.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stalled).await.unwrap().unwrap();
    until("more than one is ahead", || server.fake.live() > 1).await;
    until("all buffers are back", || server.fake.live() == 0).await;

    let mut other = client.stream(steps(1)).await.unwrap().into_inner();
    let (names, end) = drain(&mut other).await;
    end.unwrap();
    assert_eq!(names.len(), 4);
    assert_eq!(next(&mut stalled).await.unwrap_err().code(), Code::Cancelled);
    server.stop();
    assert_eq!(server.report().await.stalled, 1);
}

#[tokio::test]
async fn a_reader_that_waits_for_a_slow_pipeline_is_not_stalled() {
    let limits = Limits { stall_timeout: STALL, ..patient() };
    let server = start(Make::After(STALL + WHILE), limits).await;
    let request = StreamRequest { microbatches: vec![0], ..steps(1) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 1);
}

/// Completes a submitted microbatch and reads it, `times` times.
pub(crate) async fn complete_and_read(
    server: &Server,
    stream: &mut Streaming<Frame>,
    times: usize,
) {
    for at in 0..times {
        until("one is submitted", || !server.fake.held.lock().unwrap().is_empty()).await;
        let (_, done) = server.fake.held.lock().unwrap().remove(0);
        let name = server.fake.names.lock().unwrap()[at];
        finish(name, Layout::Nhwc, &server.fake.live, done);
        next(stream).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_stream_cancels_its_requests() {
    let server = start(Make::Held, patient()).await;
    let request = StreamRequest { window_bytes: 3 * MICROBATCH_BYTES, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    complete_and_read(&server, &mut stream, 3).await;
    until("three are submitted", || server.fake.held.lock().unwrap().len() == 3).await;
    let wanted = || {
        let held = server.fake.held.lock().unwrap();
        held.iter().filter(|(cancelled, _)| !cancelled.load(Ordering::Relaxed)).count()
    };
    assert_eq!(wanted(), 3);
    drop(stream);
    until("none is wanted", || wanted() == 0).await;
    assert_eq!(server.fake.submitted(), 6);
}

#[tokio::test]
async fn a_stream_submits_at_most_eight_at_once_whatever_its_window() {
    let server = start(Make::Held, Limits { window_bytes: 1 << 40, ..patient() }).await;
    let mut stream = server.client().await.stream(steps(10)).await.unwrap().into_inner();
    complete_and_read(&server, &mut stream, 12).await;
    until("eight are submitted", || server.fake.held.lock().unwrap().len() == 8).await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(server.fake.submitted(), 20);
}

/// The address of a proxy that forwards `bytes` from the server and then nothing, without an end.
async fn half_open(server: &Server, bytes: u64) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut far = TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let (far_read, mut far_write) = far.split();
        let (mut near_read, mut near_write) = near.split();
        let back = async {
            tokio::io::copy(&mut far_read.take(bytes), &mut near_write).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::join!(back, tokio::io::copy(&mut near_read, &mut far_write)).1.unwrap();
    });
    address
}

#[tokio::test]
async fn a_silent_peer_loses_its_connection_and_its_buffers() {
    let server = start(Make::Now, Limits { stall_timeout: WHILE, ..patient() }).await;
    let path = half_open(&server, MICROBATCH_BYTES).await;
    // The HTTP/2 windows never close, so that only the socket exerts back-pressure.
    let window = 1 << 30;
    let endpoint = Channel::from_shared(path).unwrap();
    let endpoint =
        endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    let mut client = ForebayServiceClient::new(endpoint.connect().await.unwrap());
    let stream = client.stream(steps(100)).await.unwrap();
    until("some are computed", || server.fake.submitted() > 0).await;
    until("all buffers are back", || server.fake.live() == 0).await;
    drop(stream);
}
