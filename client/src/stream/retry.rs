//! Retries: after a failed attempt, tries another server, tries again later, or fails.
//!
//! Any server returns the same bytes for the same name. So there is no session to restore, and a retry
//! is always safe: it repeats the request for the first microbatch that is missing. This file decides
//! which server to use, when, and for how long:
//!
//! ```text
//! loop:
//!     server = first in the order of the step whose circuit breaker allows it
//!              (if none does: wait for the earliest backoff to end, or for a change of the fleet)
//!     match attempt(server):
//!         success                   -> forget all failures of this stream
//!         failure, by its Reaction:
//!             Retry                 -> open the server's circuit; next server        (network, overload)
//!             RetryTwice            -> the same, but fail once every server failed   (damaged data)
//!                                      twice without a success in between
//!             Exclude               -> use the server for this job only after a while (other dataset)
//!             AuthFailed            -> at the start: Exclude, later: Retry           (bad certificate)
//!             Fail                  -> Exclude while others are left, or else        (bad request)
//!                                      return the error
//!     no success for `give_up_after`: return the error
//! ```
//!
//! The loop has three properties:
//!
//! - *It ends.* `Retry` is bounded by time, `RetryTwice` by count, `Exclude` by the number of servers.
//!   A running stream without usable servers does not fail at once, because excluded ones may be rolled
//!   back, and new ones may appear where they are found by name: waiting is bounded by time as well.
//! - *It does not stampede.* A failed server is left alone for a backoff that doubles with each failure
//!   and has a random part; after it one attempt probes the server while the others stay away.
//! - *A mistake in the setup is reported at once*: before the first microbatch of a job, a server that
//!   rejects the client is excluded, and the error names every server and its reason. After it the
//!   cause is most likely a certificate or a token that is being replaced, so that a stream retries. A
//!   description is not enough: damaged on its way, it has digests that every server rejects.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Cause, Error};
use crate::fleet::job_servers::{Attempt, Choice, JobServers};
use crate::stream::reaction::Reaction;
use tokio::time::{Instant, sleep_until};

/// The retries of a single call, or of the microbatches of a segment.
#[derive(Debug)]
pub(crate) struct Retries {
    pub(crate) servers: Arc<JobServers>,
    single_call: bool,
    /// Number of failures since the last success.
    failures: u32,
    /// When the first of them was.
    since: Option<Instant>,
    /// By server, the number of failures that count toward `RetryTwice`.
    counted: BTreeMap<String, u32>,
}

impl Retries {
    /// The retries of a segment.
    pub(crate) fn new(servers: &Arc<JobServers>) -> Self {
        Self {
            servers: Arc::clone(servers),
            single_call: false,
            failures: 0,
            since: None,
            counted: BTreeMap::new(),
        }
    }

    /// The retries of a single call.
    pub(crate) fn of_single_call(servers: &Arc<JobServers>) -> Self {
        Self { single_call: true, ..Self::new(servers) }
    }

    /// Records that something arrived.
    pub(crate) fn succeeded(&mut self, attempt: &Attempt) {
        (self.failures, self.since) = (0, None);
        self.counted.clear();
        self.servers.succeeded(attempt);
        if !self.single_call {
            self.servers.streamed();
        }
    }

    /// Waits until a server may be used for a step, and returns an attempt at it.
    ///
    /// # Errors
    /// When every server is excluded, or no name resolves to a server in the time that is left.
    pub(crate) async fn next_attempt(&mut self, key: u64, request: &str) -> Result<Attempt, Error> {
        let servers = Arc::clone(&self.servers);
        servers.fleet.resolve_if_due();
        loop {
            let changed = servers.fleet.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let until = match servers.choose(key, now) {
                Choice::Use(attempt) => return Ok(attempt),
                Choice::WaitUntil(until) => until,
                Choice::NoServer(_) if self.may_change() => {
                    self.resolve(request).await?;
                    continue;
                }
                Choice::NoServer(Some(until)) if self.may_readmit() => until,
                Choice::NoServer(_) => return Err(self.no_server(request)),
            };
            let end = self.since.map(|since| since + servers.fleet.options.retry.give_up_after);
            if end.is_some_and(|end| now >= end) {
                // Time is up: the error of one last attempt is returned.
                return servers.choose_regardless(key, now).ok_or_else(|| self.no_server(request));
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(end.map_or(until, |end| end.min(until))) => {}
            }
        }
    }

