//! Datasets in buckets, of a server that fails as it is told.

#![expect(clippy::unwrap_used, reason = "a test")]

mod dataset;
mod layouts;
mod server;
#[path = "../../../tests/fuzz/bodies/writers.rs"]
#[expect(dead_code, unreachable_pub, reason = "a public module of the tests of the whole")]
mod writers;

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use forebay::dataset::{Bucket, Object, StoreError};
use forebay_remote::Network;

use server::{Fault, HANG, Server};

/// A server with one object of 1000 bytes, as a web server.
fn web() -> (Server, Arc<dyn Bucket>, Object) {
    let server = Server::start();
    server.put("/data/a.tar", (0..1000).map(|byte| u8::try_from(byte % 250).unwrap()).collect());
    let url = format!("http://{}/data/a.tar", server.address);
    let (bucket, path) = forebay_remote::open(&Network::new().unwrap(), &url).unwrap();
    let object = bucket.find(&[path]).unwrap().remove(0).unwrap();
    (server, bucket, object)
}

fn fetch(
    bucket: &Arc<dyn Bucket>,
    object: &Object,
    range: Range<u64>,
) -> Result<Vec<u8>, StoreError> {
    let (sender, receiver) = sync_channel(1);
    bucket.fetch(object, range, Box::new(move |result| drop(sender.send(result))));
    receiver.recv_timeout(HANG).unwrap()
}

fn right(range: Range<u64>) -> Vec<u8> {
    range.map(|byte| u8::try_from(byte % 250).unwrap()).collect()
}

#[test]
fn a_range_is_the_range_of_the_object() {
    let (server, bucket, object) = web();
    assert_eq!((object.size, object.tag.len()), (1000, 16));
    for range in [0..1000, 10..20, 999..1000] {
        assert_eq!(fetch(&bucket, &object, range.clone()).unwrap(), right(range));
    }
    assert_eq!((bucket.traffic().requests, bucket.traffic().bytes), (4, 1011));
    assert_eq!(server.gets().len(), 3);
    assert_eq!(bucket.find(&["data/none".to_owned()]).unwrap(), [None]);
}

#[test]
fn requests_that_fail_are_sent_again() {
    let (server, bucket, object) = web();
    server.fail([
        Fault::Status(500, ""),
        Fault::Cut(5),
        Fault::Short(7),
        Fault::Status(503, "Retry-After: 0\r\n"),
    ]);
    assert_eq!(fetch(&bucket, &object, 0..100).unwrap(), right(0..100));
    let traffic = bucket.traffic();
    assert_eq!((traffic.requests, traffic.retries, traffic.throttled), (6, 4, 1));
}

#[test]
fn a_request_that_fails_always_is_given_up_with_the_reason() {
    let (server, bucket, object) = web();
    server.fail([Fault::Status(500, ""); 7]);
    let error = fetch(&bucket, &object, 0..100).unwrap_err();
    assert!(!error.is_change());
    let error = error.to_string();
    assert!(
        error.contains("/data/a.tar: the bucket failed with status 500 (after 7 attempts)"),
        "{error}"
    );
    assert_eq!(server.gets().len(), 7);
}

#[test]
fn what_cannot_pass_is_not_tried_again() {
    let (server, bucket, object) = web();
    for (status, says) in [(403, "access is denied"), (404, "no such object"), (401, "not valid")] {
        server.fail([Fault::Status(status, "")]);
        let error = fetch(&bucket, &object, 0..100).unwrap_err();
        assert!(error.to_string().contains(says) && !error.is_change(), "{error}");
    }
    assert_eq!((server.gets().len(), bucket.traffic().retries), (3, 0));
}

#[test]
fn an_object_that_changed_is_refused() {
    let (server, bucket, object) = web();
    server.fail([Fault::Tag("\"other\"")]);
    let error = fetch(&bucket, &object, 0..100).unwrap_err();
    assert!(
        error.is_change() && error.to_string().contains("its ETag is other and was"),
        "{error}"
    );
    // The server itself compares the tag.
    server.put("/data/a.tar", vec![1; 1000]);
    let error = fetch(&bucket, &object, 0..100).unwrap_err();
    assert!(error.is_change() && error.to_string().contains("another ETag"), "{error}");
    // Without tags, the size tells.
    let untagged = Object { tag: String::new(), size: 999, ..object };
    let error = fetch(&bucket, &untagged, 0..100).unwrap_err();
    assert!(
        error.is_change() && error.to_string().contains("it has 1000 bytes and had 999"),
        "{error}"
    );
    assert_eq!(bucket.traffic().retries, 0);
}

