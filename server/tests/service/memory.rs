//! What a client may make the server hold before it has authenticated, on every route.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use forebay_server::Limits;
use tokio::time::timeout;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::raw::{DATA, END_STREAM, Frame, HEADERS, HELLO, RESET, Raw, frame, headers_to};
use crate::support::{HANG, Make, Server, next, patient, start, steps};

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const DESCRIBE: &str = "/forebay.v1.ForebayService/Describe";

/// Calls of one connection, as many as HTTP/2 allows at once.
const CALLS: u32 = 128;
/// Calls that are begun at once: they fit into the window that a connection has at first.
const AT_ONCE: u32 = 8;

/// Begins a call that promises 4,100,000 bytes and sends `bytes` of them.
fn half_a_request(stream: u32, path: &str, bytes: usize) -> Vec<u8> {
    let promise = [&[0][..], &4_100_000_u32.to_be_bytes()].concat();
    let body = [promise, vec![7; bytes]].concat();
    [headers_to(stream, path), frame(DATA, 0, stream, &body)].concat()
}

/// Waits until the server has ended each of some calls, although their requests have not ended.
async fn all_refused(raw: &mut Raw, streams: impl Iterator<Item = u32>) {
    let mut open: BTreeSet<u32> = streams.collect();
    let answers = async {
        while !open.is_empty() {
            let Frame { kind, flags, stream, .. } =
                raw.next().await.unwrap().expect("the connection stays open");
            if kind == RESET || kind == HEADERS && flags & END_STREAM != 0 {
                open.remove(&stream);
            }
        }
    };
    timeout(HANG, answers).await.unwrap_or_else(|_| panic!("calls without an answer: {open:?}"));
}

/// Checks that a server refuses the calls of an attacker while they are being sent, and serves another
/// client meanwhile.
async fn check_refused(server: &Server, path: &str, calls: Range<u32>, bytes: usize) {
    let mut other = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    let mut raw = Raw::open(server.address.trim_start_matches("http://")).await.unwrap();
    raw.send(HELLO).await.unwrap();
    for first in calls.step_by(AT_ONCE as usize) {
        let streams = || (first..first + AT_ONCE).map(|call| 2 * call + 1);
        let requests: Vec<u8> =
            streams().flat_map(|stream| half_a_request(stream, path, bytes)).collect();
        raw.send(&requests).await.unwrap();
        all_refused(&mut raw, streams()).await;
        next(&mut other).await.unwrap().expect("the other client is served");
    }
}

#[tokio::test]
async fn a_route_without_identity_never_holds_more_than_a_small_request() {
    // Nothing but the size can end the calls.
    let server = start(Make::Now, patient()).await;
    for path in [REFLECTION, HEALTH] {
        check_refused(&server, path, 0..CALLS, 5000).await;
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_refused_on_every_route() {
    let limits = Limits { request_timeout: Duration::from_millis(300), ..patient() };
    let server = start(Make::Now, limits).await;
    for path in [REFLECTION, HEALTH, DESCRIBE] {
        check_refused(&server, path, 0..AT_ONCE, 1).await;
    }
}

#[tokio::test]
async fn a_connection_that_has_not_authenticated_holds_bounded_bytes_of_all_its_requests() {
    // Each request is allowed, and all of them together are not.
    let limits = Limits { unauthenticated_bytes: 20 << 10, ..patient() };
    let server = start(Make::Now, limits).await;
    let mut raw = Raw::open(server.address.trim_start_matches("http://")).await.unwrap();
    raw.send(HELLO).await.unwrap();
    for stream in [1, 3, 5] {
        raw.send(&half_a_request(stream, DESCRIBE, 8000)).await.unwrap();
    }
    all_refused(&mut raw, std::iter::once(5)).await;
}

#[tokio::test]
async fn watches_of_a_connection_are_bounded_by_what_they_may_hold() {
    let server = start(Make::Now, patient()).await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watches = Vec::new();
    let refused = loop {
        match client.watch(HealthCheckRequest::default()).await {
            Ok(watch) => watches.push(watch),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!((1..8).contains(&watches.len()), "{}", watches.len());
    watches.pop();
    // The reset of the last one may arrive after the next call.
    let again = async {
        while client.watch(HealthCheckRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, again).await.expect("the bytes of a watch that ended are free");
}

/// The next answer of the reflection service.
async fn answer(answers: &mut Streaming<ServerReflectionResponse>) -> Option<MessageResponse> {
    answers.message().await.unwrap().unwrap().message_response
}

#[tokio::test]
async fn reflection_and_health_serve_stock_clients() {
    let server = start(Make::Now, patient()).await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = client.server_reflection_info(stream);
    let request = |message_request| ServerReflectionRequest {
        message_request: Some(message_request),
        ..ServerReflectionRequest::default()
    };
    requests.send(request(MessageRequest::ListServices(String::new()))).await.unwrap();
    let mut answers = answers.await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) = answer(&mut answers).await else {
        panic!("a list of services")
    };
    assert_eq!(services.service.len(), 3, "{services:?}");
    for service in services.service {
        requests.send(request(MessageRequest::FileContainingSymbol(service.name))).await.unwrap();
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer(&mut answers).await
        else {
            panic!("a description")
        };
        let bytes: usize = files.file_descriptor_proto.iter().map(Vec::len).sum();
        assert!((1..32 << 10).contains(&bytes), "{bytes}");
    }
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.unwrap();
}