    /// Whether a name may yet resolve to usable servers. Before the first microbatch only if it resolves
    /// to none, because if all of its servers are excluded, the setup is wrong.
    fn may_change(&self) -> bool {
        let fleet = &self.servers.fleet;
        fleet.is_dynamic() && (self.servers.has_streamed() || fleet.present().is_empty())
    }

    /// Whether a running stream waits for excluded servers.
    fn may_readmit(&self) -> bool {
        !self.single_call && self.servers.has_streamed()
    }

    /// Resolves names again, and waits if there is still no server.
    async fn resolve(&mut self, request: &str) -> Result<(), Error> {
        let servers = Arc::clone(&self.servers);
        let (fleet, policy) = (&servers.fleet, servers.fleet.options.retry);
        let resolved = fleet.resolve().await;
        if !servers.members().is_empty() {
            return Ok(());
        }
        let endpoint = fleet.options.endpoints.join(", ");
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let unusable = |why: String| Cause::Resolve { name: endpoint.clone(), why };
        let cause = resolved.err().unwrap_or_else(|| unusable(servers.exclusions().join("; ")));
        self.retry(&endpoint, cause, request)?;
        let longest = policy.initial_backoff.saturating_mul(doubled).min(policy.max_backoff);
        tokio::time::sleep(longest.mul_f64(fleet.jitter())).await;
        Ok(())
    }

    /// Records a failure; the error to return if this was the last attempt.
    ///
    /// # Errors
    /// When the reaction to the failure is to stop, or no time is left.
    pub(crate) fn failed(
        &mut self,
        attempt: &Attempt,
        cause: Cause,
        request: &str,
    ) -> Result<(), Error> {
        let endpoint = attempt.member.name();
        let reaction = self.servers.record(attempt, &cause, self.single_call);
        let left = self.servers.members();
        let is_final = match reaction {
            Reaction::RetryTwice | Reaction::AuthFailed => {
                let count = if reaction == Reaction::AuthFailed { 2 } else { 1 };
                *self.counted.entry(endpoint.to_owned()).or_default() += count;
                let twice = |count: &u32| *count >= 2;
                left.iter().all(|server| self.counted.get(server.name()).is_some_and(twice))
            }
            Reaction::Exclude if !left.is_empty() || self.may_change() || self.may_readmit() => {
                false
            }
            Reaction::Exclude if self.servers.exclusions().len() > 1 => {
                return Err(self.no_server(request));
            }
            Reaction::Exclude | Reaction::Fail => true,
            Reaction::Retry(_) => false,
        };
        if is_final {
            return Err(Error::Refused {
                endpoint: endpoint.to_owned(),
                request: request.to_owned(),
                cause: Box::new(cause),
            });
        }
        if reaction == Reaction::Exclude {
            self.servers.log_exclusion(&attempt.member, &cause);
        }
        self.retry(endpoint, cause, request)
    }

    /// Continues after a failure, if there is time left.
    fn retry(&mut self, endpoint: &str, cause: Cause, request: &str) -> Result<(), Error> {
        let now = Instant::now();
        let elapsed = now - *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if elapsed < self.servers.fleet.options.retry.give_up_after {
            tracing::warn!(endpoint, request, %cause, attempt = self.failures, "retrying");
            return Ok(());
        }
        Err(Error::GaveUp {
            endpoint: endpoint.to_owned(),
            request: request.to_owned(),
            attempts: self.failures,
            elapsed,
            cause: Box::new(cause),
        })
    }

