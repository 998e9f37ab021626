//! Connections that take places: those that only connect, those that are idle, those that work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient;
use forebay_proto::v1::{DescribeRequest, StreamRequest};
use forebay_server::{Access, AccessFiles, Limits, Setup};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::raw::{DATA, END_STREAM, HELLO, frame, headers, message};
use crate::support::{HANG, Make, Server, drain, job, next, patient, start, steps, until};

/// More than there are places of any kind.
const ATTACKERS: usize = 20;
const PLACES: usize = 8;
const TOKEN: &str = "Bearer 0123456789abcdef";

fn limits() -> Limits {
    // Nothing but other connections can close a connection.
    Limits { max_connections: PLACES, max_unauthenticated: PLACES, ..patient() }
}

/// Opens a connection from an address of this host, which sends `first` and never closes.
async fn attack(server: &Server, from: [u8; 4], first: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    let to = server.address.trim_start_matches("http://").parse().unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    // The server may have closed the connection already.
    stream.write_all(first).await.ok();
    stream
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", TOKEN.parse().unwrap());
    request
}

fn describe() -> Request<DescribeRequest> {
    with_token(DescribeRequest { job: Some(job()), first_class: 0 })
}

/// Checks that connections which only connect, from the address of the clients and from others, delay
/// neither a client that is connected nor one that connects.
async fn check_lockout(server: &Server, first: &[u8]) {
    let mut client = server.client().await;
    let request = StreamRequest { window_bytes: 1, ..steps(100) };
    let mut old = client.stream(with_token(request)).await.unwrap().into_inner();
    next(&mut old).await.unwrap().unwrap();
    let mut attackers = Vec::new();
    for last in 1..=3 {
        for _ in 0..ATTACKERS {
            attackers.push(attack(server, [127, 0, 0, last], first).await);
        }
        next(&mut old).await.unwrap().expect("a client that has authenticated is served");
        let served = async {
            let mut new = server.client().await;
            new.describe(describe()).await.unwrap();
            let mut stream = new.stream(with_token(steps(1))).await.unwrap().into_inner();
            drain(&mut stream).await
        };
        let (names, end) = timeout(HANG, served).await.expect("a new client is served");
        end.unwrap();
        assert_eq!(names.len(), 4);
    }
}

#[tokio::test]
async fn connections_that_only_connect_lock_nobody_out() {
    let server = start(Make::Now, limits()).await;
    check_lockout(&server, b"").await;
    check_lockout(&server, HELLO).await;
}

#[tokio::test]
async fn connections_without_a_token_lock_nobody_out_whatever_they_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, "team-a 0123456789abcdef\n").unwrap();
    let files = AccessFiles { tokens: Some(path), ..AccessFiles::default() };
    let access = Arc::new(Access::new(files).unwrap());
    let server = start(Make::Now, Setup { access, ..Setup::from(limits()) }).await;
    let call = frame(DATA, END_STREAM, 1, &message(b""));
    check_lockout(&server, &[HELLO, &headers(1, "Describe"), &call].concat()).await;
}

#[tokio::test]
async fn a_connection_that_does_not_authenticate_is_closed_although_it_calls() {
    let limits = Limits { authentication_timeout: Duration::from_millis(300), ..limits() };
    let server = start(Make::Now, limits).await;
    // A call of an unknown dataset is not accepted.
    let call = frame(DATA, END_STREAM, 1, &message(b""));
    let first = [HELLO, &headers(1, "Describe"), &call].concat();
    let mut stream = attack(&server, [127, 0, 0, 1], &first).await;
    let closed = async { while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
    timeout(HANG, closed).await.expect("the connection is closed");
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_one_that_authenticates() {
    let server = start(Make::Now, Limits { max_connections: 1, ..limits() }).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.client().await;
        client.describe(describe()).await.unwrap();
        clients.push(client);
    }
    // The clients whose connections were closed connect again.
    for client in &mut clients {
        client.describe(describe()).await.unwrap();
    }
}

#[tokio::test]
async fn connections_with_streams_keep_their_places_and_others_are_told() {
    let server = start(Make::Held, Limits { max_connections: 2, ..limits() }).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut client = server.client().await;
        streams.push(client.stream(steps(1)).await.unwrap());
    }
    let mut third: ForebayServiceClient<Channel> = server.client().await;
    let refused = third.describe(describe()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("all 2 connections"), "{refused:?}");
    until("both are submitted", || server.fake.submitted() >= 2).await;
    streams.pop();
    let served = async {
        while third.describe(describe()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, served).await.expect("the place of an ended stream is free");
}

#[tokio::test]
async fn a_client_with_all_places_makes_room_for_one_that_has_none() {
    let server = start(Make::Held, Limits { max_connections: 4, ..limits() }).await;
    // Streams that nothing is made for keep their connections busy.
    let request = message(&steps(1).encode_to_vec());
    let call = frame(DATA, END_STREAM, 1, &request);
    let busy = [HELLO, &headers(1, "Stream"), &call].concat();
    let mut attackers = Vec::new();
    for count in 1..=4 {
        attackers.push(attack(&server, [127, 0, 0, 2], &busy).await);
        until("its stream is open", || server.fake.submitted() >= count).await;
    }
    let served = async {
        let mut others = Vec::new();
        for _ in 0..2 {
            let mut client = server.client().await;
            others.push(client.stream(steps(1)).await.unwrap());
        }
        others
    };
    let others = timeout(HANG, served).await.expect("others get a fair share");
    let refused = server.client().await.describe(describe()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "each has half");
    drop((attackers, others));
}
