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
    /// Nothing.
    Nothing,
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
    /// The body is of the bytes behind the range, and says so.
    Shifted,
    /// This status, with a body that does not end.
    Endless(u16),
    /// This status, with a body that is none of the object's.
    Body(u16, &'static str),
    /// What was requested is done, and the connection ends without an answer.
    Lost,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    faults: VecDeque<Fault>,
    list_faults: VecDeque<Fault>,
    write_faults: VecDeque<Fault>,
    /// Objects on a page of a list; 0 for all.
    page: usize,
    /// Requests for ranges that have this byte of an object are not answered.
    hangs_at: Option<(String, usize)>,
    /// Whether objects have no `ETag`.
    is_untagged: bool,
    /// Whether requests for objects that there are not are denied.
    is_private: bool,
    /// Numbers of requests for lists.
    lists: usize,
    /// Parts of the object that is being written.
    parts: Option<BTreeMap<usize, Vec<u8>>>,
    /// What was requested to write an object in parts.
    writes: Vec<String>,
    /// Bytes of bodies that do not end.
    endless: usize,
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

    pub(crate) fn remove(&self, path: &str) {
        self.lock().objects.remove(path);
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.lock().objects.contains_key(path)
    }

    /// What goes wrong with the next requests for objects.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// What goes wrong with the next requests for lists.
    pub(crate) fn fail_lists(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().list_faults.extend(faults);
    }

    /// What goes wrong with the next requests that write.
    pub(crate) fn fail_writes(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().write_faults.extend(faults);
    }

    /// Lists have this many objects on a page.
    pub(crate) fn set_page(&self, objects: usize) {
        self.lock().page = objects;
    }

    /// From now on, no request for a range that has this byte of an object is answered.
    pub(crate) fn hang_at(&self, path: &str, byte: usize) {
        self.lock().hangs_at = Some((path.to_owned(), byte));
    }

    /// From now on, no answer has an `ETag`.
    pub(crate) fn remove_tags(&self) {
        self.lock().is_untagged = true;
    }

    /// From now on, requests for objects that there are not are denied.
    pub(crate) fn hide_missing(&self) {
        self.lock().is_private = true;
    }

    /// Requests for pages of lists so far.
    pub(crate) fn lists(&self) -> usize {
        self.lock().lists
    }

    /// Requests to write objects in parts so far.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.lock().writes.clone()
    }

    /// Whether parts are left that no object has.
    pub(crate) fn has_parts(&self) -> bool {
        self.lock().parts.is_some()
    }

    /// Bytes that were sent of bodies that do not end.
    pub(crate) fn endless(&self) -> usize {
        self.lock().endless
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
                let mut state = self.lock();
                state.lists += 1;
                let fault = state.list_faults.pop_front();
                drop(state);
                match fault {
                    Some(Fault::Status(status, header)) => {
                        respond(stream, status, header, b"", true)?;
                    }
                    Some(Fault::Endless(status)) => {
                        self.send_endless(stream, status)?;
                        return Ok(());
                    }
                    Some(Fault::Body(status, body)) => {
                        respond(stream, status, "", body.as_bytes(), true)?;
                    }
                    _ => respond(stream, 200, "", self.list(&path, query).as_bytes(), true)?,
                }
            } else if query.contains("upload") {
                let number = part_number(query);
                let mut state = self.lock();
                state.writes.push(format!("{method} {}", number.unwrap_or_default()));
                let fault = state.write_faults.pop_front().unwrap_or(Fault::Nothing);
                drop(state);
                let (status, answer) = match fault {
                    Fault::Status(status, _) => (status, String::new()),
                    Fault::Body(status, body) => (status, body.to_owned()),
                    _ => self.write_parts(&method, &path, query, body),
                };
                if matches!(fault, Fault::Lost) {
                    return Ok(());
                }
                respond(stream, status, "ETag: \"part\"\r\n", answer.as_bytes(), true)?;
            } else if method == "PUT" {
                let tag = tag(&body);
                self.put(&path, body);
                respond(stream, 200, &format!("ETag: {tag}\r\n"), b"", true)?;
            } else if !self.object(stream, &method, &path, &headers)? {
                return Ok(());
            }
        }
    }

    /// Answers a request of those that write an object in parts.
    fn write_parts(&self, method: &str, path: &str, query: &str, body: Vec<u8>) -> (u16, String) {
        let mut state = self.lock();
        if method == "POST" && query.contains("uploads") {
            state.parts = Some(BTreeMap::new());
            let name = "InitiateMultipartUploadResult";
            return (200, format!("<{name}><UploadId>u</UploadId></{name}>"));
        }
        let Some(mut parts) = state.parts.take() else {
            return (404, "<Error><Code>NoSuchUpload</Code></Error>".to_owned());
        };
        match (method, part_number(query)) {
            ("PUT", Some(number)) => {
                parts.insert(number, body);
                state.parts = Some(parts);
            }
            ("POST", _) => {
                let whole = parts.into_values().flatten().collect();
                state.objects.insert(path.to_owned(), whole);
                let name = "CompleteMultipartUploadResult";
                return (200, format!("<{name}><ETag>\"whole\"</ETag></{name}>"));
            }
            _ => {}
        }
        (200, String::new())
    }

    /// Sends a body for as long as it is taken, up to what no test survives.
    fn send_endless(&self, mut stream: &TcpStream, status: u16) -> std::io::Result<()> {
        stream.write_all(format!("HTTP/1.1 {status} x\r\nConnection: close\r\n\r\n").as_bytes())?;
        let chunk = vec![b'x'; 1 << 16];
        for _ in 0..4096 {
            stream.write_all(&chunk)?;
            self.lock().endless += chunk.len();
        }
        Ok(())
    }

    fn list(&self, path: &str, query: &str) -> String {
        let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix="));
        let prefix = prefix.unwrap_or_default().replace("%2F", "/").replace("%23", "#");
        let whole = format!("{}/{prefix}", path.trim_end_matches('/'));
        let after = query.split('&').find_map(|part| part.strip_prefix("continuation-token="));
        let mut xml = "<ListBucketResult>".to_owned();
        let (state, mut listed, mut last) = (self.lock(), 0, None);
        for (path, bytes) in &state.objects {
            let Some(rest) = path.strip_prefix(&whole) else { continue };
            if !rest.contains('/') && after.is_none_or(|after| rest > after) {
                if state.page > 0 && listed == state.page {
                    let token: &str = last.unwrap();
                    write!(xml, "<NextContinuationToken>{token}</NextContinuationToken>").unwrap();
                    break;
                }
                (listed, last) = (listed + 1, Some(rest));
                let (size, tag) = (bytes.len(), tag(bytes));
                write!(
                    xml,
                    "<Contents><Key>{prefix}{rest}</Key><Size>{size}</Size><ETag>{tag}</ETag>\
                     <LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
                )
                .unwrap();
            }
        }
        let is_truncated = xml.contains("Token");
        xml + &format!("<IsTruncated>{is_truncated}</IsTruncated></ListBucketResult>")
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
            let status = if state.is_private { 403 } else { 404 };
            drop(state);
            respond(stream, status, "", b"", true)?;
            return Ok(true);
        };
        let whole = object.len();
        let (start, end) = bounds(&range, whole);
        let hangs = |state: &mut State| {
            let at = state.hangs_at.as_ref().filter(|(hanging, _)| hanging == path);
            at.is_some_and(|(_, byte)| (start..end).contains(byte))
        };
        if hangs(&mut state) {
            state = self.state.1.wait_timeout_while(state, HANG, hangs).unwrap().0;
        }
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
        let start = if matches!(fault, Some(Fault::Shifted)) { start + 1 } else { start };
        let (status, about) = if range.is_empty() {
            (200, String::new())
        } else {
            (206, format!("Content-Range: bytes {start}-{}/{whole}\r\n", end - 1))
        };
        let own = if state.is_untagged { String::new() } else { format!("ETag: {own}\r\n") };
        let about = format!("{about}{own}Last-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\n");
        state.answered += 1;
        drop(state);
        self.state.1.notify_all();
        self.answer(stream, fault, (status, &about, &body), method != "HEAD")
    }

    /// Sends an object, or what a fault makes of it; false if the connection ends.
    fn answer(
        &self,
        stream: &TcpStream,
        fault: Option<Fault>,
        (status, about, body): (u16, &str, &[u8]),
        has_body: bool,
    ) -> std::io::Result<bool> {
        match fault {
            Some(Fault::Status(status, header)) => respond(stream, status, header, b"", true)?,
            Some(Fault::Body(status, body)) => {
                respond(stream, status, "", body.as_bytes(), true)?;
            }
            Some(Fault::Cut(bytes)) => {
                let mut stream = stream;
                let head =
                    format!("HTTP/1.1 {status} x\r\n{about}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(head.as_bytes())?;
                stream.write_all(&body[..bytes])?;
                stream.shutdown(std::net::Shutdown::Both)?;
                return Ok(false);
            }
            Some(Fault::Endless(status)) => {
                self.send_endless(stream, status)?;
                return Ok(false);
            }
            Some(Fault::Short(bytes)) => respond(stream, status, about, &body[..bytes], true)?,
            _ => respond(stream, status, about, body, has_body)?,
        }
        Ok(true)
    }
}

/// First byte and end of a range of an object.
fn bounds(range: &str, whole: usize) -> (usize, usize) {
    match range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) {
        Some((start, end)) => {
            (start.parse().unwrap(), whole.min(end.parse::<usize>().unwrap() + 1))
        }
        None => (0, whole),
    }
}

fn part_number(query: &str) -> Option<usize> {
    let number = query.split('&').find_map(|part| part.strip_prefix("partNumber="));
    number.map(|number| number.parse().unwrap())
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