#[test]
fn an_answer_of_another_range_is_requested_again() {
    let (server, bucket, object) = web();
    server.fail([Fault::Shifted]);
    assert_eq!(fetch(&bucket, &object, 0..100).unwrap(), right(0..100));
    assert_eq!(bucket.traffic().retries, 1);
}

#[test]
fn a_redirect_to_a_server_that_is_down_is_requested_again() {
    let (server, bucket, object) = web();
    let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let location = format!("Location: http://{down}/a.tar\r\n").leak();
    server.fail([Fault::Status(302, location)]);
    assert_eq!(fetch(&bucket, &object, 0..100).unwrap(), right(0..100));
    assert_eq!(bucket.traffic().retries, 1);
}

/// More than what is read of a body that does not end, and what is on its way by then.
const ENDLESS: usize = 64 << 20;

#[test]
fn an_error_whose_body_does_not_end_is_an_error() {
    let (server, bucket, object) = web();
    server.fail([Fault::Endless(418)]);
    let error = fetch(&bucket, &object, 0..100).unwrap_err().to_string();
    assert!(error.contains("status 418"), "{error}");
    assert!(server.endless() < ENDLESS, "{}", server.endless());
}

#[test]
fn a_late_first_byte_is_hedged() {
    let (server, bucket, object) = web();
    server.fail([Fault::Late]);
    assert_eq!(fetch(&bucket, &object, 0..100).unwrap(), right(0..100));
    let traffic = bucket.traffic();
    assert_eq!((traffic.hedges, traffic.retries, server.gets().len()), (1, 0, 2));
}

/// The bucket `b` of a server.
fn s3(server: &Server) -> Arc<dyn Bucket> {
    let settings = server.settings();
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (*key, &**value)).collect();
    forebay_remote::open_with(&Network::new().unwrap(), "s3://b", &settings).unwrap().0
}

#[test]
fn a_page_of_a_list_that_fails_is_requested_again_and_not_the_pages_before() {
    let server = Server::start();
    for number in 0..5 {
        server.put(&format!("/b/train/{number}.tar"), vec![1; 10]);
    }
    server.set_page(2);
    let bucket = s3(&server);
    server.fail_lists([Fault::Nothing, Fault::Status(500, "")]);
    assert_eq!(bucket.list("train").unwrap().len(), 5);
    assert_eq!((server.lists(), bucket.traffic().retries), (4, 1));
}

#[test]
fn a_list_that_does_not_end_is_an_error() {
    let server = Server::start();
    let bucket = s3(&server);
    server.fail_lists([Fault::Endless(200)]);
    let error = bucket.list("train").unwrap_err().to_string();
    assert!(error.contains("cannot list s3://b/train: status 200"), "{error}");
    assert!(server.endless() < ENDLESS, "{}", server.endless());
}

#[test]
fn a_part_of_a_large_file_that_fails_is_written_again_and_one_that_cannot_be_is_given_up() {
    let server = Server::start();
    let bucket = s3(&server);
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = (folder.path().join("x"), vec![7; (16 << 20) + 5]);
    std::fs::write(&file, &bytes).unwrap();
    server.fail_writes([
        Fault::Nothing,
        Fault::Status(500, ""),
        Fault::Nothing,
        Fault::Status(503, ""),
    ]);
    bucket.write("x.forebay", &file).unwrap();
    let object = bucket.find(&["x.forebay".to_owned()]).unwrap().remove(0).unwrap();
    let end = bytes.len() as u64;
    assert_eq!((object.size, fetch(&bucket, &object, end - 9..end).unwrap()), (end, vec![7; 9]));
    let before = server.writes().len();
    server.fail_writes([Fault::Nothing, Fault::Status(403, "")]);
    let error = bucket.write("y.forebay", &file).unwrap_err().to_string();
    assert!(error.contains("access is denied") && error.contains("--index-dir"), "{error}");
    assert_eq!(server.writes()[before..], ["POST 0", "PUT 1", "DELETE 0"]);
    assert!(!server.has("/b/y.forebay") && !server.has_parts());
}

/// A file of two parts.
fn two_parts() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = (folder.path().join("x"), vec![7; (16 << 20) + 5]);
    std::fs::write(&file, &bytes).unwrap();
    (folder, file, bytes)
}

#[test]
fn a_large_file_is_written_though_the_last_answer_is_lost() {
    let (server, (_folder, file, bytes)) = (Server::start(), two_parts());
    let bucket = s3(&server);
    server.fail_writes([Fault::Nothing, Fault::Nothing, Fault::Nothing, Fault::Lost]);
    bucket.write("x.forebay", &file).unwrap();
    let object = bucket.find(&["x.forebay".to_owned()]).unwrap().remove(0).unwrap();
    assert_eq!(fetch(&bucket, &object, 0..object.size).unwrap(), bytes);
    // The first of these two was done, and there was nothing left for the second.
    assert_eq!(server.writes()[3..], ["POST 0", "POST 0", "DELETE 0"]);
}

