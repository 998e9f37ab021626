//! Warnings about servers that do not answer. A failure is logged when it happens; a server that accepts a
//! request and then says nothing would otherwise be noticed only when a timeout is over.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

/// Time without an answer after which a wait is logged.
const SILENCE: Duration = Duration::from_secs(10);

/// Waits for the answer of a server, and warns once if it takes long. The time counts from when `needed` is
/// ready.
pub(crate) async fn warn_if_silent<T>(
    (endpoint, request): (&str, &str),
    needed: impl Future<Output = ()>,
    answer: impl Future<Output = T>,
) -> T {
    let mut answer = pin!(answer);
    let silent = async {
        needed.await;
        sleep(SILENCE).await;
    };
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        () = silent => {}
    }
    tracing::warn!(endpoint, request, "no answer for {SILENCE:?}; still waiting");
    answer.await
}
