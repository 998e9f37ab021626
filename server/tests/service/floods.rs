//! Floods of frames that cost their sender nothing.

use forebay_proto::v1::{DescribeRequest, FetchRequest};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::{
    DATA, END_STREAM, HELLO, PING, RESET, Raw, SETTINGS, WINDOW_UPDATE, frame, headers,
};
use crate::support::{HANG, MICROBATCH_BYTES, Make, job, next, patient, start, steps};

const PRIORITY: u8 = 2;
const UNKNOWN: u8 = 77;

#[tokio::test]
async fn a_flood_of_frames_is_cut_and_others_are_served() {
    // Nothing but the flood can close a connection.
    let server = start(Make::Now, patient()).await;
    let mut other = server.client().await.stream(steps(100)).await.unwrap().into_inner();
    let call = |stream| [headers(stream, "Nothing"), frame(DATA, END_STREAM, stream, b"")].concat();
    let floods: [(&str, Vec<u8>); 6] = [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, b"")),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("unknown frames", frame(UNKNOWN, 0, 0, b"x")),
        ("resets", frame(RESET, 0, 1, &[0, 0, 0, 8])),
    ];
    for (what, flood) in floods {
        let mut stream =
            TcpStream::connect(server.address.trim_start_matches("http://")).await.unwrap();
        let (mut read, mut write) = stream.split();
        // Stream 1 exists, so that frames can refer to it.
        write.write_all(&[HELLO, &call(1)].concat()).await.unwrap();
        let send = async {
            let many = flood.repeat(100);
            while write.write_all(&many).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let closed = async { while read.read(&mut [0; 1 << 12]).await.is_ok_and(|n| n > 0) {} };
        let cut = async {
            tokio::select! { () = send => {}, () = closed => {} }
        };
        timeout(HANG, cut).await.unwrap_or_else(|_| panic!("a flood of {what} goes on"));
        next(&mut other).await.unwrap().expect("others are served");
    }
}

#[tokio::test]
async fn a_reader_that_grants_every_frame_is_not_cut() {
    let server = start(Make::Now, patient()).await;
    let request = FetchRequest { job: Some(job()), ..FetchRequest::default() }.encode_to_vec();
    let mut raw = Raw::open(server.address.trim_start_matches("http://")).await.unwrap();
    // Two WINDOW_UPDATE frames for each DATA frame, on one connection: 10,000 in all.
    raw.call("Fetch", &request).await.unwrap();
    let mut granted = 0;
    for stream in (1..).step_by(2) {
        let mut bytes = 0;
        while bytes < MICROBATCH_BYTES {
            let answer = timeout(HANG, raw.next()).await.unwrap().unwrap();
            let answer = answer.expect("the connection stays open");
            if answer.kind != DATA || answer.payload.is_empty() {
                continue;
            }
            bytes += answer.payload.len() as u64;
            let more = u32::try_from(answer.payload.len()).unwrap().to_be_bytes();
            let grants = [stream, 0].map(|stream| frame(WINDOW_UPDATE, 0, stream, &more));
            // The stream may have ended.
            raw.send(&grants.concat()).await.unwrap();
            granted += 2;
        }
        if granted > 4 * 1000 {
            // Four times what a connection may send without having earned it.
            break;
        }
        let data = frame(DATA, END_STREAM, stream + 2, &crate::raw::message(&request));
        raw.send(&[headers(stream + 2, "Fetch"), data].concat()).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_of_many_calls_is_not_cut() {
    let server = start(Make::Now, patient()).await;
    let mut client = server.client().await;
    for _ in 0..2000 {
        client.describe(DescribeRequest { job: Some(job()), first_class: 0 }).await.unwrap();
    }
}
