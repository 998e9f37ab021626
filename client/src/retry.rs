//! What to do after a failure: ask again, ask another, or give up.
//!
//! Any server gives the same bytes for the same name, so a failed attempt costs nothing but time.
//! The random part of a wait keeps many trainers from asking a restarted server at once; it never
//! touches what is asked for.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::error::Cause;
use crate::{Error, Retry};

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Ask the next server, for as long as it takes, and not before.
    Again(Option<Duration>),
    /// Ask the next server, once.
    Once,
    /// Never ask this server again.
    Exclude,
    /// It does not let this client in, or is not who it should be. At the start that is a mistake in
    /// the setup, and the server is excluded; later, most likely files are being replaced: ask again.
    Stranger,
    /// No server would answer otherwise.
    Never,
}

fn verdict(cause: &Cause) -> Verdict {
    match cause {
        Cause::Connection(_) | Cause::Truncated | Cause::Silence(_) => Verdict::Again(None),
        Cause::Wire(_) => Verdict::Once,
        Cause::Mismatch { .. } => Verdict::Exclude,
        Cause::Access(_) | Cause::Certificate(_) => Verdict::Stranger,
        Cause::Status { code, retry_after, .. } => match code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded => Verdict::Again(*retry_after),
            Code::DataLoss | Code::Internal | Code::Unknown => Verdict::Once,
            Code::FailedPrecondition => Verdict::Exclude,
            Code::Unauthenticated => Verdict::Stranger,
            _ => Verdict::Never,
        },
    }
}

/// The attempts at one thing after another, such as the microbatches of a stream.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    policy: Retry,
    names: Vec<&'a str>,
    excluded: Vec<bool>,
    current: usize,
    /// Failures since the last success, and when the first of them was.
    failures: u32,
    since: Option<Instant>,
    /// Whether anything ever arrived.
    familiar: bool,
    /// Whether one of them was of the kind that is tried again once.
    second_chance_taken: bool,
}

impl<'a> Attempts<'a> {
    /// Starts at the server of that number, counted around.
    pub(crate) fn new(policy: Retry, names: Vec<&'a str>, start: usize) -> Self {
        let current = start % names.len();
        let excluded = vec![false; names.len()];
        Self {
            policy,
            names,
            excluded,
            current,
            failures: 0,
            since: None,
            familiar: false,
            second_chance_taken: false,
        }
    }

    /// Which server to ask.
    pub(crate) const fn server(&self) -> usize {
        self.current
    }

    /// Something arrived.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.since = None;
        self.familiar = true;
        self.second_chance_taken = false;
    }

    /// Returns when it is time to ask [`server`](Self::server) again, or the error to end with.
    pub(crate) async fn failed(&mut self, cause: Cause, request: &str) -> Result<(), Error> {
        let endpoint = self.names[self.current];
        let now = Instant::now();
        let elapsed = now - *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        let verdict = match verdict(&cause) {
            Verdict::Stranger if self.familiar => Verdict::Again(None),
            Verdict::Stranger => Verdict::Exclude,
            verdict => verdict,
        };
        let excluded = verdict == Verdict::Exclude;
        self.excluded[self.current] |= excluded;
        let over = match verdict {
            Verdict::Never => true,
            Verdict::Once => std::mem::replace(&mut self.second_chance_taken, true),
            Verdict::Exclude | Verdict::Stranger => self.excluded.iter().all(|excluded| *excluded),
            Verdict::Again(_) => false,
        };
        if over {
            return Err(Error::Refused {
                endpoint: endpoint.to_owned(),
                request: request.to_owned(),
                cause: Box::new(cause),
            });
        }
        if elapsed >= self.policy.give_up {
            return Err(Error::GaveUp {
                endpoint: endpoint.to_owned(),
                request: request.to_owned(),
                attempts: self.failures,
                elapsed,
                cause: Box::new(cause),
            });
        }
        if excluded {
            tracing::error!(endpoint, request, %cause, "this server is not asked again");
        } else {
            tracing::warn!(endpoint, request, %cause, attempt = self.failures, "trying again");
        }
        self.next_server();
        sleep(self.wait(verdict).min(self.policy.give_up.saturating_sub(elapsed))).await;
        Ok(())
    }

    fn next_server(&mut self) {
        let servers = self.names.len();
        let after = (1..=servers).map(|step| (self.current + step) % servers);
        self.current = after.clone().find(|at| !self.excluded[*at]).unwrap_or(self.current);
    }

    /// None within a round of the servers; between rounds up to `first`, doubled each round.
    fn wait(&self, verdict: Verdict) -> Duration {
        if let Verdict::Again(Some(asked)) = verdict {
            return asked + self.policy.first.mul_f64(random());
        }
        let alive = self.excluded.iter().filter(|excluded| !**excluded).count();
        let alive = u32::try_from(alive).unwrap_or(u32::MAX).max(1);
        if !self.failures.is_multiple_of(alive) || verdict == Verdict::Exclude {
            return Duration::ZERO;
        }
        let doubled = 1_u32.checked_shl(self.failures / alive - 1).unwrap_or(u32::MAX);
        self.policy.first.saturating_mul(doubled).min(self.policy.most).mul_f64(random())
    }
}

/// From a half to 1, different each time.
fn random() -> f64 {
    0.5 + (RandomState::new().hash_one(0) >> 11) as f64 / (1_u64 << 54) as f64
}

