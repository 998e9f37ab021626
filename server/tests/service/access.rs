//! Access: TLS, client certificates, tokens, their rotation, and the limits of each identity.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Client;
use forebay_proto::v1::{DescribeRequest, FetchRequest, StreamRequest};
use forebay_server::{Access, AccessFiles, IdentityLimits, Limits, Setup};
use tonic::transport::{Certificate as Pem, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Request, Status};

use crate::certificates::{Authority, Certificate};
use crate::support::{
    HANG, MICROBATCH_BYTES, Make, Server, drain, job, next, patient, start, steps, until,
};

const TOKEN: &str = "0123456789abcdef-a";
const OTHER: &str = "0123456789abcdef-b";

fn setup(files: AccessFiles, limits: Limits) -> Setup {
    Setup { access: Arc::new(Access::new(files).unwrap()), ..Setup::from(limits) }
}

fn tokens(folder: &std::path::Path, lines: &[(&str, &str)]) -> AccessFiles {
    let path = folder.join("tokens");
    let lines: Vec<_> = lines.iter().map(|(who, token)| format!("{who} {token}")).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    AccessFiles { tokens: Some(path), ..AccessFiles::default() }
}

fn with_tls(server: &Certificate, client_ca: Option<&Authority>) -> AccessFiles {
    AccessFiles {
        tls_cert: Some(server.cert.clone()),
        tls_key: Some(server.key.clone()),
        tls_client_ca: client_ca.map(Authority::ca),
        tokens: None,
    }
}

fn describe() -> DescribeRequest {
    DescribeRequest { job: Some(job()), first_class: 0 }
}

fn signed<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    request
}

/// A stock client over TLS.
async fn connect(
    server: &Server,
    trusts: &Authority,
    own: Option<&Certificate>,
) -> Result<Client<Channel>, tonic::transport::Error> {
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Pem::from_pem(read(&trusts.ca())))
        .domain_name("localhost");
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(read(&own.cert), read(&own.key)));
    }
    let address = server.address.replace("http:", "https:");
    let endpoint = Channel::from_shared(address).unwrap().tls_config(tls).unwrap();
    Ok(Client::new(endpoint.connect().await?))
}

/// An error with all of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(chain).unwrap_or_default();
    format!("{error}: {source}")
}

/// Why a connection is refused, at the handshake or at the first call.
async fn refusal(server: &Server, trusts: &Authority, own: Option<&Certificate>) -> String {
    match connect(server, trusts, own).await {
        Err(error) => chain(&error),
        Ok(mut client) => chain(&client.describe(describe()).await.unwrap_err()),
    }
}

#[tokio::test]
async fn calls_without_a_token_or_with_a_wrong_one_are_unauthenticated() {
    let folder = tempfile::tempdir().unwrap();
    let files = tokens(folder.path(), &[("a", TOKEN)]);
    let server = start(Make::Now, setup(files, patient())).await;
    let mut client = server.client().await;
    let fetch = || FetchRequest { job: Some(job()), ..FetchRequest::default() };
    let refused = |status: &Status, says: &str| {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains(says), "{status:?}");
        assert!(!status.message().contains("0123"), "{status:?}");
    };
    refused(&client.describe(describe()).await.unwrap_err(), "the call has no token");
    refused(&client.stream(steps(1)).await.unwrap_err(), "the call has no token");
    let longer = format!("Bearer {TOKEN}x");
    for wrong in ["Bearer", "Bearer ", "Bearer a", TOKEN, &longer, &format!("Basic {TOKEN}")] {
        refused(
            &client.describe(signed(describe(), wrong)).await.unwrap_err(),
            "the token is unknown",
        );
        refused(&client.fetch(signed(fetch(), wrong)).await.unwrap_err(), "the token is unknown");
        refused(&client.stream(signed(steps(1), wrong)).await.unwrap_err(), "the token is unknown");
    }
    assert_eq!(server.fake.submitted(), 0);
    let right = format!("Bearer {TOKEN}");
    client.describe(signed(describe(), &right)).await.unwrap();
    let mut stream = client.stream(signed(steps(1), &right)).await.unwrap().into_inner();
    assert_eq!(drain(&mut stream).await.0.len(), 4);
}

