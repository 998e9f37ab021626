//! A microbatch from a segment's own stream, raced by a hedge.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use crate::error::Cause;
use crate::fleet::job_servers::Attempt;
use crate::microbatch::Microbatch;

/// The winner of a race.
pub(crate) enum Winner {
    /// The segment's own stream.
    Own(Microbatch),
    /// A hedge, and the error of the own stream if it failed.
    Hedge(Microbatch, Attempt, Option<Cause>),
}

/// Waits for the first of two microbatches.
///
/// `started` is the attempt at the other server, once it has started. If the own stream fails, its error
/// is returned at once unless a hedge has started; then the hedge decides. If both arrive together and their pixels
/// differ, that is [`Cause::Conflict`]; a later one is dropped without a look.
pub(crate) async fn race(
    own: impl Future<Output = Result<Microbatch, Cause>>,
    hedge: impl Future<Output = Option<(Microbatch, Attempt)>>,
    started: &OnceLock<Attempt>,
) -> Result<Winner, Cause> {
    let (mut own, mut hedge) = (pin!(own), pin!(hedge));
    let (mut own_failed, mut hedge_ended) = (None, false);
    poll_fn(|context| {
        let own = match &own_failed {
            None => own.as_mut().poll(context),
            Some(_) => Poll::Pending,
        };
        let hedged = if hedge_ended { Poll::Pending } else { hedge.as_mut().poll(context) };
        match (own, hedged) {
            (Poll::Ready(Ok(own)), Poll::Ready(Some((other, by)))) if own.xxh3 != other.xxh3 => {
                return Poll::Ready(Err(Cause::Conflict(by.member.name().to_owned())));
            }
            (Poll::Ready(Ok(own)), _) => return Poll::Ready(Ok(Winner::Own(own))),
            (Poll::Ready(Err(cause)), Poll::Ready(Some((other, by)))) => {
                return Poll::Ready(Ok(Winner::Hedge(other, by, Some(cause))));
            }
            (Poll::Pending, Poll::Ready(Some((other, by)))) => {
                return Poll::Ready(Ok(Winner::Hedge(other, by, own_failed.take())));
            }
            (Poll::Ready(Err(cause)), hedged) => {
                own_failed = Some(cause);
                hedge_ended |= hedged.is_ready();
            }
            (Poll::Pending, Poll::Ready(None)) => hedge_ended = true,
            (Poll::Pending, Poll::Pending) => {}
        }
        if (hedge_ended || started.get().is_none())
            && let Some(cause) = own_failed.take()
        {
            return Poll::Ready(Err(cause));
        }
        Poll::Pending
    })
    .await
}
