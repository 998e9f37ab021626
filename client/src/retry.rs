//! What to do after a failure: ask again, ask another, or give up.
//!
//! Any server gives the same bytes for the same name, so a failed attempt costs nothing but time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Code;

use crate::Error;
use crate::error::Cause;
use crate::roster::{Pick, Roster, Turn};

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Ask another server, for as long as it takes; this one not before.
    Again(Option<Duration>),
    /// Ask another server; end when it goes on, for each server twice.
    Twice,
    /// Never ask this server again.
    Exclude,
    /// It does not let this client in, or is not who it should be. At the start that is a mistake in
    /// the setup, and the server is excluded; later, most likely files are being replaced: a stream asks
    /// again, a single call ends when all servers say so.
    Stranger,
    /// No server would answer otherwise.
    Never,
}

fn verdict(cause: &Cause) -> Verdict {
    match cause {
        Cause::Connection(_)
        | Cause::Truncated
        | Cause::Silence(_)
        | Cause::Deadline(_)
        | Cause::Overtaken
        | Cause::Resolve { .. } => Verdict::Again(None),
        // A digest in a header may be as damaged as anything else that comes; what a server says of
        // its own is a status.
        Cause::Wire(_) | Cause::Mismatch { .. } => Verdict::Twice,
        Cause::Contradiction(_) => Verdict::Never,
        Cause::Access(_) | Cause::Certificate(_) => Verdict::Stranger,
        Cause::Status { code, retry_after, .. } => match code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded => Verdict::Again(*retry_after),
            Code::DataLoss | Code::Internal | Code::Unknown => Verdict::Twice,
            Code::FailedPrecondition | Code::NotFound | Code::Unimplemented => Verdict::Exclude,
            Code::Unauthenticated => Verdict::Stranger,
            _ => Verdict::Never,
        },
    }
}

impl Roster {
    /// Holds a failure against the server; what it calls for.
    fn judge(&self, turn: &Turn, cause: &Cause, single: bool) -> Verdict {
        let verdict = match verdict(cause) {
            Verdict::Stranger if !self.is_familiar() => Verdict::Exclude,
            Verdict::Stranger if !single => Verdict::Again(None),
            verdict => verdict,
        };
        let rest = if let Verdict::Again(rest) = verdict { rest } else { None };
        self.fleet.failed(&turn.member, turn.asked, rest);
        if verdict == Verdict::Exclude {
            self.exclude(&turn.member, cause);
        }
        verdict
    }

    /// As [`judge`](Self::judge), where there is nothing to decide.
    pub(crate) fn blame(&self, turn: &Turn, cause: &Cause) {
        let endpoint = turn.member.name();
        tracing::debug!(endpoint, %cause, "asked as well, in vain");
        self.judge(turn, cause, false);
    }
}

/// The attempts at one thing after another, such as the microbatches of a leg.
#[derive(Debug)]
pub(crate) struct Attempts {
    pub(crate) roster: Arc<Roster>,
    /// Whether they are at a single call.
    single: bool,
    /// Failures since the last success, and when the first of them was.
    failures: u32,
    since: Option<Instant>,
    /// By server, how many of them were of the kind that is tried twice at each.
    strange: BTreeMap<String, u32>,
}

impl Attempts {
    /// At a stream.
    pub(crate) fn new(roster: &Arc<Roster>) -> Self {
        Self {
            roster: Arc::clone(roster),
            single: false,
            failures: 0,
            since: None,
            strange: BTreeMap::new(),
        }
    }

    /// At a single call.
    pub(crate) fn single(roster: &Arc<Roster>) -> Self {
        Self { single: true, ..Self::new(roster) }
    }

    /// Something arrived.
    pub(crate) fn succeeded(&mut self, turn: &Turn) {
        (self.failures, self.since) = (0, None);
        self.strange.clear();
        self.roster.succeeded(turn);
    }