#[tokio::test]
async fn a_client_streams_over_tls() {
    let authority = Authority::new();
    let files = with_tls(&authority.certify("localhost"), None);
    let server = start(Make::Now, setup(files, patient())).await;
    let mut client = connect(&server, &authority, None).await.unwrap();
    let mut stream = client.stream(steps(2)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 8);
}

#[tokio::test]
async fn a_client_refuses_a_server_with_an_invalid_certificate() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (certificate, says) in [
        (stranger.certify("localhost"), "UnknownIssuer"),
        (authority.certify("elsewhere"), "not valid for name"),
        (authority.certify_expired("localhost"), "expired"),
    ] {
        let files = with_tls(&certificate, None);
        let server = start(Make::Now, setup(files, patient())).await;
        let error = refusal(&server, &authority, None).await;
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_requires_certificates_refuses_invalid_ones() {
    let (authority, clients, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let files = with_tls(&authority.certify("localhost"), Some(&clients));
    let server = start(Make::Now, setup(files, patient())).await;
    let error = refusal(&server, &authority, None).await;
    assert!(error.contains("CertificateRequired"), "{error}");
    for (own, says) in [
        (stranger.certify("trainer"), "UnknownCA"),
        (authority.certify("trainer"), "UnknownCA"),
        (clients.certify_expired("trainer"), "CertificateExpired"),
    ] {
        let error = refusal(&server, &authority, Some(&own)).await;
        assert!(error.contains(says), "{error}");
    }
    let own = clients.certify("spiffe://cluster/trainer");
    let mut client = connect(&server, &authority, Some(&own)).await.unwrap();
    client.describe(describe()).await.unwrap();
}

#[tokio::test]
async fn a_tls_server_refuses_plain_text() {
    let authority = Authority::new();
    let files = with_tls(&authority.certify("localhost"), None);
    let server = start(Make::Now, setup(files, patient())).await;
    let channel = Channel::from_shared(server.address.clone()).unwrap().connect_lazy();
    let status = Client::new(channel).stream(steps(1)).await.unwrap_err();
    assert!(chain(&status).contains("http2"), "{status:?}");
    assert_eq!(server.fake.submitted(), 0);
}

#[tokio::test]
async fn an_identity_cannot_exceed_its_streams_or_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let files = tokens(folder.path(), &[("a", TOKEN), ("b", OTHER)]);
    let own = IdentityLimits { max_streams: Some(2), window_bytes: None, max_queued: Some(7) };
    let limits = Limits {
        identity: IdentityLimits {
            max_streams: Some(1),
            window_bytes: Some(2 * MICROBATCH_BYTES),
            max_queued: Some(5),
        },
        identities: [("b".to_owned(), own)].into(),
        ..patient()
    };
    let server = start(Make::Now, setup(files, limits)).await;
    let mut client = server.client().await;
    let request = |token: &str| {
        let message = StreamRequest { window_bytes: 9 * MICROBATCH_BYTES, ..steps(9) };
        signed(message, &format!("Bearer {token}"))
    };
    let mut first = client.stream(request(TOKEN)).await.unwrap().into_inner();
    next(&mut first).await.unwrap().unwrap();
    let status = client.stream(request(TOKEN)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("all 1 streams of a are open"), "{status:?}");
    until("two are made ahead", || server.fake.live() == 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.fake.live(), 2);
    let others = [
        client.stream(request(OTHER)).await.unwrap(),
        client.stream(request(OTHER)).await.unwrap(),
    ];
    // The pipeline enforces the limit of outstanding microbatches, by identity.
    let clients = || -> BTreeSet<(String, usize)> {
        let clients = server.fake.clients.lock().unwrap();
        clients.iter().map(|(client, max)| (client.to_string(), *max)).collect()
    };
    until("both have submitted", || clients() == [("a".into(), 5), ("b".into(), 7)].into()).await;
    assert_eq!(client.stream(request(OTHER)).await.unwrap_err().code(), Code::ResourceExhausted);
    // A slot is free again once its stream has ended.
    drop((first, others));
    while let Err(status) = client.stream(request(TOKEN)).await {
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

#[tokio::test]
async fn tokens_and_certificates_are_rotated_while_streams_are_open() {
    let (old, new) = (Authority::new(), Authority::new());
    let certificate = old.certify("localhost");
    let token_file = tokens(old.folder(), &[("a", TOKEN)]).tokens;
    let files = AccessFiles { tokens: token_file.clone(), ..with_tls(&certificate, None) };
    let limits = Limits { reload_interval: Duration::from_millis(50), ..patient() };
    let server = start(Make::Now, setup(files, limits)).await;
    let mut client = connect(&server, &old, None).await.unwrap();
    let bearer = |token: &str| format!("Bearer {token}");
    let request = signed(steps(6), &bearer(TOKEN));
    let mut running = client.stream(request).await.unwrap().into_inner();
    next(&mut running).await.unwrap().unwrap();

    // A truncated file, as of a write in progress, changes nothing.
    let (cert, key) = (std::fs::read(&certificate.cert).unwrap(), certificate.key.clone());
    std::fs::write(&certificate.cert, &cert[..cert.len() / 2]).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    connect(&server, &old, None).await.unwrap();

    let replacement = new.certify("localhost");
    std::fs::copy(&replacement.key, key).unwrap();
    std::fs::copy(&replacement.cert, &certificate.cert).unwrap();
    std::fs::write(token_file.unwrap(), format!("a {OTHER}\n")).unwrap();
    let mut renewed = loop {
        if let Ok(client) = connect(&server, &new, None).await {
            break client;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(connect(&server, &old, None).await.is_err());
    while renewed.describe(signed(describe(), &bearer(OTHER))).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = client.stream(signed(steps(1), &bearer(TOKEN))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let (names, end) = drain(&mut running).await;
    end.unwrap();
    // 22 microbatches in two epochs of 11, of which one was read before.
    assert_eq!(names.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_place_of_a_token_file_stops_neither_the_start_nor_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let files = tokens(folder.path(), &[("a", TOKEN)]);
    let limits = Limits { reload_interval: Duration::from_millis(20), ..patient() };
    let server = start(Make::Now, setup(files.clone(), limits)).await;
    let path = files.tokens.clone().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let bearer = |token: &str| format!("Bearer {token}");
    let served = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut client = server.client().await;
            client.describe(signed(describe(), &bearer(TOKEN))).await.unwrap();
        }
    };
    tokio::time::timeout(HANG, served).await.expect("nobody waits for the pipe");
    let refused = format!("{:#}", Access::new(files).unwrap_err());
    assert!(refused.contains("tokens: it is a named pipe; expected a regular file"), "{refused}");

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, format!("a {OTHER}\n")).unwrap();
    let mut client = server.client().await;
    while client.describe(signed(describe(), &bearer(OTHER))).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn errors_name_the_file_that_cannot_be_used() {
    let authority = Authority::new();
    let good = authority.certify("localhost");
    let other = authority.certify("other");
    let error = |files| format!("{:#}", Access::new(files).unwrap_err());
    let says = |files, parts: &[&str]| {
        let error = error(files);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    says(AccessFiles { tls_key: None, ..with_tls(&good, None) }, &["--tls-cert", "--tls-key"]);
    says(
        AccessFiles { tls_client_ca: Some(authority.ca()), ..AccessFiles::default() },
        &["--tls-client-ca needs TLS"],
    );
    let mismatched = Certificate { key: other.key, ..good.clone() };
    says(with_tls(&mismatched, None), &["localhost", "invalid certificate and key"]);
    let swapped = Certificate { cert: good.key.clone(), key: good.cert.clone() };
    says(with_tls(&swapped, None), &["key.pem", "no certificate found"]);
    let absent = Certificate { cert: "no/cert.pem".into(), ..good };
    says(with_tls(&absent, None), &["no/cert.pem"]);
}
