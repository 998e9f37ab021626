//! Failing networks between real servers and real clients: no microbatch is lost, repeated or wrong, and
//! the client recovers without help.

#![expect(clippy::unwrap_used, reason = "a test")]

mod damage;
mod partition;

use std::time::Duration;

use forebay_client::{
    Client, Cursor, End, Job, Microbatch, MicrobatchName, Options, Prefetch, Rank,
};
use forebay_tests::HANG;
use forebay_tests::proxy::Proxy;
use forebay_tests::world::{SMALL, Server};
use tokio::time::timeout;

/// A job with 8 microbatches a step and images of `size` x `size` pixels.
fn job(size: u32) -> Job {
    let set = SMALL.map(str::to_owned).into_iter().chain([format!("image_size = {size}")]);
    Job { set: set.collect(), seed: 5, ..Job::new("train", "a2") }
}

/// Options under which only an error on the connection makes the client try again. No timeout is shorter
/// than [`HANG`], so a busy machine cannot cause an effect that a test attributes to the network.
fn options<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Options {
    let mut options = Options::new(endpoints.into_iter().cloned());
    options.timeouts.connect = HANG;
    options.timeouts.keepalive = HANG;
    options.timeouts.idle = HANG;
    options.timeouts.microbatch = HANG;
    options.retry.initial_backoff = Duration::from_millis(10);
    options.retry.max_backoff = Duration::from_millis(100);
    options.retry.give_up_after = HANG;
    options.hedge.quantile = 0.0;
    // With little received ahead, a fault affects microbatches that are still to be received.
    options.prefetch = Prefetch::Bytes(1);
    options
}

fn client<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Client {
    Client::connect(options(endpoints)).unwrap()
}

/// Starts a server and a proxy in front of it.
async fn proxied_server() -> (Server, Proxy) {
    let server = Server::start(2).await;
    let proxy = Proxy::start(server.address).await;
    (server, proxy)
}

/// A microbatch's name, pixels, records and labels.
type Content = (MicrobatchName, Vec<u8>, Vec<u64>, Vec<u32>);

fn content(microbatch: &Microbatch) -> Content {
    let Microbatch { name, pixels, records, label_a, .. } = microbatch;
    (*name, pixels.to_vec(), records.clone(), label_a.clone())
}

/// Reads some steps, and calls `after_each` after each microbatch.
async fn read(
    client: &Client,
    job: &Job,
    steps: u64,
    mut after_each: impl AsyncFnMut(),
) -> Vec<Content> {
    let all = async {
        let end = End::Steps(steps);
        let mut stream = client.stream(job, Cursor::default(), end, Rank::SINGLE).await.unwrap();
        let mut received = Vec::new();
        while let Some(microbatch) = stream.next().await {
            received.push(content(&microbatch.unwrap()));
            after_each().await;
        }
        received
    };
    timeout(HANG, all).await.expect("the stream hangs")
}

/// Reads some steps from a server without a proxy.
async fn undisturbed(server: &Server, job: &Job, steps: u64) -> Vec<Content> {
    read(&client(&[server.endpoint()]), job, steps, async || {}).await
}
