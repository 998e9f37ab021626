//! The server command with certificates, tokens and an admin port: authentication, reloading, probes, draining.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use forebay_client::{
    Access, Client, Cursor, End, Error, Job, Microbatches, Network, Options, Prefetch, Rank,
};

use crate::certificates::{Authority, Certificate};
use forebay_tests::process::ServerProcess;
use forebay_tests::world::{SMALL, WORLD};
use forebay_tests::{HANG, eventually};

const TOKEN: &str = "sesame-sesame-sesame";
const NEXT_TOKEN: &str = "abracadabra-abracadabra";

/// Starts a server of the shared dataset with an admin port, whose log is in a folder.
pub(crate) fn start(folder: &Path, arguments: &[&str]) -> ServerProcess {
    run(Command::new(env!("CARGO_BIN_EXE_quickstart")), folder, arguments)
}

/// Starts a server with a limit of open files.
pub(crate) fn start_with_open_files(
    folder: &Path,
    limit: &str,
    arguments: &[&str],
) -> ServerProcess {
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_quickstart")]);
    run(command, folder, arguments)
}

fn run(mut command: Command, folder: &Path, arguments: &[&str]) -> ServerProcess {
    let named = format!("train={}", WORLD.train().display());
    let usual =
        ["--json", "--dataset", &named, "--metrics-listen", "127.0.0.1:0", "--drain-grace", "5m"];
    command.arg("forebay").env("RUST_LOG", "trace");
    ServerProcess::start(&mut command, Some(&folder.join("log")), &[&usual[..], arguments].concat())
}

#[test]
fn a_log_that_cannot_be_written_ends_neither_a_server_nor_its_calls() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let named = format!("train={}", WORLD.train().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    // Every connection and every call is logged.
    command.arg("forebay").env("RUST_LOG", "debug").stderr(full());
    let arguments = ["--dataset", &named, "--metrics-listen", "127.0.0.1:0"];
    let mut server = ServerProcess::start(&mut command, None, &arguments);
    server.signal("-HUP");
    let job = Job { set: SMALL.map(str::to_owned).into(), ..Job::new("train", "a2") };
    let client =
        forebay_client::blocking::Client::connect(Options::new([server.address()])).unwrap();
    client.describe(&job).unwrap();
    assert!(server.get("/healthz").contains(" 200 "));
    server.signal("-TERM");
    assert!(server.wait().success());
    // A command that fails says so by its code.
    let mut failing = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    failing.args(["forebay", "inspect", "/no/such/dataset"]).stderr(full());
    assert_eq!(failing.status().unwrap().code(), Some(1));
}

/// Certificates of both sides and a token, as files.
struct Credentials {
    servers: Authority,
    clients: Authority,
    server: Certificate,
    client: Certificate,
    tokens: PathBuf,
}

impl Credentials {
    fn new() -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let server = servers.certify("localhost");
        let client = clients.certify("spiffe://cluster/trainer");
        let tokens = servers.folder().join("tokens");
        std::fs::write(&tokens, format!("team-a {TOKEN}\n")).unwrap();
        Self { servers, clients, server, client, tokens }
    }

    fn serve(&self) -> ServerProcess {
        let ca = self.clients.ca();
        let paths = [&self.server.cert, &self.server.key, &ca, &self.tokens];
        let [cert, key, ca, tokens] = paths.map(|path| path.to_str().unwrap());
        start(
            self.servers.folder(),
            &["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca, "--token-file", tokens],
        )
    }

    fn access(&self, token: &str) -> Access {
        let token_file = self.clients.folder().join(token);
        std::fs::write(&token_file, token).unwrap();
        Access {
            tls_ca: Some(self.servers.ca()),
            tls_cert: Some(self.client.cert.clone()),
            tls_key: Some(self.client.key.clone()),
            tls_name: Some("localhost".into()),
            token_file: Some(token_file),
        }
    }
}

fn job() -> Job {
    let set = SMALL.map(str::to_owned).to_vec();
    Job { set, seed: 5, ..Job::new("train", "a2") }
}

fn client(server: &ServerProcess, access: Access) -> Client {
    let mut options = Options::new([server.address()]);
    options.access = access;
    Client::connect(options).unwrap()
}