#[test]
fn a_large_file_is_not_written_if_an_older_object_of_its_size_is_there() {
    let (server, (_folder, file, bytes)) = (Server::start(), two_parts());
    let mut older = bytes;
    *older.last_mut().unwrap() = 8;
    server.put("/b/x.forebay", older);
    server.fail_writes([Fault::Nothing, Fault::Nothing, Fault::Nothing, Fault::Status(403, "")]);
    let error = s3(&server).write("x.forebay", &file).unwrap_err().to_string();
    assert!(error.contains("access is denied"), "{error}");
    assert!(!server.has_parts(), "no parts are left behind");
}

const SLOW: &str = "<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code></Error>";
const INTERNAL: &str = "<Error><Code>InternalError</Code><Message>We ...</Message></Error>";

#[test]
fn answers_of_status_200_whose_body_is_an_error_are_requested_again() {
    let (server, (_folder, file, bytes)) = (Server::start(), two_parts());
    let bucket = s3(&server);
    let (slow, internal) = (Fault::Body(200, SLOW), Fault::Body(200, INTERNAL));
    let json = Fault::Body(200, r#"{"error": {"code": 503}}"#);
    let fine = Fault::Nothing;
    server.fail_writes([slow, fine, internal, fine, json, fine, slow, internal]);
    bucket.write("x.forebay", &file).unwrap();
    server.fail_lists([internal, json]);
    let object = bucket.list("").unwrap().remove(0);
    assert_eq!(object.size, bytes.len() as u64);
    server.fail([internal, slow, Fault::Body(400, "<Error><Code>RequestTimeout</Code></Error>")]);
    assert_eq!(fetch(&bucket, &object, 0..9).unwrap(), [7; 9]);
    // What cannot pass is told.
    server.fail([Fault::Body(
        200,
        "<Error><Code>InvalidRequest</Code><Message>no</Message></Error>",
    )]);
    let error = fetch(&bucket, &object, 0..9).unwrap_err().to_string();
    assert!(error.contains("status 400: InvalidRequest: no"), "{error}");
}

#[test]
fn an_error_of_a_search_names_the_object() {
    let server = Server::start();
    server.put("/b/a.tar", vec![1; 10]);
    server.hide_missing();
    let keys = ["a.tar", "b.tar"].map(str::to_owned);
    let error = s3(&server).find(&keys).unwrap_err().to_string();
    assert!(error.contains("cannot find s3://b/b.tar: access is denied"), "{error}");
}

#[test]
fn a_bucket_is_listed_written_and_read_as_s3() {
    let server = Server::start();
    server.put("/b/train/0.tar", vec![1; 10]);
    server.put("/b/train/deep/1.tar", vec![1; 10]);
    server.put("/b/other.tar", vec![1; 10]);
    let settings = server.settings();
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (*key, &**value)).collect();
    let network = Network::new().unwrap();
    let (bucket, path) = forebay_remote::open_with(&network, "s3://b/train/", &settings).unwrap();
    assert_eq!((bucket.url(), &*path, bucket.has_lists()), ("s3://b", "train", true));
    let objects = bucket.list("train").unwrap();
    assert_eq!(objects.iter().map(|object| &*object.key).collect::<Vec<_>>(), ["train/0.tar"]);
    assert_eq!(fetch(&bucket, &objects[0], 2..5).unwrap(), [1; 3]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    std::fs::write(&file, "index").unwrap();
    bucket.write("train.forebay", &file).unwrap();
    assert!(server.has("/b/train.forebay"));
}

#[test]
fn a_bucket_of_another_region_is_named() {
    let server = Server::start();
    server.put("/b/a.tar", vec![1; 10]);
    let settings = server.settings();
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(key, value)| (*key, &**value)).collect();
    let (bucket, _) =
        forebay_remote::open_with(&Network::new().unwrap(), "s3://b", &settings).unwrap();
    let object = bucket.list("").unwrap().remove(0);
    server.fail([Fault::Status(301, "x-amz-bucket-region: eu-west-1\r\n")]);
    let error = fetch(&bucket, &object, 0..10).unwrap_err().to_string();
    assert!(error.contains("set AWS_REGION=eu-west-1"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}/a.tar");
    let (bucket, path) = forebay_remote::open(&Network::new().unwrap(), &url).unwrap();
    let error = bucket.find(&[path]).unwrap_err().to_string();
    assert!(error.contains("no answer") && error.contains("check the network"), "{error}");
}