    /// The server to ask for a step now, when one may be asked.
    pub(crate) async fn turn(&mut self, key: u64, request: &str) -> Result<Turn, Error> {
        let roster = Arc::clone(&self.roster);
        roster.fleet.look();
        loop {
            let changed = roster.fleet.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let until = match roster.pick(key, now) {
                Pick::Ask(turn) => return Ok(turn),
                Pick::Wait(until) => until,
                Pick::Nobody if self.may_change() => {
                    self.resolve(request).await?;
                    continue;
                }
                Pick::Nobody => return Err(self.nobody(request)),
            };
            let last = self.since.map(|since| since + roster.fleet.options.retry.give_up);
            if last.is_some_and(|last| now >= last) {
                // One more time, whose failure is the error.
                return roster.insist(key, now).ok_or_else(|| self.nobody(request));
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(last.map_or(until, |last| last.min(until))) => {}
            }
        }
    }

    /// Whether a name may come to resolve to servers that may be asked: at the start only if it
    /// resolves to none, because what all are excluded for then is a mistake in the setup.
    fn may_change(&self) -> bool {
        let fleet = &self.roster.fleet;
        fleet.has_names() && (self.roster.is_familiar() || fleet.present().is_empty())
    }

    /// Resolves names again, and waits if there is still no server.
    async fn resolve(&mut self, request: &str) -> Result<(), Error> {
        let roster = Arc::clone(&self.roster);
        let (fleet, policy) = (&roster.fleet, roster.fleet.options.retry);
        let resolved = fleet.resolve().await;
        if !roster.members().is_empty() {
            return Ok(());
        }
        let endpoint = fleet.options.endpoints.join(", ");
        let doubled = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let none = |why: String| Cause::Resolve { name: endpoint.clone(), why };
        let cause = resolved.err().unwrap_or_else(|| none(roster.reasons().join("; ")));
        self.again(&endpoint, cause, request)?;
        let wait = policy.first.saturating_mul(doubled).min(policy.most);
        tokio::time::sleep(wait.mul_f64(fleet.jitter())).await;
        Ok(())
    }

    /// A server failed; the error to end with, if that is the end.
    pub(crate) fn failed(&mut self, turn: &Turn, cause: Cause, request: &str) -> Result<(), Error> {
        let endpoint = turn.member.name();
        let verdict = self.roster.judge(turn, &cause, self.single);
        let left = self.roster.members();
        let over = match verdict {
            Verdict::Twice | Verdict::Stranger => {
                let chances = if verdict == Verdict::Stranger { 2 } else { 1 };
                *self.strange.entry(endpoint.to_owned()).or_default() += chances;
                let twice = |count: &u32| *count >= 2;
                left.iter().all(|server| self.strange.get(server.name()).is_some_and(twice))
            }
            Verdict::Exclude if !left.is_empty() || self.may_change() => false,
            Verdict::Exclude if self.roster.reasons().len() > 1 => {
                return Err(self.nobody(request));
            }
            Verdict::Exclude | Verdict::Never => true,
            Verdict::Again(_) => false,
        };
        if over {
            return Err(Error::Refused {
                endpoint: endpoint.to_owned(),
                request: request.to_owned(),
                cause: Box::new(cause),
            });
        }
        self.again(endpoint, cause, request)
    }

