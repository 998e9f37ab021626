//! The server command with certificates, tokens and an admin port: authentication, reloading, probes, draining.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forebay_client::{
    Access, Client, Cursor, End, Error, Job, Microbatches, Network, Options, Prefetch, Rank,
};

use crate::certificates::{Authority, Certificate};
use forebay_tests::eventually;
use forebay_tests::world::{SMALL, WORLD};

const TOKEN: &str = "sesame-sesame-sesame";
const NEXT_TOKEN: &str = "abracadabra-abracadabra";

/// A running `forebay serve`.
struct Process {
    child: Child,
    port: String,
    admin: String,
    log: PathBuf,
}

impl Process {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let (named, log) = (format!("train={}", WORLD.train().display()), folder.join("log"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_quickstart"))
            .args(["forebay", "serve", "--json", "--listen", "127.0.0.1:0", "--dataset", &named])
            .args(["--metrics-listen", "127.0.0.1:0"])
            .args(arguments)
            .env("RUST_LOG", "trace")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |prefix: &str| {
            let line = lines.next().expect("the server prints its address").unwrap();
            line.strip_prefix(prefix).expect("an address").trim_end_matches('/').to_owned()
        };
        let port = address("listening on 127.0.0.1:");
        let admin = address("metrics and status on http://");
        Self { child, port, admin, log }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process has already ended unless the test failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
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

    fn serve(&self) -> Process {
        let ca = self.clients.ca();
        let paths = [&self.server.cert, &self.server.key, &ca, &self.tokens];
        let [cert, key, ca, tokens] = paths.map(|path| path.to_str().unwrap());
        Process::start(
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

fn client(server: &Process, access: Access) -> Client {
    let mut options = Options::new([format!("127.0.0.1:{}", server.port)]);
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
    let address = format!("127.0.0.1:{}", server.port).parse().unwrap();
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

    // A client that does not read, so that the server has a microbatch to finish while it drains.
    let mut options = Options::new([format!("127.0.0.1:{}", server.port)]);
    options.access = credentials.access(TOKEN);
    options.prefetch = Prefetch::Bytes(1);
    options.retry.give_up_after = Duration::from_secs(1);
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
    server.signal("-TERM");
    eventually("/readyz fails", || server.get("/readyz").contains("503")).await;
    assert!(server.get("/healthz").contains("200 OK"));
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        // The client receives the microbatch that is being sent, then its stream ends.
        drop(tokio::time::timeout(Duration::from_millis(50), slow.next()).await);
    };
    assert!(status.success());
    let log = std::fs::read_to_string(&server.log).unwrap();
    assert!(log.contains("SIGTERM: draining") && log.contains("unfinished: 0"), "{log}");
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
    let logged = |text: &str| std::fs::read_to_string(&server.log).unwrap().contains(text);
    eventually("the malformed file is refused", || logged("the previous ones stay in use")).await;
    std::fs::write(&credentials.tokens, format!("team-b {NEXT_TOKEN}\n")).unwrap();
    server.signal("-HUP");
    eventually("the corrected file is read", || logged("access files reloaded")).await;
    let pages = ["/", "/metrics", "/status.json"].map(|path| server.get(path)).concat();
    server.signal("-TERM");
    assert!(server.child.wait().unwrap().success());
    let log = std::fs::read_to_string(&server.log).unwrap();
    for known in ["team-a", "stream ended", "the previous ones stay in use", "DEBUG", "TRACE"] {
        assert!(log.contains(known), "the log is too small to prove anything: no {known:?}");
    }
    let key = std::fs::read_to_string(&credentials.server.key).unwrap();
    let key = key.lines().nth(1).unwrap();
    for secret in [TOKEN, NEXT_TOKEN, wrong, key] {
        assert!(!log.contains(secret) && !pages.contains(secret), "{secret} was disclosed");
    }
}
