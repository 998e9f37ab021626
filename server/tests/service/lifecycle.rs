//! Health, reflection, shutdown.

use std::time::Duration;

use forebay_proto::v1::StreamRequest;
use forebay_proto::v1::forebay_service_server::SERVICE_NAME;
use forebay_server::{Limits, Report};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::{MICROBATCH_BYTES, Make, Server, drain, next, patient, start, steps, until};

async fn health(server: &Server, service: &str) -> ServingStatus {
    let mut client = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest { service: service.into() };
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let server = start(Make::Now, patient()).await;
    assert_eq!(health(&server, "").await, ServingStatus::Serving);
    assert_eq!(health(&server, SERVICE_NAME).await, ServingStatus::Serving);
    let mut client = ServerReflectionClient::new(server.channel().await);
    let list = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request: list };
    let requests = tokio_stream::once(request);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&SERVICE_NAME) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn a_draining_server_finishes_the_microbatch_and_sends_the_client_elsewhere() {
    let mut server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    let mut running = client.stream(steps(100)).await.unwrap().into_inner();
    until("it is sending", || server.fake.live() > 0).await;
    server.stop();
    let mut health_client = HealthClient::new(server.channel().await);
    while health_client.check(HealthCheckRequest::default()).await.unwrap().into_inner().status()
        == ServingStatus::Serving
    {}
    assert_eq!(health(&server, SERVICE_NAME).await, ServingStatus::NotServing);
    let status = client.stream(steps(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);

    let (names, end) = drain(&mut running).await;
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("from another server"), "{status:?}");
    // Microbatches whose delivery had not begun when the server drained are not sent.
    assert_eq!(names.len(), 1);
    let live = std::sync::Arc::clone(&server.fake);
    let report = Report {
        streams: 1,
        microbatches: 1,
        payload_bytes: MICROBATCH_BYTES,
        stalled: 0,
        unfinished: 0,
    };
    assert_eq!(server.report().await, report);
    until("all buffers are back", || live.live() == 0).await;
}

#[tokio::test]
async fn a_draining_server_does_not_wait_for_a_stuck_reader_beyond_its_grace() {
    let drain_grace = Duration::from_millis(300);
    let mut server = start(Make::Now, Limits { drain_grace, ..patient() }).await;
    let fake = std::sync::Arc::clone(&server.fake);
    let mut stuck = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    until("it is sending", || fake.live() > 0).await;
    server.stop();
    assert_eq!(server.report().await.unfinished, 1);
    until("all buffers are back", || fake.live() == 0).await;
    next(&mut stuck).await.unwrap_err();
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    // A server that waited for its grace would hang.
    let drain_grace = Duration::from_hours(1);
    let mut server = start(Make::Now, Limits { drain_grace, ..patient() }).await;
    let mut watching = HealthClient::new(server.channel().await);
    let mut changes = watching.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    changes.message().await.unwrap();
    server.stop();
    server.report().await;
}

#[tokio::test]
async fn a_draining_server_sends_a_waiting_reader_elsewhere_at_once() {
    let mut server = start(Make::Held, patient()).await;
    let request = StreamRequest { microbatches: vec![0], ..steps(1) };
    let mut stream = server.client().await.stream(request).await.unwrap().into_inner();
    until("it is submitted", || server.fake.submitted() == 1).await;
    server.stop();
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.report().await.unfinished, 0);
}
