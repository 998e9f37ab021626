//! The reaction to each kind of failure; `retry` carries it out.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::error::Cause;
use crate::fleet::job_servers::{Attempt, JobServers};

/// The reaction to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Use another server, until time is up; this one after the delay that it asked for, if any.
    Retry(Option<Duration>),
    /// Use another server, but fail once every server failed twice.
    RetryTwice,
    /// Exclude the server from the job for a while.
    Exclude,
    /// The server rejects the client, or is not the one that it should be.
    AuthFailed,
    /// Fail, because the remaining servers would answer the same.
    Fail,
}

fn reaction(cause: &Cause) -> Reaction {
    match cause {
        // A server that restarts removes its socket and makes it again.
        Cause::Connection(_)
        | Cause::NoListener(_)
        | Cause::Truncated
        | Cause::IdleTimeout(_)
        | Cause::MicrobatchTimeout(_)
        | Cause::Overtaken
        | Cause::Resolve { .. } => Reaction::Retry(None),
        // A digest in a header may be damaged like any received byte. What a server says about its own
        // data is a status.
        Cause::Wire(_) | Cause::Mismatch { .. } => Reaction::RetryTwice,
        Cause::Conflict(_) | Cause::Memory(_) => Reaction::Fail,
        Cause::Access(_) | Cause::Certificate(_) | Cause::SocketPermission(_) => {
            Reaction::AuthFailed
        }
        Cause::Status { code, retry_after, .. } => match code {
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded => Reaction::Retry(*retry_after),
            Code::DataLoss | Code::Internal | Code::Unknown => Reaction::RetryTwice,
            Code::FailedPrecondition | Code::NotFound | Code::Unimplemented => Reaction::Exclude,
            Code::Unauthenticated => Reaction::AuthFailed,
            _ => Reaction::Fail,
        },
    }
}

const fn is_answer(cause: &Cause) -> bool {
    matches!(cause, Cause::Status { .. })
}

impl JobServers {
    /// Records a failure at its server, and decides how to react.
    pub(super) fn record(&self, attempt: &Attempt, cause: &Cause, single_call: bool) -> Reaction {
        let reaction = match reaction(cause) {
            Reaction::AuthFailed if !self.has_streamed() => Reaction::Exclude,
            Reaction::AuthFailed if !single_call => Reaction::Retry(None),
            // The client checked the names of a stream. So the limits of this server are lower, or it has
            // a bug, and others may serve the job.
            Reaction::Fail if is_answer(cause) && !single_call && self.has_other(attempt) => {
                Reaction::Exclude
            }
            reaction => reaction,
        };
        let delay = if let Reaction::Retry(delay) = reaction { delay } else { None };
        self.fleet.failed(&attempt.member, attempt.started, delay);
        if reaction == Reaction::Exclude {
            self.exclude(&attempt.member, cause);
        }
        reaction
    }

    /// Whether a server is left besides that of an attempt.
    fn has_other(&self, attempt: &Attempt) -> bool {
        self.members().iter().any(|member| !Arc::ptr_eq(member, &attempt.member))
    }

    /// Records the failure of an attempt whose microbatch arrives from another server.
    pub(crate) fn record_failure(&self, attempt: &Attempt, cause: &Cause) {
        let endpoint = attempt.member.name();
        tracing::debug!(endpoint, %cause, "one of two servers failed");
        if self.record(attempt, cause, false) == Reaction::Exclude {
            self.log_exclusion(&attempt.member, cause);
        }
    }
}
