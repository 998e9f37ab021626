//! Slow loris: connections that never begin a call, never end one, or send a byte now and then.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_proto::v1::DescribeRequest;
use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Client;
use forebay_server::{Access, AccessFiles, Limits, Setup};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::certificates::Authority;
use crate::support::{HANG, Make, Server, drain, job, patient, start, steps};

/// Limits that are to be exceeded. A busy machine may exceed them where a test does not want it, so tests
/// repeat calls that must succeed.
const SHORT: Duration = Duration::from_millis(300);

/// HTTP/2's preface, empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// HEADERS of stream 1 without `END_HEADERS`: `:method: POST`, `:scheme: http`, `:path: /`.
const HALF_HEADERS: &[u8] = b"\0\0\x03\x01\0\0\0\0\x01\x83\x86\x84";

fn limits() -> Limits {
    Limits {
        handshake_timeout: SHORT,
        authentication_timeout: SHORT,
        idle_timeout: SHORT,
        request_timeout: SHORT,
        stall_linger: SHORT,
        ..patient()
    }
}

async fn dial(server: &Server) -> TcpStream {
    TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap()
}

/// Waits until a call over a new connection succeeds.
async fn assert_serves(server: &Server) {
    let described = async {
        loop {
            let channel = Channel::from_shared(server.address.clone()).unwrap();
            let Ok(channel) = channel.connect().await else { continue };
            let mut client = Client::new(channel);
            if client.describe(DescribeRequest { job: Some(job()), first_class: 0 }).await.is_ok() {
                return;
            }
        }
    };
    timeout(HANG, described).await.expect("the server serves others");
}

/// Time until the server closes the connection of a peer that sends `first` and then `drip` byte by byte.
async fn time_to_close(server: &Server, first: &[u8], drip: &[u8]) -> Duration {
    let mut stream = dial(server).await;
    let begun = Instant::now();
    let (mut read, mut write) = stream.split();
    let send = async {
        write.write_all(first).await?;
        for byte in drip.iter().cycle() {
            sleep(SHORT / 10).await;
            write.write_all(&[*byte]).await?;
        }
        Ok::<_, io::Error>(())
    };
    let closed = async { tokio::io::copy(&mut read, &mut tokio::io::sink()).await };
    let ended = async {
        tokio::select! {
            _ = closed => {}
            Err(_) = send => {}
        }
    };
    timeout(HANG, ended).await.expect("the server closes the connection");
    begun.elapsed()
}

#[tokio::test]
async fn a_connection_without_a_complete_call_is_closed() {
    let server = start(Make::Now, limits()).await;
    // A preface byte by byte; nothing; settings and then nothing; headers that do not end, with
    // CONTINUATION frames byte by byte; endless pings.
    let ping = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let half = [HELLO, HALF_HEADERS].concat();
    for (first, drip) in [
        (&b""[..], HELLO),
        (b"", b""),
        (HELLO, b""),
        (&half, b"\0\0\x01\x09\0\0\0\0\x01\x40"),
        (HELLO, ping),
    ] {
        let time = time_to_close(&server, first, drip).await;
        assert!(time >= SHORT, "{time:?}");
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_end_is_closed() {
    let authority = Authority::new();
    let certificate = authority.certify("localhost");
    let files = AccessFiles {
        tls_cert: Some(certificate.cert),
        tls_key: Some(certificate.key),
        ..AccessFiles::default()
    };
    let access = Arc::new(Access::new(files).unwrap());
    let server = start(Make::Now, Setup { access, ..Setup::from(limits()) }).await;
    // A record that claims to be long, sent byte by byte.
    let time = time_to_close(&server, b"\x16\x03\x01\x3f\xff\x01\0\x3f\xfb\x03\x03", &[7]).await;
    assert!(time >= SHORT, "{time:?}");
}

#[tokio::test]
async fn a_health_watch_does_not_keep_a_connection_open() {
    let limits = Limits { idle_timeout: SHORT, stall_linger: SHORT, ..patient() };
    let server = start(Make::Now, limits).await;
    let ended = async {
        let mut watcher = HealthClient::new(server.channel().await);
        // On a busy machine the connection may be closed before the watch begins.
        let Ok(changes) = watcher.watch(HealthCheckRequest::default()).await else { return };
        let mut changes = changes.into_inner();
        while let Ok(Some(_)) = changes.message().await {}
    };
    timeout(HANG, ended).await.expect("the connection is closed");
}

#[tokio::test]
async fn a_stream_keeps_its_connection_open() {
    let limits = Limits { idle_timeout: SHORT, stall_linger: SHORT, ..patient() };
    // Its microbatches take longer to compute than a connection may be idle.
    let server = start(Make::After(4 * SHORT), limits).await;
    let mut stream = loop {
        // On a busy machine the connection may be closed before the call begins.
        if let Ok(stream) = server.client().await.stream(steps(1)).await {
            break stream.into_inner();
        }
    };
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn a_client_reconnects_after_its_idle_connection_was_closed() {
    let limits = Limits { idle_timeout: SHORT, stall_linger: SHORT, ..patient() };
    let server = start(Make::Now, limits).await;
    let mut client = server.client().await;
    let described = async {
        for _ in 0..3 {
            // A call may begin in the moment in which its connection is closed.
            while client
                .describe(DescribeRequest { job: Some(job()), first_class: 0 })
                .await
                .is_err()
            {}
            sleep(3 * SHORT).await;
        }
    };
    timeout(HANG, described).await.expect("the client reconnects");
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let server = start(Make::Now, Limits { header_bytes: 4096, ..patient() }).await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(DescribeRequest { job: Some(job()), first_class: 0 });
    request.metadata_mut().insert("x-large", "x".repeat(8192).parse().unwrap());
    client.describe(request).await.unwrap_err();
    client.describe(DescribeRequest { job: Some(job()), first_class: 0 }).await.unwrap();
}
