//! Networks that fail, between real servers and real clients: nothing is lost, repeated or wrong, and
//! it goes on in the time documented.

#![expect(clippy::unwrap_used, reason = "a test")]

mod damage;
mod partition;

use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, End, Job, Microbatch, Name, Options, Rank};
use forebay_tests::proxy::Proxy;
use forebay_tests::world::{SMALL, Server};

/// After so long without an answer a ping is sent, and after as long again the connection is given up.
const PING: Duration = Duration::from_millis(300);
/// The bound where pings are answered and nothing else comes.
const SILENCE: Duration = Duration::from_secs(3);

/// Of 8 microbatches a step, with pictures of that size.
fn job(size: u32) -> Job {
    let set = SMALL.map(str::to_owned).into_iter().chain([format!("image_size = {size}")]);
    Job { set: set.collect(), seed: 5, ..Job::new("train", "a2") }
}

fn client<'a>(endpoints: impl IntoIterator<Item = &'a String>) -> Client {
    let mut options = Options::new(endpoints.into_iter().cloned());
    options.timeouts.connect = Duration::from_secs(2);
    options.timeouts.ping = PING;
    options.timeouts.silence = SILENCE;
    options.retry.first = Duration::from_millis(10);
    options.retry.most = Duration::from_millis(100);
    options.retry.give_up = Duration::from_secs(30);
    // So that what goes wrong on the way is not overtaken by what was received before.
    options.prefetch_bytes = 1;
    Client::connect(options).unwrap()
}

/// A server, and a proxy in front of it.
async fn behind() -> (Server, Proxy) {
    let server = Server::start(2).await;
    let proxy = Proxy::start(server.address).await;
    (server, proxy)
}

type Content = (Name, Vec<u8>, Vec<u64>, Vec<u32>);

fn content(made: &Microbatch) -> Content {
    (made.name, made.pixels.to_vec(), made.records.clone(), made.label_a.clone())
}

/// What comes, the longest wait of it, and what is done after the third microbatch.
async fn read(
    client: &Client,
    job: &Job,
    steps: u64,
    then: impl FnOnce(),
) -> (Vec<Content>, Duration) {
    let end = End::Steps(steps);
    let mut stream = client.stream(job, Cursor::default(), end, Rank::ALONE).await.unwrap();
    let (mut received, mut longest, mut then) = (Vec::new(), Duration::ZERO, Some(then));
    loop {
        let asked = Instant::now();
        let Some(made) = stream.next().await else { break };
        longest = longest.max(asked.elapsed());
        received.push(content(&made.unwrap()));
        if received.len() == 3 {
            then.take().unwrap()();
        }
    }
    (received, longest)
}

/// The same without a proxy.
async fn undisturbed(server: &Server, job: &Job, steps: u64) -> Vec<Content> {
    read(&client(&[server.endpoint()]), job, steps, || {}).await.0
}
