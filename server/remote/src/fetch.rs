//! One range of an object: sent again when it fails, sent twice when its first byte is late, and checked.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay::dataset::{Object, Traffic};
use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, ObjectStore};
use tokio::time::{Instant, sleep, timeout};

use crate::address::Service;
use crate::connect::ANSWER;
use crate::fault::{Fault, Kind};
use crate::limit::{Limit, Permit, Turn};

/// Attempts of a request.
pub(crate) const ATTEMPTS: u32 = 7;

/// Time before the second attempt, which doubles for each further one, up to the longest.
const BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Time in which something must arrive: the first byte, and each further part.
const SILENCE: Duration = Duration::from_secs(15);

/// Bytes that must arrive or be sent in a second, on top of that time.
const SLOWEST: u64 = 64 << 10;

/// Time after which a first byte is late, at least and at most.
const LATE: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_secs(5);

/// Of this many requests, one may be hedged.
const HEDGE_EVERY: u64 = 10;

/// Fetches ranges from one bucket.
#[derive(Debug)]
pub(crate) struct Fetcher {
    store: Arc<dyn ObjectStore>,
    service: Service,
    limit: Limit,
    latency: Latency,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    throttled: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Fetcher {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, service: Service) -> Self {
        Self {
            store,
            service,
            limit: Limit::new(),
            latency: Latency::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { requests, bytes, retries, hedges, throttled } = &self.counters;
        Traffic {
            requests: count(requests),
            bytes: count(bytes),
            retries: count(retries),
            hedges: count(hedges),
            throttled: count(throttled),
        }
    }

    /// Lines up for a request.
    pub(crate) fn line_up(&self) -> Turn {
        self.limit.line_up()
    }

    /// Fetches a range, when it is the turn of its request.
    ///
    /// # Errors
    /// When the object is another one, or the last attempt failed.
    pub(crate) async fn fetch(
        &self,
        turn: Turn,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, Fault> {
        // Only the first attempt has a turn that was taken before.
        let turn = Mutex::new(Some(turn));
        let take = || turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        self.repeat(ATTEMPTS, || self.attempt(take(), object, range)).await
    }

    /// Runs a request of another kind, which is repeated as a range is, but not as often.
    ///
    /// # Errors
    /// When the last attempt failed.
    pub(crate) async fn call<T, F>(&self, request: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        self.send(0, request).await
    }

    /// The same for a request that sends bytes.
    ///
    /// # Errors
    /// When the last attempt failed.
    pub(crate) async fn send<T, F>(&self, bytes: usize, request: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let attempt = || async {
            let permit = self.limit.permit().await;
            match self.noted(patience(bytes), request()).await {
                Ok(value) => {
                    permit.succeeded();
                    Ok(value)
                }
                Err(fault) => Err(self.failed(permit, fault)),
            }
        };
        self.repeat(ATTEMPTS / 2, attempt).await
    }

    async fn repeat<T, F>(&self, attempts: u32, attempt: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut number = 1;
        loop {
            let fault = match attempt().await {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let wait = match fault.kind {
                Kind::Temporary => backoff(number),
                Kind::Throttled(after) => {
                    backoff(number).max(after.unwrap_or_default().min(LONGEST_BACKOFF))
                }
                Kind::Changed | Kind::Missing | Kind::Denied | Kind::Final => return Err(fault),
            };
            if number == attempts {
                return Err(fault.after(attempts));
            }
            number += 1;
            add(&self.counters.retries, 1);
            sleep(wait).await;
        }
    }

    /// Runs a request of `object_store`, with what the last answer said.
    async fn noted<T>(
        &self,
        time: Duration,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Fault> {
        add(&self.counters.requests, 1);
        let run = async {
            let result = timeout(time, request).await;
            (result, ANSWER.with(Cell::take))
        };
        match ANSWER.scope(Cell::default(), run).await {
            (Ok(Ok(value)), _) => Ok(value),
            (Ok(Err(error)), answer) => Err(Fault::of(&error, &answer, self.service)),
            (Err(_elapsed), _) => Err(silent(time)),
        }
    }

    fn failed(&self, permit: Permit, fault: Fault) -> Fault {
        if matches!(fault.kind, Kind::Throttled(_)) {
            add(&self.counters.throttled, 1);
            permit.throttled();
        }
        fault
    }

    async fn attempt(
        &self,
        turn: Option<Turn>,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<Vec<u8>, Fault> {
        let permit = turn.unwrap_or_else(|| self.limit.line_up()).permit().await;
        let (result, permit) = self.first_byte(permit, object, range).await?;
        let bytes = self.body(result, range).await?;
        permit.succeeded();
        Ok(bytes)
    }

    /// Waits for the first byte. If it is late, a second request is sent, and the first answer is used.
    async fn first_byte(
        &self,
        permit: Permit,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<(GetResult, Permit), Fault> {
        let mut first = pin!(self.request(object, range, permit));
        tokio::select! {
            answer = &mut first => return answer,
            () = sleep(self.latency.late()) => {}
        }
        let Some(permit) = self.hedge() else { return first.await };
        let mut second = pin!(self.request(object, range, permit));
        // If one fails, the other may still succeed.
        tokio::select! {
            answer = &mut first => if answer.is_ok() { answer } else { second.await },
            answer = &mut second => if answer.is_ok() { answer } else { first.await },
        }
    }

    /// A permit for a second request, unless many were sent: then the bucket is slow, and not one request.
    fn hedge(&self) -> Option<Permit> {
        let Traffic { requests, hedges, .. } = self.traffic();
        let permit = self.limit.try_permit().filter(|_| hedges <= requests / HEDGE_EVERY)?;
        add(&self.counters.hedges, 1);
        Some(permit)
    }

    async fn request(
        &self,
        object: &Object,
        range: &Range<u64>,
        permit: Permit,
    ) -> Result<(GetResult, Permit), Fault> {
        let path = Path::parse(&object.key)
            .map_err(|error| Fault::new(Kind::Final, format!("its key is malformed: {error}")))?;
        // A weak tag matches nothing.
        let strong = !object.tag.is_empty() && !object.tag.starts_with("W/");
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: strong.then(|| format!("\"{}\"", object.tag)),
            ..GetOptions::default()
        };
        let begun = Instant::now();
        match self.noted(SILENCE, self.store.get_opts(&path, options)).await {
            Ok(result) => {
                self.latency.observe(begun.elapsed());
                check(&result, object, range)?;
                Ok((result, permit))
            }
            Err(fault) => Err(self.failed(permit, fault)),
        }
    }

    /// Reads an answer, which must have as many bytes as were requested.
    async fn body(&self, result: GetResult, range: &Range<u64>) -> Result<Vec<u8>, Fault> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_error| Fault::new(Kind::Final, "the range is too large"))?;
        let mut bytes = Vec::with_capacity(length);
        let time = patience(length);
        let whole = timeout(time, self.read_body(result, length, &mut bytes)).await;
        whole.unwrap_or_else(|_elapsed| {
            let arrived = bytes.len();
            let seconds = time.as_secs();
            let what = format!(
                "only {arrived} of {length} bytes arrived in {seconds} s; check the network"
            );
            Err(Fault::new(Kind::Temporary, what))
        })?;
        if bytes.len() < length {
            let what = format!("the answer ended after {} of {length} bytes", bytes.len());
            return Err(Fault::new(Kind::Temporary, what));
        }
        Ok(bytes)
    }

    /// Reads what there is of an answer, up to its length.
    async fn read_body(
        &self,
        result: GetResult,
        length: usize,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut parts = result.into_stream();
        while let Some(part) =
            timeout(SILENCE, parts.next()).await.map_err(|_elapsed| silent(SILENCE))?
        {
            let part = part.map_err(|error| {
                Fault::new(
                    Kind::Temporary,
                    format!(
                        "the answer broke off after {} of {length} bytes: {error}",
                        bytes.len()
                    ),
                )
            })?;
            add(&self.counters.bytes, part.len() as u64);
            if part.len() > length - bytes.len() {
                return Err(Fault::new(Kind::Temporary, "the answer is longer than the range"));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(())
    }
}

/// Checks that an answer is about the object that was indexed.
fn check(result: &GetResult, object: &Object, range: &Range<u64>) -> Result<(), Fault> {
    let size = result.meta.size;
    if size != object.size {
        let what = format!("it has {size} bytes and had {} when it was indexed", object.size);
        return Err(Fault::new(Kind::Changed, what));
    }
    let tag = tag(result.meta.e_tag.as_deref());
    if !object.tag.is_empty() && !tag.is_empty() && tag != object.tag {
        let what = format!("its ETag is {tag} and was {}", object.tag);
        return Err(Fault::new(Kind::Changed, what));
    }
    if result.range != *range {
        return Err(Fault::new(Kind::Temporary, "the answer is of another range"));
    }
    Ok(())
}

/// An `ETag` without quotation marks: lists and answers differ in them.
pub(crate) fn tag(e_tag: Option<&str>) -> String {
    let tag = e_tag.unwrap_or_default();
    let (weak, tag) = tag.strip_prefix("W/").map_or(("", tag), |tag| ("W/", tag));
    format!("{weak}{}", tag.trim_matches('"'))
}

/// Time that a request with a body of this length may take, once it is sent or its answer has begun.
fn patience(bytes: usize) -> Duration {
    SILENCE + Duration::from_secs(bytes as u64 / SLOWEST)
}

fn silent(time: Duration) -> Fault {
    let what = format!("nothing arrived for {} s; check the network", time.as_secs());
    Fault::new(Kind::Temporary, what)
}

/// Time before an attempt, of which half is random, so that servers that failed together do not come back together.
fn backoff(attempt: u32) -> Duration {
    let most = BACKOFF.saturating_mul(1 << (attempt - 1).min(16)).min(LONGEST_BACKOFF);
    let random = RandomState::new().build_hasher().finish();
    let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
    most.mul_f64(0.5 + part / 2.0)
}

/// The time until the first byte: its mean and deviation, as TCP estimates them.
#[derive(Debug, Default)]
struct Latency(Mutex<Option<(f64, f64)>>);

impl Latency {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(f64, f64)>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut estimate = self.lock();
        *estimate = Some(match *estimate {
            None => (seconds, seconds / 2.0),
            Some((mean, deviation)) => {
                let error = seconds - mean;
                (mean + error / 8.0, deviation + (error.abs() - deviation) / 4.0)
            }
        });
    }

    /// The time after which a first byte is late.
    fn late(&self) -> Duration {
        let estimate = self.lock().map_or(0.0, |(mean, deviation)| mean + 4.0 * deviation);
        Duration::try_from_secs_f64(estimate).unwrap_or(LATEST).clamp(LATE, LATEST)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use object_store::memory::InMemory;
    use object_store::{Attributes, Extensions, GetResultPayload, ObjectMeta};

    use super::*;

    #[test]
    fn a_first_byte_is_late_after_200_ms_or_what_is_usual() {
        let latency = Latency::default();
        assert_eq!(latency.late(), LATE);
        for _ in 0..100 {
            latency.observe(Duration::from_millis(30));
        }
        assert_eq!(latency.late(), LATE);
        for _ in 0..100 {
            latency.observe(Duration::from_secs(1));
        }
        assert!(
            latency.late() >= Duration::from_secs(1) && latency.late() < Duration::from_secs(2)
        );
        for _ in 0..100 {
            latency.observe(Duration::from_mins(1));
        }
        assert_eq!(latency.late(), LATEST);
    }

    #[test]
    fn tags_of_lists_and_answers_are_compared_without_quotation_marks() {
        assert_eq!([tag(Some("\"a\"")), tag(Some("a"))], ["a", "a"]);
        assert_eq!([tag(Some("W/\"a\"")), tag(None)], ["W/a", ""]);
    }

    #[test]
    fn waits_double_and_are_never_equal_for_all() {
        assert!((1..=20).all(|attempt| {
            let (wait, most) = (backoff(attempt), BACKOFF.saturating_mul(1 << (attempt - 1)));
            wait >= most.min(LONGEST_BACKOFF) / 2 && wait <= most.min(LONGEST_BACKOFF)
        }));
        let waits: Vec<Duration> = (0..8).map(|_| backoff(7)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let fetcher = Fetcher::new(Arc::new(InMemory::new()), Service::S3);
        let dripping = |every: Duration| {
            let drip = move |left: u64| async move {
                sleep(every).await;
                (left > 0).then(|| (Ok(Bytes::from_static(b"x")), left - 1))
            };
            GetResult {
                payload: GetResultPayload::Stream(stream::unfold(100, drip).boxed()),
                meta: ObjectMeta {
                    location: Path::from("a"),
                    last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
                    size: 100,
                    e_tag: None,
                    version: None,
                },
                range: 0..100,
                attributes: Attributes::default(),
                extensions: Extensions::default(),
            }
        };
        let begun = Instant::now();
        let fault = fetcher.body(dripping(Duration::from_secs(14)), &(0..100)).await.unwrap_err();
        assert_eq!(fault.kind, Kind::Temporary);
        assert!(begun.elapsed() < 2 * SILENCE, "{:?}", begun.elapsed());
        let bytes = fetcher.body(dripping(Duration::from_millis(9)), &(0..100)).await.unwrap();
        assert_eq!(bytes, [b'x'; 100]);
        // The longest request may take two minutes more.
        assert_eq!(patience(8 << 20), SILENCE + Duration::from_secs(128));
    }
}