/// What a status says. One that the client's own transport made, of a broken connection, has a
/// source.
pub(crate) fn cause_of(status: &Status) -> Cause {
    use std::error::Error as _;
    if let Some(mut source) = status.source() {
        while let Some(inner) = source.source() {
            source = inner;
        }
        return connection(source);
    }
    Cause::Status {
        code: status.code(),
        message: status.message().to_owned(),
        retry_after: retry_info(status.details()),
    }
}

/// Why a connection failed, by the innermost error.
fn connection(error: &(dyn std::error::Error + 'static)) -> Cause {
    let what = error.to_string();
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let of_tls = wrapped.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>());
    // The server's judgement of our certificate comes after the handshake, when HTTP/2 reads, which
    // passes on the text alone.
    if of_tls.is_some() || what.contains("received fatal alert: ") {
        return Cause::Certificate(what);
    }
    Cause::Connection(what)
}

/// The delay of a `google.rpc.RetryInfo` among the details of a status.
fn retry_info(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(delay.nanos).ok().filter(|n| *n < 1_000_000_000)?))
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WireError;

    fn policy() -> Retry {
        Retry {
            first: Duration::from_millis(100),
            most: Duration::from_secs(1),
            give_up: Duration::from_secs(30),
        }
    }

    fn unavailable() -> Cause {
        cause_of(&Status::unavailable("draining"))
    }

    #[tokio::test(start_paused = true)]
    async fn servers_take_turns_and_waits_grow_to_their_bound() {
        let mut attempts = Attempts::new(policy(), vec!["a", "b"], 1);
        let mut asked = vec![attempts.server()];
        let mut waits = Vec::new();
        for _ in 0..16 {
            let before = Instant::now();
            attempts.failed(unavailable(), "x").await.unwrap();
            asked.push(attempts.server());
            waits.push(before.elapsed());
        }
        assert_eq!(asked[..5], [1, 0, 1, 0, 1]);
        let ms = Duration::from_millis;
        assert!(waits.iter().step_by(2).all(|wait| *wait <= ms(1)), "{waits:?}");
        for (wait, most) in waits.iter().skip(1).step_by(2).zip([100, 200, 400, 800, 1000, 1000]) {
            assert!((ms(most / 2)..=ms(most + 2)).contains(wait), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_in_the_time_set_and_says_so() {
        let mut attempts = Attempts::new(policy(), vec!["a:1"], 0);
        let start = Instant::now();
        let error = loop {
            if let Err(error) = attempts.failed(unavailable(), "epoch 0").await {
                break error.to_string();
            }
        };
        assert!(start.elapsed() <= Duration::from_secs(31));
        assert!(error.starts_with("epoch 0: given up after "), "{error}");
        assert!(
            error.ends_with("at a:1: Unavailable: draining: check that the server runs"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn corruption_has_one_second_chance_until_something_arrives() {
        let corrupt = || Cause::Wire(WireError::Corrupt { expected: 1, found: 2 });
        let mut attempts = Attempts::new(policy(), vec!["a", "b"], 0);
        for _ in 0..2 {
            attempts.failed(corrupt(), "x").await.unwrap();
            attempts.succeeded();
        }
        attempts.failed(corrupt(), "x").await.unwrap();
        assert!(matches!(attempts.failed(corrupt(), "x").await, Err(Error::Refused { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_of_another_recipe_is_not_asked_again() {
        let mismatch = || cause_of(&Status::failed_precondition("recipe"));
        let mut attempts = Attempts::new(policy(), vec!["a", "b", "c"], 0);
        attempts.failed(mismatch(), "x").await.unwrap();
        for _ in 0..4 {
            assert_ne!(attempts.server(), 0);
            attempts.failed(unavailable(), "x").await.unwrap();
        }
        attempts.failed(mismatch(), "x").await.unwrap();
        assert!(matches!(attempts.failed(mismatch(), "x").await, Err(Error::Refused { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lets_nobody_in_is_a_mistake_at_the_start_and_passes_later() {
        let stranger = || cause_of(&Status::unauthenticated("token"));
        let mut attempts = Attempts::new(policy(), vec!["a", "b"], 0);
        attempts.failed(stranger(), "x").await.unwrap();
        assert_eq!(attempts.server(), 1);
        let certificate = Cause::Certificate("expired".into());
        assert!(matches!(attempts.failed(certificate, "x").await, Err(Error::Refused { .. })));

        let mut attempts = Attempts::new(policy(), vec!["a"], 0);
        attempts.succeeded();
        for _ in 0..5 {
            attempts.failed(stranger(), "x").await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_slow_down_is_heeded() {
        let delay = Delay { seconds: 2, nanos: 500_000_000 };
        let value = RetryInfo { retry_delay: Some(delay) }.encode_to_vec();
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        let details = Details { details: vec![Any { type_url, value }] }.encode_to_vec();
        let status = Status::with_details(Code::ResourceExhausted, "streams", details.into());
        let mut attempts = Attempts::new(policy(), vec!["a"], 0);
        let start = Instant::now();
        attempts.failed(cause_of(&status), "x").await.unwrap();
        let waited = start.elapsed();
        assert!((2500..=2605).contains(&waited.as_millis()), "{waited:?}");
    }

    #[test]
    fn nonsense_details_are_no_delay() {
        assert_eq!(retry_info(&[255, 255]), None);
        assert_eq!(retry_info(&[]), None);
    }
}