    /// Goes on after a failure, if there is time.
    fn again(&mut self, endpoint: &str, cause: Cause, request: &str) -> Result<(), Error> {
        let now = Instant::now();
        let elapsed = now - *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        if elapsed < self.roster.fleet.options.retry.give_up {
            tracing::warn!(endpoint, request, %cause, attempt = self.failures, "trying again");
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

    fn nobody(&self, request: &str) -> Error {
        Error::NoServer { request: request.to_owned(), servers: self.roster.reasons() }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::fleet::Fleet;
    use crate::status::cause_of;
    use crate::{Options, Retry, WireError};

    fn attempts(names: &[&str]) -> Attempts {
        let mut options = Options::new(names.iter().copied());
        options.retry = Retry {
            first: Duration::from_millis(100),
            most: Duration::from_secs(1),
            give_up: Duration::from_secs(30),
        };
        Attempts::new(&Roster::new(&Arc::new(Fleet::new(&Arc::new(options)).unwrap())))
    }

    fn unavailable() -> Cause {
        cause_of(&Status::unavailable("draining"))
    }

    /// Asks once, and fails; the server that was asked.
    async fn fail(attempts: &mut Attempts, cause: Cause) -> Result<String, Error> {
        let turn = attempts.turn(7, "x").await?;
        attempts.failed(&turn, cause, "x")?;
        Ok(turn.member.name().to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn servers_take_turns_and_waits_grow_to_their_bound() {
        let mut attempts = attempts(&["a:1", "b:1"]);
        let start = Instant::now();
        let one = fail(&mut attempts, unavailable()).await.unwrap();
        let other = fail(&mut attempts, unavailable()).await.unwrap();
        assert_ne!(one, other);
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..8 {
            fail(&mut attempts, unavailable()).await.unwrap();
        }
        let before = Instant::now();
        for _ in 0..20 {
            fail(&mut attempts, unavailable()).await.unwrap();
        }
        // Ten rounds of a half to one second each.
        let seconds = before.elapsed().as_secs_f64();
        assert!((5.0..10.1).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_in_the_time_set_and_says_so() {
        let mut attempts = attempts(&["a:1"]);
        let start = Instant::now();
        let error = loop {
            if let Err(error) = fail(&mut attempts, unavailable()).await {
                break error.to_string();
            }
        };
        assert!((30..=31).contains(&start.elapsed().as_secs()));
        assert!(error.starts_with("x: given up after "), "{error}");
        assert!(
            error.ends_with("at a:1: Unavailable: draining: check that the server runs"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn corruption_has_a_second_chance_at_each_server_until_something_arrives() {
        let corrupt = || Cause::Wire(WireError::Corrupt { expected: 1, found: 2 });
        for names in [&["a:1"][..], &["a:1", "b:1"]] {
            let mut attempts = attempts(names);
            for _ in 0..3 {
                for _ in 1..2 * names.len() {
                    fail(&mut attempts, corrupt()).await.unwrap();
                }
                let turn = attempts.turn(7, "x").await.unwrap();
                attempts.succeeded(&turn);
            }
            let mut failed = BTreeMap::<_, u32>::new();
            let error = loop {
                match fail(&mut attempts, corrupt()).await {
                    Ok(server) => *failed.entry(server).or_default() += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            let counts: Vec<u32> = failed.into_values().collect();
            // The last failure is the error.
            assert!(counts.contains(&1) && counts.len() == names.len(), "{counts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_of_another_recipe_is_not_asked_again_and_the_last_error_names_all() {
        let mismatch = || cause_of(&Status::failed_precondition("recipe"));
        let mut attempts = attempts(&["a:1", "b:1", "c:1"]);
        let odd = fail(&mut attempts, mismatch()).await.unwrap();
        for _ in 0..4 {
            assert_ne!(fail(&mut attempts, unavailable()).await.unwrap(), odd);
        }
        fail(&mut attempts, mismatch()).await.unwrap();
        let error = fail(&mut attempts, mismatch()).await.unwrap_err().to_string();
        let why = "FailedPrecondition: recipe: give every server the same dataset and recipe, or \
                   drop the expected digests";
        let each = ["a:1", "b:1", "c:1"].map(|name| format!("{name}: {why}")).join("; ");
        assert_eq!(error, format!("x: no server is left: {each}"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_lets_nobody_in_is_a_mistake_at_the_start_and_passes_later() {
        let stranger = || cause_of(&Status::unauthenticated("token"));
        let mut two = attempts(&["a:1", "b:1"]);
        fail(&mut two, stranger()).await.unwrap();
        let certificate = Cause::Certificate("expired".into());
        let error = fail(&mut two, certificate).await.unwrap_err();
        assert!(matches!(error, Error::NoServer { .. }), "{error}");

        let mut one = attempts(&["a:1"]);
        let error = fail(&mut one, stranger()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");

        let mut one = attempts(&["a:1"]);
        let turn = one.turn(7, "x").await.unwrap();
        one.succeeded(&turn);
        for _ in 0..5 {
            fail(&mut one, stranger()).await.unwrap();
        }
        // A call beside the stream is told at once, and the server is not excluded for that.
        let mut call = Attempts::single(&one.roster);
        let error = fail(&mut call, stranger()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        fail(&mut one, unavailable()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_slow_down_is_heeded() {
        let busy = Cause::Status {
            code: Code::ResourceExhausted,
            message: "streams".into(),
            retry_after: Some(Duration::from_millis(2500)),
        };
        let mut attempts = attempts(&["a:1"]);
        let start = Instant::now();
        fail(&mut attempts, busy).await.unwrap();
        attempts.turn(7, "x").await.unwrap();
        let waited = start.elapsed();
        assert!((2500..=2605).contains(&waited.as_millis()), "{waited:?}");
    }
}
