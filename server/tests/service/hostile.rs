//! Ten thousand malformed calls and connections, the same in each run: each gets a clear code or loses
//! its connection, nothing panics, and memory does not grow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_proto::v1::forebay_service_client::ForebayServiceClient as Client;
use forebay_proto::v1::{self, DescribeRequest, ExplainRequest, FetchRequest, StreamRequest};
use forebay_server::Limits;
use forebay_types::process::memory;
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

use crate::raw::{
    DATA, END_HEADERS, END_STREAM, Frame, HEADERS, HELLO, PING, RESET, Raw, SETTINGS,
    WINDOW_UPDATE, frame, headers, message,
};
use crate::support::{HANG, Make, drain, job, patient, start, steps};

const ALL: usize = 10_000;

/// Panics of any thread of this process.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn number(&mut self) -> u64 {
        let random = self.next();
        self.pick(&[0, 1, 2, 3, 4, 1 << 31, 1 << 32, u64::MAX - 1, u64::MAX, random])
    }

    fn kind(&mut self) -> i32 {
        self.pick(&[0, 1, 2, 3, 4, -1, 99, i32::MIN, i32::MAX])
    }

    fn text(&mut self) -> String {
        let random = String::from_utf8_lossy(&self.bytes(40)).into_owned();
        let known = ["", "pets", "../../etc/passwd", "pets\0", "%s%n", "a2", "<script>"];
        if self.below(2) == 0 { random } else { self.pick(&known).to_owned() }
    }

    fn job(&mut self) -> Option<v1::Job> {
        let digest = |random: &mut Self| {
            let length = random.pick(&[0, 0, 1, 31, 32, 33]);
            vec![0xda; length].into()
        };
        let recipe = v1::Recipe {
            name: self.text(),
            toml: self.text(),
            set: (0..self.below(3)).map(|_| self.text()).collect(),
        };
        let hostile = v1::Job {
            dataset: if self.below(2) == 0 { "pets".into() } else { self.text() },
            recipe: (self.below(2) == 0).then_some(recipe),
            seed: self.number(),
            dataset_digest: digest(self),
            recipe_digest: digest(self),
        };
        (self.below(8) > 0).then_some(hostile)
    }

    /// A connection for leases that the client does not have.
    fn leases(&mut self) -> Option<v1::LeaseOptions> {
        let length = self.pick(&[0, 15, 16, 17]);
        let connection = vec![0xda; length].into();
        (self.below(2) == 0).then(|| v1::LeaseOptions { connection, call: self.number() })
    }

    /// A well-formed request with hostile values, and its method.
    fn request(&mut self) -> (&'static str, Vec<u8>) {
        let (job, epoch, step) = (self.job(), self.number(), self.number());
        let index = u32::try_from(self.number() & 0xFFFF_FFFF).unwrap();
        let (dtype, layout, mixed_by) = (self.kind(), self.kind(), self.kind());
        let leases = self.leases();
        match self.below(4) {
            0 => ("Describe", DescribeRequest { job, first_class: step }.encode_to_vec()),
            1 => {
                let request =
                    ExplainRequest { job, epoch, step, microbatch: index, first_sample: index };
                ("Explain", request.encode_to_vec())
            }
            2 => {
                let microbatch = index;
                let request =
                    FetchRequest { job, epoch, step, microbatch, dtype, layout, mixed_by, leases };
                ("Fetch", request.encode_to_vec())
            }
            _ => {
                let request = StreamRequest {
                    job,
                    epoch,
                    step,
                    steps: self.number(),
                    microbatches: (0..self.below(6))
                        .map(|_| self.pick(&[0, 1, 2, 3, 4, 99]))
                        .collect(),
                    skip: index,
                    dtype,
                    layout,
                    mixed_by,
                    window_bytes: self.number(),
                    leases,
                };
                ("Stream", request.encode_to_vec())
            }
        }
    }

    /// The bytes to send on a connection, and whether they are a call that must get a code.
    fn attack(&mut self) -> (Vec<u8>, bool) {
        let method = self.pick(&["Describe", "Explain", "Fetch", "Stream", "Nothing", ""]);
        match self.below(8) {
            // A call with random bytes as its message.
            0 => {
                let data = frame(DATA, END_STREAM, 1, &message(&self.bytes(300)));
                ([HELLO, &headers(1, method), &data].concat(), true)
            }
            // Hostile values in well-formed messages, intact or with bytes changed.
            kind @ 1..=3 => {
                let (method, mut body) = self.request();
                if kind == 1 && !body.is_empty() {
                    for _ in 0..=self.below(4) {
                        let at = self.below(body.len());
                        body[at] = self.next().to_le_bytes()[0];
                    }
                }
                let data = frame(DATA, END_STREAM, 1, &message(&body));
                ([HELLO, &headers(1, method), &data].concat(), true)
            }
            // A wrong length, a compressed flag, no message, two messages.
            4 => {
                let (method, body) = self.request();
                let mut data = message(&body).to_vec();
                match self.below(4) {
                    0 => data[1..5].copy_from_slice(&self.next().to_le_bytes()[..4]),
                    1 => data[0] = 1,
                    2 => data.clear(),
                    _ => data.extend(message(&body)),
                }
                let data = frame(DATA, END_STREAM, 1, &data);
                ([HELLO, &headers(1, method), &data].concat(), true)
            }
            // Frames of random types, flags, streams and contents.
            5 => {
                let mut bytes = HELLO.to_vec();
                for _ in 0..=self.below(6) {
                    let kinds =
                        [DATA, HEADERS, 2, RESET, SETTINGS, 5, PING, 7, WINDOW_UPDATE, 9, 77];
                    let (kind, flags) = (self.pick(&kinds), self.next().to_le_bytes()[0]);
                    let stream = self.pick(&[0, 1, 2, 3, 0x7FFF_FFFF, 0xFFFF_FFFF]);
                    bytes.extend(frame(kind, flags, stream, &self.bytes(64)));
                }
                (bytes, false)
            }
            // A header block of random bytes; many calls that are reset at once.
            6 if self.below(2) == 0 => {
                let block = frame(HEADERS, END_HEADERS, 1, &self.bytes(200));
                ([HELLO, &block].concat(), false)
            }
            6 => {
                let mut bytes = HELLO.to_vec();
                for stream in (1..60).step_by(2) {
                    bytes.extend(headers(stream, "Stream"));
                    bytes.extend(frame(RESET, 0, stream, &[0, 0, 0, 8]));
                }
                (bytes, false)
            }
            // Something other than HTTP/2.
            _ => (self.bytes(200), false),
        }
    }
}

