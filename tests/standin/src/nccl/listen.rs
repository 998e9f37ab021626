//! What a rank does when it hears from the hub, on a thread of its own.

use std::thread;
use std::time::Duration;

use super::comm::Comm;
use super::hub::TICK;
use super::wire::ToRank;
use super::{Answer, Status, remember, tell, wrong};
use crate::engine::{Fault, FaultKind};
use crate::machine::came;

impl Comm {
    pub(super) fn heard(&self, message: ToRank) {
        match message {
            ToRank::Ready => self.joins(Ok(())),
            ToRank::Refused(what) => {
                self.lock().closed = true;
                self.joins(wrong(Status::INVALID_USAGE, format!("rank {}: {what}", self.rank)));
            }
            ToRank::Want { round } => came(|machine| {
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
            ToRank::Result { round, data } => came(|machine| {
                let expected = {
                    let mut inner = self.lock();
                    inner.results.insert(round, data);
                    inner.running.get(&round).map(|running| running.expected)
                };
                if let Some(expected) = expected {
                    machine.came(expected);
                }
            }),
            ToRank::Failed(what) => self.fail(Status::INVALID_USAGE, &what),
            ToRank::Lost(what) => {
                tell(&format!("rank {}: {what}", self.rank));
                self.lock().error.get_or_insert(Status::REMOTE);
            }
            ToRank::Left => self.lock().others_left = true,
        }
    }

    fn joins(&self, joined: Answer) {
        self.lock().joined.get_or_insert(joined);
        self.joined.notify_all();
    }

    /// As `Hub` does for a lost rank: an error at once, and a failure of collectives when the time is over.
    pub(super) fn hub_is_gone(&self) {
        self.joins(Err(Status::SYSTEM));
        if !self.lock().closed && !self.lock().others_left {
            tell(&format!("rank {}: the process that made the id was lost", self.rank));
            self.lock().error.get_or_insert(Status::REMOTE);
        }
        let mut waited = Duration::ZERO;
        loop {
            let (closed, others_left, waits) = {
                let inner = self.lock();
                (inner.closed, inner.others_left, !inner.running.is_empty())
            };
            if closed {
                return;
            }
            if waits && (others_left || waited >= self.timeout) {
                self.fail(Status::REMOTE, "the process that made the id is gone");
                return;
            }
            thread::sleep(TICK);
            waited += if waits { TICK } else { Duration::ZERO };
        }
    }

    /// Nothing will come any more: the rank's context breaks.
    fn fail(&self, status: Status, what: &str) {
        came(|machine| {
            {
                let mut inner = self.lock();
                if inner.closed {
                    return;
                }
                inner.error.get_or_insert(status);
            }
            remember(what);
            if machine.sound(self.context).is_ok() {
                let fault = Fault::new(FaultKind::OnlyHere, what);
                machine.break_context(self.context, &format!("NCCL rank {}", self.rank), &fault);
            }
        });
    }
}
