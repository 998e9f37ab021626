//! The servers of one job: the choice of one for each step, and the exclusion of wrong ones.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::error::Cause;
use crate::fleet::breaker::{Admission, Circuit};
use crate::fleet::hedge::HedgeState;
use crate::fleet::members::{Fleet, Member};
use crate::fleet::rendezvous::weight;

/// The servers of a job, shared by all of its streams.
#[derive(Debug)]
pub(crate) struct JobServers {
    pub(crate) fleet: Arc<Fleet>,
    /// Excluded servers by name.
    excluded: Mutex<BTreeMap<String, Exclusion>>,
    /// Whether a microbatch arrived in a stream of this job so far.
    has_streamed: AtomicBool,
}

/// A server that refused the job. Once its time is over it is used like one that failed: by one attempt,
/// which finds out whether it serves the job now.
#[derive(Clone, Debug)]
struct Exclusion {
    why: String,
    until: Instant,
    is_logged: bool,
}

/// An attempt at a server.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) member: Arc<Member>,
    pub(crate) started: Instant,
    /// Whether the attempt probes a server that failed.
    pub(crate) is_probe: bool,
}

/// The server to use for a step.
#[derive(Debug)]
pub(crate) enum Choice {
    Use(Attempt),
    /// No server is usable before this time.
    WaitUntil(Instant),
    /// Every server is excluded, the first of them until this time; or none is known.
    NoServer(Option<Instant>),
}

impl JobServers {
    pub(crate) fn new(fleet: &Arc<Fleet>) -> Arc<Self> {
        let (excluded, has_streamed) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { fleet: Arc::clone(fleet), excluded, has_streamed })
    }

    fn excluded(&self) -> MutexGuard<'_, BTreeMap<String, Exclusion>> {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present servers without the excluded ones.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let (present, now) = (self.fleet.present(), Instant::now());
        let excluded = self.excluded();
        let is_excluded = |member: &&Arc<Member>| {
            excluded.get(member.name()).is_some_and(|exclusion| now < exclusion.until)
        };
        present.iter().filter(|member| !is_excluded(member)).cloned().collect()
    }

    /// The servers in the order of a step.
    fn ordered(&self, key: u64) -> Vec<Arc<Member>> {
        let mut members = self.members();
        members.sort_by_cached_key(|member| Reverse(weight(key, &member.server.address)));
        members
    }

    /// The first server in the order of a step, which makes the step while nothing fails.
    pub(crate) fn owner(&self, key: u64) -> Option<Arc<Member>> {
        let members = self.members().into_iter();
        // Reversed, because max_by_key returns the last of equals and `ordered` has the first one first.
        members.rev().max_by_key(|member| weight(key, &member.server.address))
    }

    /// Whether one server makes all steps.
    pub(crate) fn is_single(&self) -> bool {
        self.members().len() == 1
    }

    /// Chooses the first server in the order of a step that works.
    pub(crate) fn choose(&self, key: u64, now: Instant) -> Choice {
        let mut earliest = None::<Instant>;
        for member in self.ordered(key) {
            match member.admit(now, &self.fleet.options) {
                Admission::NotBefore(until) => {
                    earliest = Some(earliest.map_or(until, |earliest| earliest.min(until)));
                }
                admission => {
                    let is_probe = admission == Admission::Probe;
                    return Choice::Use(Attempt { member, started: now, is_probe });
                }
            }
        }
        earliest.map_or_else(|| Choice::NoServer(self.first_readmission()), Choice::WaitUntil)
    }

    /// When the first of the present servers is no longer excluded.
    fn first_readmission(&self) -> Option<Instant> {
        let (present, excluded) = (self.fleet.present(), self.excluded());
        let until = present.iter().filter_map(|member| Some(excluded.get(member.name())?.until));
        until.min()
    }

    /// The first server in the order of a step, whether it works or not.
    pub(crate) fn choose_regardless(&self, key: u64, now: Instant) -> Option<Attempt> {
        let member = self.ordered(key).into_iter().next()?;
        Some(Attempt { member, started: now, is_probe: true })
    }

    /// The server for a hedge against a late attempt, if another one works and the budget allows it.
    pub(crate) fn choose_hedge(&self, key: u64, late: &Attempt, now: Instant) -> Option<Attempt> {
        let works = |member: &Arc<Member>| {
            !Arc::ptr_eq(member, &late.member)
                && member.health().breaker.circuit(now) == Circuit::Closed
        };
        let member = self.ordered(key).into_iter().find(works)?;
        if !late.is_probe && !self.fleet.with_hedges(HedgeState::try_spend) {
            return None;
        }
        member.health().counts.hedges_sent += 1;
        Some(Attempt { member, started: now, is_probe: false })
    }

    /// Records that something arrived by an attempt.
    pub(crate) fn succeeded(&self, attempt: &Attempt) {
        let member = &attempt.member;
        if self.excluded().remove(member.name()).is_some() {
            member.health().excluded = None;
            tracing::warn!(endpoint = member.name(), "the server serves this job again");
        }
        self.fleet.succeeded(member);
    }

    /// Records that a microbatch arrived in a stream.
    pub(crate) fn streamed(&self) {
        self.has_streamed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_streamed(&self) -> bool {
        self.has_streamed.load(Ordering::Relaxed)
    }

    /// Excludes a server from this job for a while.
    pub(crate) fn exclude(&self, member: &Member, cause: &Cause) {
        let (endpoint, time) = (member.name(), self.fleet.options.readmit_after);
        let why = format!("{cause}: {}", cause.advice(endpoint));
        let mut excluded = self.excluded();
        let is_logged = excluded.get(endpoint).is_some_and(|before| before.is_logged);
        let exclusion = Exclusion { why: why.clone(), until: Instant::now() + time, is_logged };
        excluded.insert(endpoint.to_owned(), exclusion);
        drop(excluded);
        member.health().excluded = Some(why);
        self.fleet.changed.notify_waiters();
    }

    /// Logs that the job goes on without a server. An error that ends the job says so by itself.
    pub(crate) fn log_exclusion(&self, member: &Member, cause: &Cause) {
        let (endpoint, time) = (member.name(), self.fleet.options.readmit_after);
        let mut excluded = self.excluded();
        let Some(exclusion) = excluded.get_mut(endpoint) else { return };
        let is_logged = std::mem::replace(&mut exclusion.is_logged, true);
        drop(excluded);
        if is_logged {
            tracing::debug!(endpoint, %cause, "server still excluded from this job");
        } else {
            tracing::error!(endpoint, %cause, "server excluded from this job, and tried again after {time:?}");
        }
    }

    /// The excluded servers, each with the reason.
    pub(crate) fn exclusions(&self) -> Vec<String> {
        let named = |(name, exclusion): (&String, &Exclusion)| format!("{name}: {}", exclusion.why);
        self.excluded().iter().map(named).collect()
    }
}
