//! Slow readers, gone readers, slow makers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient;
use forebay_proto::v1::{DescribeRequest, Frame, Layout, StreamRequest};
use forebay_server::Limits;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::support::{
    MICROBATCH_BYTES, Make, Server, drain, finish, job, next, start, steps, until,
};

/// Time for a server to do what it must not.
const WHILE: Duration = Duration::from_millis(300);

/// Buffers held by a stream that is not read, of a credit and a server's bound in bytes.
async fn held(credit_bytes: u64, ahead_bytes: u64) -> usize {
    let server = start(Make::Now, Limits { ahead_bytes, ..Limits::default() }).await;
    let request = StreamRequest { credit_bytes, ..steps(100) };
    let mut client = server.client().await;
    let mut stream = client.stream(request).await.unwrap().into_inner();
    // It begins with one, and gets one more for each that it takes.
    tokio::time::sleep(WHILE).await;
    assert_eq!(server.fake.live(), 1);
    for _ in 0..5 {
        next(&mut stream).await.unwrap().unwrap();
    }
    tokio::time::sleep(WHILE).await;
    let live = server.fake.live();
    assert_eq!(server.fake.submitted(), 5 + live, "what is asked for is what is held");
    drop(stream);
    until("all buffers are back", || server.fake.live() == 0).await;
    live
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_its_credit() {
    assert_eq!(held(3 * MICROBATCH_BYTES, 1 << 40).await, 3);
}

#[tokio::test]
async fn a_credit_below_one_microbatch_is_one() {
    assert_eq!(held(1, 1 << 40).await, 1);
}

#[tokio::test]
async fn a_credit_is_at_most_the_servers_bound() {
    assert_eq!(held(0, 2 * MICROBATCH_BYTES).await, 2);
    assert_eq!(held(u64::MAX, 3 * MICROBATCH_BYTES - 1).await, 2);
}

#[tokio::test]
async fn no_more_is_held_while_a_slow_reader_reads() {
    let server = start(Make::Now, Limits::default()).await;
    let request = StreamRequest { credit_bytes: 2 * MICROBATCH_BYTES, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    for _ in 0..8 {
        next(&mut stream).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.fake.live() <= 2, "{}", server.fake.live());
    }
    assert_eq!(next(&mut stream).await.unwrap(), None);
}

#[tokio::test]
async fn a_stalled_reader_is_told_so_when_it_comes_back() {
    let limits = Limits { stall_timeout: WHILE, ..Limits::default() };
    let server = start(Make::Now, limits).await;
    let mut stream = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stream).await.unwrap().unwrap();
    until("all are made ahead", || server.fake.live() > 1).await;
    // What lies in HTTP/2's queue stays until the reader takes it; the rest goes back.
    until("the stream is cut", || server.fake.live() == 1).await;
    let status = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("nothing was taken for 0.3 s"), "{status:?}");
    until("all buffers are back", || server.fake.live() == 0).await;
}

#[tokio::test]
async fn a_stalled_reader_that_stays_away_is_reset_and_others_go_on() {
    let stall_linger = Duration::from_millis(100);
    let limits = Limits { stall_timeout: WHILE, stall_linger, ..Limits::default() };
    let mut server = start(Make::Now, limits).await;
    let mut client = server.client().await;
    let mut stalled = client.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stalled).await.unwrap().unwrap();
    until("all are made ahead", || server.fake.live() > 1).await;
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
async fn a_slow_maker_is_no_stalled_reader() {
    let limits = Limits { stall_timeout: WHILE, ..Limits::default() };
    let server = start(Make::After(2 * WHILE), limits).await;
    let request = StreamRequest { credit_bytes: 1, microbatches: vec![0, 1], ..steps(1) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 2);
}

/// Makes what is asked for and reads it, so many times.
async fn make_and_read(server: &Server, stream: &mut Streaming<Frame>, times: usize) {
    for made in 0..times {
        until("one is asked for", || !server.fake.held.lock().unwrap().is_empty()).await;
        let (_, done) = server.fake.held.lock().unwrap().remove(0);
        let name = server.fake.names.lock().unwrap()[made];
        finish(name, Layout::Nhwc, &server.fake.live, done);
        next(stream).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_cancelled_stream_cancels_what_it_asked_for() {
    let server = start(Make::Held, Limits::default()).await;
    let request = StreamRequest { credit_bytes: 3 * MICROBATCH_BYTES, ..steps(2) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    make_and_read(&server, &mut stream, 3).await;
    until("three are asked for", || server.fake.held.lock().unwrap().len() == 3).await;
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
async fn a_stream_asks_for_eight_at_once_however_many_it_may_have_ahead() {
    let server = start(Make::Held, Limits { ahead_bytes: 1 << 40, ..Limits::default() }).await;
    let mut stream = server.client().await.stream(steps(10)).await.unwrap().into_inner();
    make_and_read(&server, &mut stream, 12).await;
    until("eight are asked for", || server.fake.held.lock().unwrap().len() == 8).await;
    tokio::time::sleep(WHILE).await;
    assert_eq!(server.fake.submitted(), 20);
}

/// A path to the server that carries some bytes back and then nothing, without an end.
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
async fn a_peer_that_fell_silent_loses_its_connection_and_its_buffers() {
    let server = start(Make::Now, Limits { stall_timeout: WHILE, ..Limits::default() }).await;
    let path = half_open(&server, MICROBATCH_BYTES).await;
    // Windows that never close: what stops the server is the socket.
    let window = 1 << 30;
    let endpoint = Channel::from_shared(path).unwrap();
    let endpoint =
        endpoint.initial_stream_window_size(window).initial_connection_window_size(window);
    let mut client = ForebayServiceClient::new(endpoint.connect().await.unwrap());
    let stream = client.stream(steps(100)).await.unwrap();
    until("some are made", || server.fake.live() > 0).await;
    until("all buffers are back", || server.fake.live() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn connections_have_a_bound_and_one_that_says_nothing_is_closed() {
    let limits = Limits { connections: 1, handshake_timeout: WHILE, ..Limits::default() };
    let server = start(Make::Now, limits).await;
    let first = server.client().await;
    let mut second = server.client().await;
    let request = || DescribeRequest { job: Some(job()) };
    tokio::time::timeout(WHILE, second.describe(request())).await.unwrap_err();
    drop(first);
    second.describe(request()).await.unwrap();
    drop(second);

    // It connects and says nothing.
    let dead = TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap();
    let mut third = server.client().await;
    third.describe(request()).await.unwrap();
    drop(dead);
}
