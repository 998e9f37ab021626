//! A Unix socket in place of a TCP port: stock clients, tokens, and the files of sockets.

use std::path::Path;
use std::sync::Arc;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Client;
use forebay_proto::v1::{DescribeRequest, FetchRequest};
use forebay_server::{Access, AccessFiles, ListenAddress, Listeners, Setup};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::certificates::Authority;
use crate::support::{Fake, Make, drain, job, patient, start_at, steps};

const TOKEN: &str = "0123456789abcdef-a";

fn fake() -> Arc<Fake> {
    Fake::new(Make::Now, vec!["cat".into(), "dog".into()], 0)
}

async fn client(path: &Path) -> Client<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
    Client::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn a_stock_client_streams_over_a_unix_socket_which_is_gone_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forebay.sock");
    let mut server = start_at(&path, fake(), patient()).await;
    let mut stream = client(&path).await.stream(steps(2)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    assert_eq!((names.len(), end.is_ok()), (8, true));
    // The user is the client for fairness, as an address is over TCP.
    let clients: Vec<_> = server.fake.clients.lock().unwrap().drain(..).collect();
    assert!(clients.iter().all(|(client, _)| client.starts_with("uid ")), "{clients:?}");
    let taken = Listeners::bind(&[ListenAddress::Unix(path.clone())], 0o600, false).await;
    let error = format!("{:#}", taken.unwrap_err());
    assert!(error.contains("forebay.sock: another process listens there"), "{error}");
    server.stop();
    server.report().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_token_is_required_over_a_unix_socket_too() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, format!("team {TOKEN}\n")).unwrap();
    let files = AccessFiles { tokens: Some(tokens), ..AccessFiles::default() };
    let access = Arc::new(Access::new(files).unwrap());
    let path = folder.path().join("forebay.sock");
    let _server = start_at(&path, fake(), Setup { access, ..Setup::from(patient()) }).await;
    let mut client = client(&path).await;
    let fetch = |token: Option<&str>| {
        let mut request =
            Request::new(FetchRequest { job: Some(job()), ..FetchRequest::default() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
        }
        request
    };
    for wrong in [None, Some("Bearer 0123456789abcdef-b")] {
        let refused = client.fetch(fetch(wrong)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let token = format!("Bearer {TOKEN}");
    let mut stream = client.fetch(fetch(Some(&token))).await.unwrap().into_inner();
    assert_eq!(drain(&mut stream).await.0.len(), 1);
}

#[tokio::test]
async fn a_server_that_requires_certificates_serves_nobody_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let certificate = authority.certify("localhost");
    let files = AccessFiles {
        tls_cert: Some(certificate.cert.clone()),
        tls_key: Some(certificate.key.clone()),
        tls_client_ca: Some(authority.ca()),
        tokens: None,
    };
    let access = Arc::new(Access::new(files).unwrap());
    let path = folder.path().join("forebay.sock");
    let _server = start_at(&path, fake(), Setup { access, ..Setup::from(patient()) }).await;
    let describe = DescribeRequest { job: Some(job()), first_class: 0 };
    let refused = client(&path).await.describe(describe).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("no certificate"), "{refused}");
}