/// Whether the server responds to a call: with data, or with headers that end it.
async fn answers(raw: &mut Raw) -> bool {
    while let Ok(Some(Frame { kind, flags, payload, .. })) = raw.next().await {
        let ends = kind == HEADERS && flags & END_STREAM != 0;
        if ends || kind == DATA && !payload.is_empty() {
            return true;
        }
    }
    false
}

/// The code of a hostile call, by a stock client.
async fn code(client: &mut Client<Channel>, (method, body): (&str, Vec<u8>)) -> Code {
    let body = body.as_slice();
    let ended = match method {
        "Describe" => client.describe(DescribeRequest::decode(body).unwrap()).await.map(drop),
        "Explain" => client.explain(ExplainRequest::decode(body).unwrap()).await.map(drop),
        "Fetch" => client.fetch(FetchRequest::decode(body).unwrap()).await.map(drop),
        _ => client.stream(StreamRequest::decode(body).unwrap()).await.map(drop),
    };
    ended.map_or_else(|status| status.code(), |()| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_calls_and_frames_do_no_harm() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // Other tests fail in threads of their own, which have the tests' names.
        if std::thread::current().name().is_none_or(|name| name.starts_with("tokio")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        hook(panic);
    }));
    let limits = Limits {
        // Short enough to end half-open connections during the test, and long enough that a busy
        // machine sends every call in time.
        handshake_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        authentication_timeout: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(10),
        ..patient()
    };
    let server = start(Make::Now, limits).await;
    let address = server.address.trim_start_matches("http://").to_owned();
    let attack_all = async |seeds: std::ops::Range<usize>| {
        let (mut answered, mut lost) = (0, 0);
        let mut half_open = Vec::new();
        for seed in seeds {
            let (bytes, is_call) = Random(seed as u64).attack();
            let mut raw = Raw::open(&address).await.unwrap();
            // The server may have closed the connection already.
            raw.send(&bytes).await.ok();
            if is_call {
                let answer = timeout(HANG, answers(&mut raw)).await.expect("the server responds");
                *if answer { &mut answered } else { &mut lost } += 1;
            } else if half_open.len() < 200 {
                // Stays open and silent until the server closes it.
                half_open.push(raw);
            }
        }
        (answered, lost)
    };
    // The first thousand allocate what is allocated once, such as buffers of threads.
    attack_all(0..ALL / 10).await;
    let resident_kib = || memory().unwrap().resident / 1024;
    let before = resident_kib();
    let (answered, lost) = attack_all(ALL / 10..ALL).await;
    assert!(answered > ALL / 2 && lost == 0, "{answered} calls have an answer, {lost} have none");
    crate::support::until("all buffers are back", || server.fake.live() == 0).await;
    let after = resident_kib();
    println!("{answered} answers; {before} KiB before, {after} KiB after");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    assert!(after < before + (32 << 10), "{before} KiB before, {after} KiB after");

    // Each well-formed request gets a code that says what is wrong with it.
    let mut client = server.client().await;
    let mut codes = BTreeMap::new();
    for seed in 0..ALL as u64 / 10 {
        let code = code(&mut client, Random(seed).request()).await;
        *codes.entry(format!("{code:?}")).or_insert(0) += 1;
    }
    let known = ["FailedPrecondition", "InvalidArgument", "NotFound", "Ok", "OutOfRange"];
    assert!(codes.keys().all(|code| known.contains(&&**code)), "{codes:?}");
    assert!(codes.len() == known.len(), "{codes:?}");

    // Others are still served.
    client.describe(DescribeRequest { job: Some(job()), first_class: 0 }).await.unwrap();
    let mut stream = client.stream(steps(1)).await.unwrap().into_inner();
    let (names, end) = drain(&mut stream).await;
    end.unwrap();
    assert_eq!(names.len(), 4);
    let nothing = DescribeRequest { job: None, first_class: 0 };
    assert_eq!(client.describe(nothing).await.unwrap_err().code(), Code::InvalidArgument);
}
