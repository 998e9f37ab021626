//! The servers of one job: which one to ask for a step, and which ones never again.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::breaker::Admission;
use crate::error::Cause;
use crate::fleet::{Fleet, Member};
use crate::rendezvous::weight;

/// What all streams of a job share.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) fleet: Arc<Fleet>,
    /// By name, with the reason.
    excluded: Mutex<BTreeMap<String, String>>,
    /// Whether anything ever arrived.
    familiar: AtomicBool,
}

/// A server that is asked.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) member: Arc<Member>,
    /// Since when.
    pub(crate) asked: Instant,
    /// To see whether it is well again.
    pub(crate) probe: bool,
}

/// Whom to ask.
#[derive(Debug)]
pub(crate) enum Pick {
    Ask(Turn),
    /// Nobody before that.
    Wait(Instant),
    /// There is no server that may be asked.
    Nobody,
}

impl Roster {
    pub(crate) fn new(fleet: &Arc<Fleet>) -> Arc<Self> {
        let (excluded, familiar) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { fleet: Arc::clone(fleet), excluded, familiar })
    }

    fn excluded(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that may be asked.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let present = self.fleet.present();
        let excluded = self.excluded();
        present.iter().filter(|member| !excluded.contains_key(member.name())).cloned().collect()
    }

    /// The order of the servers for a step.
    fn order(&self, key: u64) -> Vec<Arc<Member>> {
        let mut members = self.members();
        members.sort_by_cached_key(|member| Reverse(weight(key, &member.server.address)));
        members
    }

    /// The server that makes a step, while nothing fails.
    pub(crate) fn owner(&self, key: u64) -> Option<Arc<Member>> {
        let members = self.members().into_iter();
        // The first of equal ones, as in `order`.
        members.rev().max_by_key(|member| weight(key, &member.server.address))
    }

    /// Whether there is one server, and so nothing to choose.
    pub(crate) fn is_alone(&self) -> bool {
        self.members().len() == 1
    }

    /// The server to ask for a step: the first in its order that is well.
    pub(crate) fn pick(&self, key: u64, now: Instant) -> Pick {
        let mut first = None::<Instant>;
        for member in self.order(key) {
            match member.admit(now, &self.fleet.options) {
                Admission::No(until) => first = Some(first.map_or(until, |first| first.min(until))),
                admission => {
                    let probe = admission == Admission::Probe;
                    return Pick::Ask(Turn { member, asked: now, probe });
                }
            }
        }
        first.map_or(Pick::Nobody, Pick::Wait)
    }

    /// The first server in the order of a step, well or not.
    pub(crate) fn insist(&self, key: u64, now: Instant) -> Option<Turn> {
        let member = self.order(key).into_iter().next()?;
        Some(Turn { member, asked: now, probe: true })
    }

    /// The server to ask as well when one is late; nobody if none is well, or the budget is spent.
    pub(crate) fn hedge(&self, key: u64, late: &Turn, now: Instant) -> Option<Turn> {
        let well = |member: &Arc<Member>| {
            !Arc::ptr_eq(member, &late.member)
                && member.standing().breaker.circuit(now) == crate::Circuit::Closed
        };
        let member = self.order(key).into_iter().find(well)?;
        if !late.probe && !self.fleet.hedging(crate::hedge::Hedging::spend) {
            return None;
        }
        member.standing().counts.hedges_sent += 1;
        Some(Turn { member, asked: now, probe: false })
    }

    /// Something arrived from a server.
    pub(crate) fn succeeded(&self, turn: &Turn) {
        self.familiar.store(true, Ordering::Relaxed);
        self.fleet.well(&turn.member);
    }

    pub(crate) fn is_familiar(&self) -> bool {
        self.familiar.load(Ordering::Relaxed)
    }

    /// Never asks a server again for this job.
    pub(crate) fn exclude(&self, member: &Member, cause: &Cause) {
        let why = format!("{cause}: {}", cause.advice());
        let fresh = self.excluded().insert(member.name().to_owned(), why.clone()).is_none();
        if fresh {
            let endpoint = member.name();
            tracing::error!(endpoint, %cause, "EXCLUDED: this server is not asked again for this job");
        }
        member.standing().excluded = Some(why);
        self.fleet.changed.notify_waiters();
    }

    /// The excluded servers, each with the reason.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.excluded().iter().map(|(name, why)| format!("{name}: {why}")).collect()
    }
}
