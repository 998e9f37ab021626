//! Answers of one message, to Describe and Explain: what they may take, and who makes them.

use std::sync::Arc;

use forebay_proto::v1::{DescribeResponse, ExplainResponse};
use http::Response;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tonic::Code;
use tonic::body::Body;

use crate::access::CallGuard;
use crate::admission::{ConnectionBytes, HeldBytes, StreamSlot, Turns};
use crate::grpc;
use crate::sent::{self, UnsentBytes};
use crate::source::{EXPLAIN_BYTES, MicrobatchName, OpenJob};
use crate::state::ServerState;
use crate::status::Refusal;
use crate::stream_reset::StreamReset;

/// Bytes of the names of classes in one answer to Describe, which leaves room for the rest of it below the
/// default limit of clients, 4 MiB.
const CLASS_BYTES: usize = 3 << 20;

/// The answer to Describe, with as many names of classes from `first` on as fit, and its bytes.
///
/// # Errors
/// When the connection may not hold them: then no name is copied.
pub(crate) fn description(
    job: &dyn OpenJob,
    first: usize,
    datasets: Vec<String>,
    bytes: &Arc<ConnectionBytes>,
) -> Result<(DescribeResponse, HeldBytes), Refusal> {
    let classes = job.classes();
    let mut size = 0;
    let fitting = classes[first..].iter().take_while(|name| {
        // A tag, a length of up to five bytes, and the name.
        let sum = size + 6 + name.len();
        let fits = sum <= CLASS_BYTES;
        size = if fits { sum } else { size };
        fits
    });
    let fitting = fitting.count();
    let held = bytes.hold(size)?;
    let description = DescribeResponse {
        server_version: env!("CARGO_PKG_VERSION").into(),
        datasets,
        classes: classes[first..][..fitting].to_vec(),
        class_count: classes.len() as u64,
        ..job.facts().clone()
    };
    Ok((description, held))
}

/// The answer to Explain from the sample `first` on, and its bytes.
///
/// # Errors
/// When the connection may not hold them, before any work; when the sample is out of range.
pub(crate) fn explanation(
    job: &dyn OpenJob,
    name: MicrobatchName,
    first: u32,
    bytes: &Arc<ConnectionBytes>,
) -> Result<(ExplainResponse, HeldBytes), Refusal> {
    let held = bytes.hold(EXPLAIN_BYTES)?;
    let (json, next_sample) = job.explain(name, first)?;
    Ok((ExplainResponse { json, next_sample }, held))
}

/// Makes a message when its owner has a turn, and answers with it. `make` holds the bytes
/// of the connection that the message may have. They and `held` are released when the peer has taken the last
/// of them.
pub(crate) async fn respond<M: prost::Message + 'static>(
    state: &Arc<ServerState>,
    method: &'static str,
    (turns, owner): (&Turns, &Arc<str>),
    held: (CallGuard, Option<StreamSlot>),
    make: impl FnOnce(&Arc<ConnectionBytes>) -> Result<(M, HeldBytes), Refusal> + Send + 'static,
) -> Result<Response<Body>, Refusal> {
    let turn = turns.turn(owner).await;
    let (sender, made) = oneshot::channel();
    let begun = turns.threads.run(move || {
        let answer = make(&held.0.peer().bytes).and_then(|(message, mut bytes)| {
            let message = grpc::encode(&message);
            bytes.resize(message.len())?;
            Ok((message, bytes))
        });
        // The turn is given back even if the peer has gone, but not before the work is done.
        drop(turn);
        // The peer may have gone.
        sender.send((answer, held)).ok();
    });
    begun.map_err(|error| Refusal::NoThread { method, why: error.to_string() })?;
    let (answer, held) = made.await.map_err(|_panicked| Refusal::Unanswered { method })?;
    let (message, bytes) = answer?;
    let peer = Arc::clone(held.0.peer());
    let (unsent, all_sent) = sent::unsent((held, bytes));
    let limits = &state.admission.limits;
    let (patience, linger) = (limits.stall_timeout, limits.stall_linger);
    let reset = StreamReset::of_current_call();
    drop(tokio::spawn(async move {
        all_sent.or_close(sleep(patience), linger, reset, &peer).await;
    }));
    state.telemetry.metrics.add_call(method, Code::Ok);
    Ok(grpc::write(UnsentBytes { bytes: message, _unsent: unsent }))
}
