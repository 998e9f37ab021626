//! The thread of a rank that handles messages of the hub.

use std::thread;
use std::time::Duration;

use super::comm::Comm;
use super::hub::{FOREVER, TICK};
use super::wire::ToRank;
use super::{Answer, Status, remember, tell, wrong};
use crate::engine::{Fault, FaultKind};
use crate::machine::on_external;

impl Comm {
    pub(super) fn heard(&self, message: ToRank) {
        match message {
            ToRank::Ready => self.joins(Ok(())),
            ToRank::Refused(what) => {
                self.lock().closed = true;
                self.joins(wrong(Status::INVALID_USAGE, format!("rank {}: {what}", self.rank)));
            }
            ToRank::Want { round } => on_external(|machine| {
                let give = {
                    let mut inner = self.lock();
                    let give = inner.running.get(&round).map(|running| running.give);
                    if give.is_none() {
                        inner.wanted = Some(round);
                    }
                    give
                };
                if let Some(give) = give {
                    machine.run_until(give);
                }
            }),
            ToRank::Result { round, data } => on_external(|machine| {
                let expected = {
                    let mut inner = self.lock();
                    inner.results.insert(round, data);
                    inner.running.get(&round).map(|running| running.expected)
                };
                if let Some(expected) = expected {
                    machine.arrived(expected);
                }
            }),
            ToRank::Failed(what) => self.fail(Status::INVALID_USAGE, &what),
            ToRank::Lost(what) => self.lost(&what),
            ToRank::Left => self.lock().others_left = true,
        }
    }

    fn joins(&self, joined: Answer) {
        self.lock().joined.get_or_insert(joined);
        self.joined.notify_all();
    }

    /// Another rank is gone. Collectives that it has not joined wait until they are aborted.
    fn lost(&self, what: &str) {
        tell(&format!("rank {}: {what}", self.rank));
        if !self.silent {
            self.lock().error.get_or_insert(Status::REMOTE);
        }
    }

    /// Handles the loss of the hub, as the hub handles a lost rank: an error at once, and a failure of collectives after the
    /// timeout. If all other ranks left in the regular way, only a later collective is an error.
    pub(super) fn hub_is_gone(&self) {
        self.joins(Err(Status::SYSTEM));
        let mut told = false;
        let mut waited = Duration::ZERO;
        loop {
            let (closed, others_left, waits) = {
                let inner = self.lock();
                (inner.closed, inner.others_left, !inner.running.is_empty())
            };
            if closed {
                return;
            }
            if !told && (waits || !others_left) {
                self.lost("the process that created the id was lost");
                told = true;
            }
            if waits && waited >= self.timeout {
                let what = format!("the process that created the id is gone{FOREVER}");
                self.fail(Status::REMOTE, &what);
                return;
            }
            thread::sleep(TICK);
            waited += if waits { TICK } else { Duration::ZERO };
        }
    }

    /// Breaks the context of the rank, because no result will arrive any more.
    fn fail(&self, status: Status, what: &str) {
        on_external(|machine| {
            {
                let mut inner = self.lock();
                if inner.closed {
                    return;
                }
                inner.error.get_or_insert(status);
            }
            remember(what);
            if machine.check_usable(self.context).is_ok() {
                let fault = Fault::new(FaultKind::OnlyHere, what);
                machine.break_context(self.context, &format!("NCCL rank {}", self.rank), &fault);
            }
        });
    }
}