    fn no_server(&self, request: &str) -> Error {
        Error::NoServer { request: request.to_owned(), servers: self.servers.exclusions() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::{Code, Status};

    use super::*;
    use crate::error::WireError;
    use crate::fleet::members::Fleet;
    use crate::options::{Options, Retry, Timeouts};
    use crate::wire::status::cause_of;

    const READMIT_AFTER: Duration = Duration::from_secs(8);

    fn retries(names: &[&str]) -> Retries {
        let mut options = Options::new(names.iter().copied());
        options.readmit_after = READMIT_AFTER;
        options.retry = Retry {
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            give_up_after: Duration::from_secs(30),
        };
        Retries::new(&JobServers::new(&Arc::new(Fleet::new(&Arc::new(options)).unwrap())))
    }

    fn unavailable() -> Cause {
        cause_of(&Status::unavailable("draining"), &Timeouts::default(), None)
    }

    /// Fails one attempt, and returns its server.
    async fn fail(retries: &mut Retries, cause: Cause) -> Result<String, Error> {
        let attempt = retries.next_attempt(7, "x").await?;
        retries.failed(&attempt, cause, "x")?;
        Ok(attempt.member.name().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn servers_take_turns_and_backoffs_grow_to_the_maximum() {
        let mut retries = retries(&["a:1", "b:1"]);
        let start = Instant::now();
        let one = fail(&mut retries, unavailable()).await.unwrap();
        let other = fail(&mut retries, unavailable()).await.unwrap();
        assert_ne!(one, other);
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..8 {
            fail(&mut retries, unavailable()).await.unwrap();
        }
        let before = Instant::now();
        for _ in 0..20 {
            fail(&mut retries, unavailable()).await.unwrap();
        }
        // Ten rounds of 0.5 to 1 s each.
        let seconds = before.elapsed().as_secs_f64();
        assert!((5.0..10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_after_the_time_allowed() {
        let mut retries = retries(&["a:1"]);
        let start = Instant::now();
        let error = loop {
            if let Err(error) = fail(&mut retries, unavailable()).await {
                break error.to_string();
            }
        };
        assert!((30..=31).contains(&start.elapsed().as_secs()));
        assert!(error.starts_with("x: gave up after "), "{error}");
        assert!(
            error.ends_with(
                "from a:1: Unavailable: draining: resolve what the server says, or use another one"
            ),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_data_loss_all_other_servers_are_asked_before_the_stream_ends() {
        let data_loss = || cause_of(&Status::data_loss("record 7"), &Timeouts::default(), None);
        let mut retries = retries(&["a:1", "b:1", "c:1"]);
        let attempt = retries.next_attempt(7, "x").await.unwrap();
        let damaged = attempt.member.name().to_owned();
        retries.failed(&attempt, data_loss(), "x").unwrap();
        // One of the others restarts, and the third is asked only when its turn comes.
        let start = Instant::now();
        let mut asked = std::collections::BTreeSet::new();
        while start.elapsed() < Duration::from_secs(20) {
            let attempt = retries.next_attempt(7, "x").await.unwrap();
            let name = attempt.member.name().to_owned();
            let cause = if name == damaged { data_loss() } else { unavailable() };
            retries.failed(&attempt, cause, "x").unwrap();
            asked.insert(name);
        }
        assert_eq!(asked.len(), 3);
        loop {
            let attempt = retries.next_attempt(7, "x").await.unwrap();
            if attempt.member.name() != damaged {
                return retries.succeeded(&attempt);
            }
            retries.failed(&attempt, data_loss(), "x").unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_corrupt_response_is_retried_once_per_server_until_something_arrives() {
        let corrupt = || Cause::Wire(WireError::Corrupt { expected: 1, found: 2 });
        for names in [&["a:1"][..], &["a:1", "b:1"]] {
            let mut retries = retries(names);
            for _ in 0..3 {
                for _ in 1..2 * names.len() {
                    fail(&mut retries, corrupt()).await.unwrap();
                }
                let attempt = retries.next_attempt(7, "x").await.unwrap();
                retries.succeeded(&attempt);
            }
            let mut failed = BTreeMap::<_, u32>::new();
            let error = loop {
                match fail(&mut retries, corrupt()).await {
                    Ok(server) => *failed.entry(server).or_default() += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            let counts: Vec<u32> = failed.into_values().collect();
            // The last failure is returned as the error.
            assert!(counts.contains(&1) && counts.len() == names.len(), "{counts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_with_another_recipe_is_excluded_and_the_last_error_names_every_server() {
        let mismatch =
            || cause_of(&Status::failed_precondition("recipe"), &Timeouts::default(), None);
        let mut retries = retries(&["a:1", "b:1", "c:1"]);
        let other = fail(&mut retries, mismatch()).await.unwrap();
        for _ in 0..4 {
            assert_ne!(fail(&mut retries, unavailable()).await.unwrap(), other);
        }
        fail(&mut retries, mismatch()).await.unwrap();
        let error = fail(&mut retries, mismatch()).await.unwrap_err().to_string();
        let why = "FailedPrecondition: recipe: give every server the same dataset and recipe, or \
                   drop the expected digests";
        let each = ["a:1", "b:1", "c:1"].map(|name| format!("{name}: {why}")).join("; ");
        assert_eq!(error, format!("x: every server is excluded: {each}"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_several_servers_that_rejects_valid_requests_ends_no_stream() {
        for code in [Code::InvalidArgument, Code::OutOfRange, Code::PermissionDenied] {
            let rejected = || cause_of(&Status::new(code, "less"), &Timeouts::default(), None);
            let mut two = retries(&["a:1", "b:1"]);
            // Segments of a stream use a server at the same time.
            let attempt = two.next_attempt(7, "x").await.unwrap();
            for _ in 0..3 {
                two.failed(&attempt, rejected(), "x").unwrap();
            }
            for _ in 0..4 {
                assert_ne!(fail(&mut two, unavailable()).await.unwrap(), attempt.member.name());
            }
            let error = fail(&mut two, rejected()).await.unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "the last one: {error}");
            // The request of a single call may be what is wrong.
            let two = retries(&["a:1", "b:1"]);
            let error = fail(&mut Retries::of_single_call(&two.servers), rejected()).await;
            assert!(matches!(error, Err(Error::Refused { .. })), "{error:?}");
            assert_eq!(two.servers.exclusions(), [""; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_received_nothing_does_not_wait_for_excluded_servers() {
        let mismatch =
            || cause_of(&Status::failed_precondition("recipe"), &Timeouts::default(), None);
        let mut stream = retries(&["a:1"]);
        let mut description = Retries::of_single_call(&stream.servers);
        let attempt = description.next_attempt(7, "x").await.unwrap();
        description.succeeded(&attempt);
        let start = Instant::now();
        let error = fail(&mut stream, mismatch()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_stream_tries_excluded_servers_again_until_its_time_is_over() {
        let mismatch =
            || cause_of(&Status::failed_precondition("recipe"), &Timeouts::default(), None);
        let mut running = retries(&["a:1"]);
        let attempt = running.next_attempt(7, "x").await.unwrap();
        running.succeeded(&attempt);
        fail(&mut running, mismatch()).await.unwrap();
        let start = Instant::now();
        // A single call fails at once.
        let error = Retries::of_single_call(&running.servers).next_attempt(7, "x").await;
        assert!(matches!(error, Err(Error::NoServer { .. })), "{error:?}");
        // Rolled back.
        let attempt = running.next_attempt(7, "x").await.unwrap();
        assert_eq!(start.elapsed(), READMIT_AFTER);
        running.succeeded(&attempt);
        assert_eq!(running.servers.exclusions(), [""; 0]);
        // Not rolled back.
        let start = Instant::now();
        let error = loop {
            if let Err(error) = fail(&mut running, mismatch()).await {
                break error;
            }
        };
        assert!(matches!(error, Error::NoServer { .. }), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_rejects_the_client_fails_the_job_at_the_start_and_is_retried_later() {
        let rejected = || cause_of(&Status::unauthenticated("token"), &Timeouts::default(), None);
        let mut two = retries(&["a:1", "b:1"]);
        fail(&mut two, rejected()).await.unwrap();
        let certificate = Cause::Certificate("expired".into());
        let error = fail(&mut two, certificate).await.unwrap_err();
        assert!(matches!(error, Error::NoServer { .. }), "{error}");

        let mut local = retries(&["unix:a"]);
        let error = fail(&mut local, Cause::SocketPermission("a".into())).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");

        let mut one = retries(&["a:1"]);
        let error = fail(&mut one, rejected()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");

        let mut one = retries(&["a:1"]);
        let attempt = one.next_attempt(7, "x").await.unwrap();
        one.succeeded(&attempt);
        for _ in 0..5 {
            fail(&mut one, rejected()).await.unwrap();
        }
        // A single call of the same job fails at once, and does not exclude the server.
        let mut call = Retries::of_single_call(&one.servers);
        let error = fail(&mut call, rejected()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        fail(&mut one, unavailable()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_a_delay_is_not_used_before_it() {
        let busy = Cause::Status {
            code: Code::ResourceExhausted,
            message: "streams".into(),
            retry_after: Some(Duration::from_millis(2500)),
        };
        let mut retries = retries(&["a:1"]);
        let start = Instant::now();
        fail(&mut retries, busy).await.unwrap();
        retries.next_attempt(7, "x").await.unwrap();
        let waited = start.elapsed();
        assert!((2500..=2605).contains(&waited.as_millis()), "{waited:?}");

        // Longer than any clock counts.
        let forever = Cause::Status {
            code: Code::Unavailable,
            message: "forever".into(),
            retry_after: Some(Duration::MAX),
        };
        fail(&mut retries, forever).await.unwrap();
    }
}