async fn stream(client: &Client, steps: u64) -> Result<Microbatches, Error> {
    client.stream(&job(), Cursor::default(), End::Steps(steps), Rank::SINGLE).await
}

async fn pixels(mut stream: Microbatches) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(made) = stream.next().await {
        all.push(made.unwrap().pixels.to_vec());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_certificate_and_token_the_bytes_are_the_same() {
    let credentials = Credentials::new();
    let server = credentials.serve();
    let secured = client(&server, credentials.access(TOKEN));
    let plain_server = forebay_tests::world::Server::start(2).await;
    let plain = Client::connect(Options::new([plain_server.endpoint()])).unwrap();
    let expected = pixels(stream(&plain, 2).await.unwrap()).await;
    assert!(pixels(stream(&secured, 2).await.unwrap()).await == expected);
    let step = Cursor { epoch: 0, step: 1 };
    assert!(secured.fetch(&job(), step, 7).await.unwrap().pixels[..] == expected[15]);
    secured.explain(&job(), step, 7).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_a_name_must_have_certificates_for_that_name() {
    let credentials = Credentials::new();
    let server = credentials.serve();
    let address = server.address().parse().unwrap();
    let client = |name: &str| {
        let mut options = Options::new([format!("dns+https://{name}:{}", server.port)]);
        options.access = Access { tls_name: None, ..credentials.access(TOKEN) };
        options.network = Network::default().resolver(move |_| async move { Ok(vec![address]) });
        Client::connect(options).unwrap()
    };
    let named = client("localhost");
    assert_eq!(pixels(stream(&named, 2).await.unwrap()).await.len(), 16);
    assert_eq!(named.servers()[0].name, format!("https://{address}"));
    let error = client("forebay").describe(&job()).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name") && error.contains("forebay"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_valid_credentials_is_told_what_is_wrong() {
    let credentials = Credentials::new();
    let server = credentials.serve();
    let good = credentials.access(TOKEN);
    let stranger = Authority::new();
    let strange = stranger.certify("trainer");
    let expired = credentials.clients.certify_expired("trainer");
    for (access, says) in [
        (Access { token_file: None, ..good.clone() }, "the call has no token"),
        (credentials.access("wrong-wrong-wrong-wrong"), "give the client a valid token"),
        (Access { tls_cert: None, tls_key: None, ..good.clone() }, "CertificateRequired"),
        (
            Access { tls_cert: Some(strange.cert), tls_key: Some(strange.key), ..good.clone() },
            "UnknownCA",
        ),
        (
            Access { tls_cert: Some(expired.cert), tls_key: Some(expired.key), ..good.clone() },
            "CertificateExpired",
        ),
        (Access { tls_ca: Some(stranger.ca()), ..good.clone() }, "UnknownIssuer"),
        (Access { tls_name: Some("elsewhere".into()), ..good.clone() }, "elsewhere"),
    ] {
        // The client must not retry until it gives up. (The TLS alert may arrive after the first calls,
        // which then fail with a closed connection and are retried.)
        let error = client(&server, access).describe(&job()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(says) && !error.contains("wrong-wrong"), "{error}");
    }
    client(&server, good).describe(&job()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_take_effect_after_sighup_and_streams_continue() {
    let credentials = Credentials::new();
    let server = credentials.serve();
    let access = credentials.access(TOKEN);
    let token_file = access.token_file.clone().unwrap();
    let client = client(&server, access);
    let mut running = stream(&client, 6).await.unwrap();
    running.next().await.unwrap().unwrap();

    std::fs::write(&credentials.tokens, format!("team-a {NEXT_TOKEN}\n")).unwrap();
    server.signal("-HUP");
    let refused = loop {
        if let Err(error) = client.describe(&job()).await {
            break error.to_string();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(refused.contains("Unauthenticated"), "{refused}");
    // The client reads its file for each call.
    std::fs::write(token_file, NEXT_TOKEN).unwrap();
    client.describe(&job()).await.unwrap();
    assert_eq!(pixels(running).await.len(), 47);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_readyz_reports_it() {
    let credentials = Credentials::new();
    let mut server = credentials.serve();
    assert!(server.get("/readyz").contains("200 OK"));
    assert!(server.get("/healthz").contains("200 OK"));
    let metrics = server.get("/metrics");
    assert!(metrics.contains("forebay_build_info{") && metrics.contains("forebay_worker_threads "));
    assert!(
        server.get("/last.png").contains("404"),
        "a server that authenticates its callers shows no images"
    );

    let mut slow = unread(&server, credentials.access(TOKEN)).await;
    server.signal("-TERM");
    eventually("/readyz fails", || server.get("/readyz").contains("503")).await;
    assert!(server.get("/healthz").contains("200 OK"));
    let status = loop {
        if let Some(status) = server.try_wait() {
            break status;
        }
        // The client receives the microbatch that is being sent, then its stream ends.
        drop(tokio::time::timeout(Duration::from_millis(50), slow.next()).await);
    };
    assert!(status.success());
    let log = server.log();
    assert!(log.contains("SIGTERM: draining") && log.contains("unfinished: 0"), "{log}");
}

/// A stream that is not read, so that the server has a microbatch to finish while it drains.
async fn unread(server: &ServerProcess, access: Access) -> Microbatches {
    let mut options = Options::new([server.address()]);
    options.access = access;
    options.prefetch = Prefetch::Bytes(1);
    options.retry.give_up_after = HANG;
    let big = vec!["batch = 16".to_owned(), "microbatches = 1".into(), "image_size = 512".into()];
    let big = Job { set: big, ..job() };
    let client = Client::connect(options).unwrap();
    let end = End::Steps(u64::from(u16::MAX));
    let mut slow = client.stream(&big, Cursor::default(), end, Rank::SINGLE).await.unwrap();
    slow.next().await.unwrap().unwrap();
    // The state may change until all windows and socket buffers are full.
    let mut in_a_row = 0;
    eventually("the stream waits for its reader", || {
        let waits = server.get("/status.json").contains("\"waiting\":\"server\"");
        in_a_row = if waits { in_a_row + 1 } else { 0 };
        in_a_row == 25
    })
    .await;
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_server_that_drains() {
    let credentials = Credentials::new();
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let mut server = credentials.serve();
        let slow = unread(&server, credentials.access(TOKEN)).await;
        server.signal("-TERM");
        eventually("/readyz fails", || server.get("/readyz").contains("503")).await;
        server.signal(signal);
        let mut status = None;
        eventually("the server ends", || {
            status = server.try_wait();
            status.is_some()
        })
        .await;
        assert_eq!(status.unwrap().code(), Some(code));
        drop(slow);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_log() {
    let credentials = Credentials::new();
    let mut server = credentials.serve();
    let wrong = "wrong-wrong-wrong-wrong";
    client(&server, credentials.access(wrong)).describe(&job()).await.unwrap_err();
    let client = client(&server, credentials.access(TOKEN));
    assert_eq!(pixels(stream(&client, 1).await.unwrap()).await.len(), 8);
    // A malformed token file, then the same file corrected.
    std::fs::write(&credentials.tokens, format!("{NEXT_TOKEN}\n")).unwrap();
    server.signal("-HUP");
    let logged = |text: &str| server.log().contains(text);
    eventually("the malformed file is refused", || logged("the previous ones stay in use")).await;
    std::fs::write(&credentials.tokens, format!("team-b {NEXT_TOKEN}\n")).unwrap();
    server.signal("-HUP");
    eventually("the corrected file is read", || logged("access files reloaded")).await;
    let pages = ["/", "/metrics", "/status.json"].map(|path| server.get(path)).concat();
    server.signal("-TERM");
    assert!(server.wait().success());
    let log = server.log();
    for known in ["team-a", "stream ended", "the previous ones stay in use", "DEBUG", "TRACE"] {
        assert!(log.contains(known), "the log is too small to prove anything: no {known:?}");
    }
    let key = std::fs::read_to_string(&credentials.server.key).unwrap();
    let key = key.lines().nth(1).unwrap();
    for secret in [TOKEN, NEXT_TOKEN, wrong, key] {
        assert!(!log.contains(secret) && !pages.contains(secret), "{secret} was disclosed");
    }
}
