//! Hand-written HTTP/2: for readers of any speed, and for malformed input that no client would send.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// HTTP/2's preface and empty settings.
pub(crate) const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header field as a literal.
fn field(name: &str, value: &str, to: &mut Vec<u8>) {
    to.push(0);
    for text in [name, value] {
        assert!(text.len() < 127);
        to.push(u8::try_from(text.len()).unwrap());
        to.extend(text.as_bytes());
    }
}

/// The headers of a call of forebay's service.
pub(crate) fn headers(stream: u32, method: &str) -> Vec<u8> {
    headers_to(stream, &format!("/forebay.v1.ForebayService/{method}"))
}

/// The headers of a call.
pub(crate) fn headers_to(stream: u32, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    field(":method", "POST", &mut block);
    field(":scheme", "http", &mut block);
    field(":path", path, &mut block);
    field(":authority", "forebay", &mut block);
    field("content-type", "application/grpc", &mut block);
    field("te", "trailers", &mut block);
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A gRPC message, uncompressed.
pub(crate) fn message(body: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(body.len()).unwrap());
    message.put_slice(body);
    message.freeze()
}

/// A connection.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        Ok(Self(TcpStream::connect(address).await?))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Sends the preface and a call with one message.
    pub(crate) async fn call(&mut self, method: &str, body: &[u8]) -> io::Result<()> {
        let data = frame(DATA, END_STREAM, 1, &message(body));
        self.send(&[HELLO, &headers(1, method), &data].concat()).await
    }

    /// The next frame; `None` at the end. Acknowledges settings and pings.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).await.is_err() {
                return Ok(None);
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(&frame(SETTINGS, ACK, 0, b"")).await?,
                PING if flags & ACK == 0 => self.send(&frame(PING, ACK, 0, &payload)).await?,
                SETTINGS | PING => {}
                _ => return Ok(Some(Frame { kind, flags, stream, payload })),
            }
        }
    }

    /// Extends the flow-control windows by `bytes`.
    pub(crate) async fn grant(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = u32::try_from(bytes).unwrap().to_be_bytes();
        let [call, connection] = [1, 0].map(|stream| frame(WINDOW_UPDATE, 0, stream, &bytes));
        self.send(&[call, connection].concat()).await
    }

    /// Reads the response to a call to its end, at a limited rate, and counts its bytes.
    pub(crate) async fn read_slowly(
        &mut self,
        bytes_per_second: f64,
        received: &AtomicU64,
    ) -> io::Result<()> {
        while let Some(Frame { kind, flags, payload, .. }) = self.next().await? {
            match kind {
                DATA if !payload.is_empty() => {
                    received.fetch_add(payload.len() as u64, Ordering::Relaxed);
                    let time = payload.len() as f64 / bytes_per_second;
                    tokio::time::sleep(std::time::Duration::from_secs_f64(time)).await;
                    self.grant(payload.len()).await?;
                }
                RESET | GOAWAY => break,
                _ => {}
            }
            if flags & END_STREAM != 0 && matches!(kind, DATA | HEADERS) {
                break;
            }
        }
        Ok(())
    }
}
