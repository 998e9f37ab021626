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
    /// Excluded servers by name, with the reason.
    excluded: Mutex<BTreeMap<String, String>>,
    /// Whether anything arrived for this job so far.
    has_succeeded: AtomicBool,
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
    /// Every server is excluded, or none is known.
    NoServer,
}

impl JobServers {
    pub(crate) fn new(fleet: &Arc<Fleet>) -> Arc<Self> {
        let (excluded, has_succeeded) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { fleet: Arc::clone(fleet), excluded, has_succeeded })
    }

    fn excluded(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present servers without the excluded ones.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let present = self.fleet.present();
        let excluded = self.excluded();
        present.iter().filter(|member| !excluded.contains_key(member.name())).cloned().collect()
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
        earliest.map_or(Choice::NoServer, Choice::WaitUntil)
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
        self.has_succeeded.store(true, Ordering::Relaxed);
        self.fleet.succeeded(&attempt.member);
    }

    pub(crate) fn has_succeeded(&self) -> bool {
        self.has_succeeded.load(Ordering::Relaxed)
    }

    /// Excludes a server from this job permanently.
    pub(crate) fn exclude(&self, member: &Member, cause: &Cause) {
        let why = format!("{cause}: {}", cause.advice());
        let is_new = self.excluded().insert(member.name().to_owned(), why.clone()).is_none();
        if is_new {
            let endpoint = member.name();
            tracing::error!(endpoint, %cause, "server excluded from this job permanently");
        }
        member.health().excluded = Some(why);
        self.fleet.changed.notify_waiters();
    }

    /// The excluded servers, each with the reason.
    pub(crate) fn exclusions(&self) -> Vec<String> {
        self.excluded().iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }
}
