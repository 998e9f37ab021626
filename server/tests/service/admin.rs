//! The admin port: metrics, probes, the status page.

use std::sync::Arc;
use std::time::Duration;

use forebay_proto::v1::StreamRequest;
use forebay_server::{Access, AccessFiles, Limits, Setup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    HANG, MICROBATCH_BYTES, Make, Server, drain, next, patient, start, steps, until,
};

/// The head and the body of the response to a GET.
pub(crate) async fn get(address: &str, path: &str) -> (String, Vec<u8>) {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: forebay\r\nConnection: close\r\n\r\n"))
        .await
}

async fn send(address: &str, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

async fn text(address: &str, path: &str) -> String {
    let (head, body) = get(address, path).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    String::from_utf8(body).unwrap()
}

async fn serve(make: Make, setup: Setup) -> (Server, String) {
    let admin = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = admin.local_addr().unwrap().to_string();
    (start(make, Setup { admin: Some(admin), picture: true, ..setup }).await, address)
}

/// The value of a metric, by its name and labels.
fn metric(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn metrics_count_what_was_served_and_refused() {
    let (server, admin) = serve(Make::Now, patient().into()).await;
    let mut client = server.client().await;
    let mut stream = client.stream(steps(1)).await.unwrap().into_inner();
    drain(&mut stream).await.1.unwrap();
    client.stream(steps(0)).await.unwrap_err();
    let metrics = text(&admin, "/metrics").await;
    assert!(metrics.ends_with("# EOF\n"));
    let version = env!("CARGO_PKG_VERSION");
    for (name, value) in [
        (&*format!("forebay_build_info{{version=\"{version}\"}}"), 1.0),
        ("forebay_ready", 1.0),
        ("forebay_microbatches_served_total{recipe=\"custom\",code=\"Ok\"}", 4.0),
        ("forebay_calls_total{method=\"Stream\",code=\"Ok\"}", 1.0),
        ("forebay_calls_total{method=\"Stream\",code=\"InvalidArgument\"}", 1.0),
        ("forebay_stage_duration_seconds_count{stage=\"decode\"}", 4.0),
        ("forebay_stage_duration_seconds_bucket{le=\"0.001\",stage=\"queue\"}", 4.0),
        ("forebay_images_served_total", 8.0),
        ("forebay_payload_bytes_total", 4.0 * MICROBATCH_BYTES as f64),
        ("forebay_streams", 0.0),
        ("forebay_streams_limit", 64.0),
        ("forebay_streams_stalled_total", 0.0),
        ("forebay_connections_refused_total", 0.0),
        // Counters with known labels are there before the first event, so that a rate sees it.
        ("forebay_connections_closed_total{reason=\"idle\"}", 0.0),
        ("forebay_data_faults_total{dataset=\"pets\",fault=\"io\"}", 0.0),
        ("forebay_data_faults_total{dataset=\"pets\",fault=\"changed\"}", 0.0),
        ("forebay_buffer_bytes", 0.0),
    ] {
        assert!((metric(&metrics, name) - value).abs() < 1e-9, "{name}: {metrics}");
    }
    for name in [
        "forebay_input_bound_ratio",
        "forebay_recommended_replicas",
        "forebay_microbatches_pending",
        "forebay_microbatches_waiting_for_buffer",
        "forebay_queue_drain_estimate_seconds",
    ] {
        assert!(metric(&metrics, name) >= 0.0);
    }
    for name in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(metric(&metrics, name) > 0.0);
    }
    assert!(metrics.contains("forebay_bottleneck{stage="), "{metrics}");
}

#[tokio::test]
async fn clients_cannot_create_labels() {
    let (server, admin) = serve(Make::Now, patient().into()).await;
    let mut client = server.client().await;
    for number in 0..20 {
        let recipe = forebay_proto::v1::Recipe {
            toml: format!("batch = {number}"),
            name: format!("mine-{number}"),
            ..Default::default()
        };
        let job = forebay_proto::v1::Job { recipe: Some(recipe), ..crate::support::job() };
        let request = StreamRequest { job: Some(job), ..steps(1) };
        drain(&mut client.stream(request).await.unwrap().into_inner()).await.1.unwrap();
    }
    let metrics = text(&admin, "/metrics").await;
    let series =
        metrics.lines().filter(|line| line.starts_with("forebay_microbatches_served_total"));
    assert_eq!(series.count(), 1, "{metrics}");
}

/// Waits until the metrics of a server name a bottleneck and an input-bound ratio.
async fn until_bottleneck(admin: &str, stage: &str, ratio: impl Fn(f64) -> bool) {
    let label = format!("forebay_bottleneck{{stage=\"{stage}\"}} 1");
    let reported = async {
        loop {
            let metrics = text(admin, "/metrics").await;
            if metrics.contains(&label) && ratio(metric(&metrics, "forebay_input_bound_ratio")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, reported).await.unwrap_or_else(|_| panic!("{stage} is never the bottleneck"));
}

#[tokio::test]
async fn a_reader_that_waits_makes_the_server_the_bottleneck() {
    // No stage has worked on microbatches that are never computed: they are in the queue.
    let (server, admin) = serve(Make::Held, patient().into()).await;
    let _stream = server.client().await.stream(steps(100)).await.unwrap();
    until_bottleneck(&admin, "queue", |ratio| ratio > 0.8).await;
}

#[tokio::test]
async fn a_reader_that_accepts_no_data_is_the_bottleneck() {
    let (server, admin) = serve(Make::Now, patient().into()).await;
    let mut stream = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stream).await.unwrap().unwrap();
    until_bottleneck(&admin, "clients", |ratio| ratio < 0.3).await;
}

#[tokio::test]
async fn a_server_is_ready_until_it_drains_and_healthy_until_it_ends() {
    let (mut server, admin) = serve(Make::Now, patient().into()).await;
    assert_eq!(text(&admin, "/healthz").await, "ok\n");
    assert_eq!(text(&admin, "/readyz").await, "ready\n");
    // An open stream keeps the server from stopping.
    let stream = server.client().await.stream(steps(100)).await.unwrap();
    until("it is sending", || server.fake.live() > 0).await;
    server.stop();
    let head = loop {
        let (head, _) = get(&admin, "/readyz").await;
        if !head.starts_with("HTTP/1.1 200") {
            break head;
        }
    };
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(text(&admin, "/healthz").await, "ok\n");
    assert!(text(&admin, "/").await.contains("shutting down"));
    drop(stream);
    server.report().await;
}

#[tokio::test]
async fn the_page_shows_streams_and_a_picture_and_loads_nothing_from_elsewhere() {
    let (server, admin) = serve(Make::Now, patient().into()).await;
    let (head, _) = get(&admin, "/last.png").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let mut stream = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    next(&mut stream).await.unwrap().unwrap();
    let page = text(&admin, "/").await;
    for part in ["anonymous", "127.0.0.1", "pets", "/last.png", "http-equiv=\"refresh\""] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("<script") && !page.contains("://"), "{page}");
    let status: serde_json::Value =
        serde_json::from_str(&text(&admin, "/status.json").await).unwrap();
    assert_eq!(status["streams"][0]["dataset"], "pets");
    assert_eq!(status["ready"], true);
    let (head, png) = get(&admin, "/last.png").await;
    assert!(head.contains("image/png") && head.contains("default-src 'none'"), "{head}");
    // Samples of 840 pixels are subsampled by four.
    let image = image::load_from_memory(&png).unwrap();
    assert!(image.width() > 420 && image.width() < 840, "{}", image.width());
}

#[tokio::test]
async fn the_admin_port_is_read_only_and_bounded() {
    let limits = Limits { max_connections: 1, ..patient() };
    let (_server, admin) = serve(Make::Now, limits.into()).await;
    let (head, _) = send(
        &admin,
        "POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 405") && head.to_lowercase().contains("allow: get"),
        "{head}"
    );
    for path in ["/../etc/passwd", "/x", "//"] {
        assert!(get(&admin, path).await.0.starts_with("HTTP/1.1 404"), "{path}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 << 10));
    let mut stream = TcpStream::connect(&admin).await.unwrap();
    stream.write_all(long.as_bytes()).await.ok();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok();
    assert!(!answer.contains(" 200 "), "{answer}");
}

#[tokio::test]
async fn probes_are_answered_whatever_connections_others_keep_open() {
    let (_server, admin) = serve(Make::Now, patient().into()).await;
    let whole = b"GET /healthz HTTP/1.1\r\nHost: forebay\r\n\r\n";
    let mut kept = Vec::new();
    // Connections that stay open after a response, in the middle of a request, and without one.
    for request in [&whole[..], &whole[..20], b""] {
        for _ in 0..40 {
            let mut stream = TcpStream::connect(&admin).await.unwrap();
            stream.write_all(request).await.unwrap();
            if request.len() == whole.len() {
                stream.read_exact(&mut [0; 12]).await.unwrap();
            }
            kept.push(stream);
        }
        for path in ["/healthz", "/readyz", "/metrics"] {
            timeout(HANG, text(&admin, path)).await.expect("probes are answered");
        }
    }
}

#[tokio::test]
async fn refused_callers_are_counted_and_their_tokens_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, "team-a 0123456789abcdef\n").unwrap();
    let files = AccessFiles { tokens: Some(path), ..AccessFiles::default() };
    let access = Arc::new(Access::new(files).unwrap());
    let (server, admin) = serve(Make::Now, Setup { access, ..patient().into() }).await;
    let status = server.client().await.stream(steps(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let metrics = text(&admin, "/metrics").await;
    let refused = "forebay_calls_total{method=\"Stream\",code=\"Unauthenticated\"}";
    assert!((metric(&metrics, refused) - 1.0).abs() < 1e-9);
    for path in ["/", "/metrics", "/status.json"] {
        assert!(!text(&admin, path).await.contains("0123456789abcdef"), "{path}");
    }
}
