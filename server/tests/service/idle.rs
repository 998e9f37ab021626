//! Slow loris: connections that never begin a call, never end one, or send a byte now and then.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_proto::v1::DescribeRequest;
use forebay_server::{Access, AccessFiles, Limits, Setup};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::certificates::Authority;
use crate::support::{HANG, Make, Server, drain, job, start, steps};

const SHORT: Duration = Duration::from_millis(300);

/// HTTP/2's preface, empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// HEADERS of stream 1 without `END_HEADERS`: `:method: POST`, `:scheme: http`, `:path: /`.
const HALF_HEADERS: &[u8] = b"\0\0\x03\x01\0\0\0\0\x01\x83\x86\x84";

fn limits() -> Limits {
    Limits {
        handshake_timeout: SHORT,
        idle_timeout: SHORT,
        request_timeout: SHORT,
        stall_linger: SHORT,
        ..Limits::default()
    }
}

async fn dial(server: &Server) -> TcpStream {
    TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap()
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
    let mut client = server.client().await;
    client.describe(DescribeRequest { job: Some(job()) }).await.unwrap();
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
async fn streams_keep_a_connection_open_and_health_watches_do_not() {
    let server = start(Make::After(2 * SHORT), limits()).await;
    let mut watcher = HealthClient::new(server.channel().await);
    let mut changes = watcher.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    changes.message().await.unwrap().unwrap();
    let end = timeout(HANG, changes.message()).await.expect("the connection is closed");
    assert!(end.is_err() || end.is_ok_and(|change| change.is_none()));

    // Its microbatches take longer to compute than a connection may be idle.
    let mut stream = server.client().await.stream(steps(1)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 4);
}

#[tokio::test]
async fn a_client_reconnects_after_its_idle_connection_was_closed() {
    let server = start(Make::Now, limits()).await;
    let mut client = server.client().await;
    for _ in 0..3 {
        client.describe(DescribeRequest { job: Some(job()) }).await.unwrap();
        sleep(3 * SHORT).await;
    }
}

#[tokio::test]
async fn headers_that_are_too_large_are_refused() {
    let server = start(Make::Now, Limits { header_bytes: 4096, ..limits() }).await;
    let mut client = server.client().await;
    let mut request = tonic::Request::new(DescribeRequest { job: Some(job()) });
    request.metadata_mut().insert("x-large", "x".repeat(8192).parse().unwrap());
    client.describe(request).await.unwrap_err();
    client.describe(DescribeRequest { job: Some(job()) }).await.unwrap();
}
