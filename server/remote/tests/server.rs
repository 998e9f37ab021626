//! A server of objects that answers as S3 and as a web server does, and fails as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// A time that only a hang exceeds.
pub(crate) const HANG: Duration = Duration::from_mins(5);

/// What goes wrong with one request for an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Another status, with a header.
    Status(u16, &'static str),
    /// The connection ends after this many bytes of the body.
    Cut(usize),
    /// The body is this long, and says so.
    Short(usize),
    /// Another `ETag`.
    Tag(&'static str),
    /// Another byte, at this place of the body.
    Wrong(usize),
    /// No answer before the next request was answered.
    Late,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    faults: VecDeque<Fault>,
    /// Requests for objects, with their ranges.
    gets: Vec<(String, String)>,
    answered: usize,
}

/// A running server. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// The `ETag` of an object.
fn tag(bytes: &[u8]) -> String {
    format!("\"{:016x}\"", xxhash_rust::xxh3::xxh3_64(bytes))
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Self { address, state: Arc::default() };
        let of_thread = server.clone();
        thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming() {
                    let server = of_thread.clone();
                    let serve = move || drop(server.serve(&stream.unwrap()));
                    thread::Builder::new().spawn(serve).unwrap();
                }
            })
            .unwrap();
        server
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// Settings with which it is an S3 endpoint.
    pub(crate) fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("aws_endpoint_url", format!("http://{}", self.address)),
            ("aws_access_key_id", "id".to_owned()),
            ("aws_secret_access_key", "secret".to_owned()),
            ("aws_region", "us-east-1".to_owned()),
        ]
    }

    /// Puts an object at `/bucket/key`.
    pub(crate) fn put(&self, path: &str, bytes: Vec<u8>) {
        self.lock().objects.insert(path.to_owned(), bytes);
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.lock().objects.contains_key(path)
    }

    /// What goes wrong with the next requests for objects.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Requests for objects so far.
    pub(crate) fn gets(&self) -> Vec<(String, String)> {
        self.lock().gets.clone()
    }

    /// Answers the requests of a connection.
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let (method, target) =
                (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((name, value)) = line.trim_end().split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let path = path.replace("%7B", "{").replace("%7D", "}").replace("%23", "#");
            if query.contains("list-type=2") {
                respond(stream, 200, "", self.list(&path, query).as_bytes(), true)?;
            } else if method == "PUT" {
                let tag = tag(&body);
                self.put(&path, body);
                respond(stream, 200, &format!("ETag: {tag}\r\n"), b"", true)?;
            } else if !self.object(stream, &method, &path, &headers)? {
                return Ok(());
            }
        }
    }

    fn list(&self, path: &str, query: &str) -> String {
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix="));
        let prefix = prefix.unwrap_or_default().replace("%2F", "/").replace("%23", "#");
        let whole = format!("{}/{prefix}", path.trim_end_matches('/'));
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (path, bytes) in &self.lock().objects {
            let Some(rest) = path.strip_prefix(&whole) else { continue };
            if !rest.contains('/') {
                let (size, tag) = (bytes.len(), tag(bytes));
                write!(
                    xml,
                    "<Contents><Key>{prefix}{rest}</Key><Size>{size}</Size><ETag>{tag}</ETag>\
                     <LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
                )
                .unwrap();
            }
        }
        xml + "</ListBucketResult>"
    }

    /// Answers a request for an object; false if the connection ends.
    fn object(
        &self,
        stream: &TcpStream,
        method: &str,
        path: &str,
        headers: &BTreeMap<String, String>,
    ) -> std::io::Result<bool> {
        let range = headers.get("range").cloned().unwrap_or_default();
        let mut state = self.lock();
        let mut fault = None;
        if method == "GET" {
            state.gets.push((path.to_owned(), range.clone()));
            fault = state.faults.pop_front();
        }
        if let Some(Fault::Late) = fault {
            let answered = state.answered;
            let waited = self
                .state
                .1
                .wait_timeout_while(state, HANG, |state| state.answered == answered)
                .unwrap();
            state = waited.0;
        }
        let Some(object) = state.objects.get(path).cloned() else {
            drop(state);
            respond(stream, 404, "", b"", true)?;
            return Ok(true);
        };
        let whole = object.len();
        let (start, end) =
            match range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) {
                Some((start, end)) => (start.parse().unwrap(), end.parse::<usize>().unwrap() + 1),
                None => (0, whole),
            };
        let end = end.min(whole);
        let mut own = tag(&object);
        if let Some(Fault::Tag(other)) = fault {
            other.clone_into(&mut own);
        } else if headers.get("if-match").is_some_and(|tag| *tag != own) {
            drop(state);
            respond(stream, 412, "", b"", true)?;
            return Ok(true);
        }
        let mut body = object[start..end].to_vec();
        if let Some(Fault::Wrong(at)) = fault {
            body[at] ^= 1;
        }
        let (status, about) = if range.is_empty() {
            (200, String::new())
        } else {
            (206, format!("Content-Range: bytes {start}-{}/{whole}\r\n", end - 1))
        };
        let about =
            format!("{about}ETag: {own}\r\nLast-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\n");
        state.answered += 1;
        drop(state);
        self.state.1.notify_all();
        match fault {
            Some(Fault::Status(status, header)) => respond(stream, status, header, b"", true)?,
            Some(Fault::Cut(bytes)) => {
                let mut stream = stream;
                let head =
                    format!("HTTP/1.1 {status} x\r\n{about}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes())?;
                stream.write_all(&body[..bytes])?;
                stream.shutdown(std::net::Shutdown::Both)?;
                return Ok(false);
            }
            Some(Fault::Short(bytes)) => respond(stream, status, &about, &body[..bytes], true)?,
            _ => respond(stream, status, &about, &body, method != "HEAD")?,
        }
        Ok(true)
    }
}

fn respond(
    mut stream: &TcpStream,
    status: u16,
    headers: &str,
    body: &[u8],
    has_body: bool,
) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    if has_body { stream.write_all(body) } else { Ok(()) }
}
