//! A single trainer of several servers, in virtual time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay_client::{Client, Connection, Cursor, End, Network, Options, Prefetch, Rank};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;

use crate::fake::{Data, Fake};
use crate::{all, assert_are, names};

/// Time that a server takes for a microbatch. It makes one at a time.
const MAKE: Duration = Duration::from_millis(100);

/// A network in which every URL is a server with this data.
fn network(data: &Data) -> Network {
    let data = data.clone();
    let workers = Mutex::new(BTreeMap::<String, Arc<Semaphore>>::new());
    Network::default().seed(1).connector(move |url| {
        let mut workers = workers.lock().unwrap();
        let worker = workers.entry(url.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1)));
        let (data, worker) = (data.clone(), Arc::clone(worker));
        let call = move |request| serve(data.clone(), Arc::clone(&worker), request);
        Connection::new(tower::service_fn(call))
    })
}

async fn serve(
    data: Data,
    worker: Arc<Semaphore>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let response = Fake::service(data).call(request).await;
    let (parts, mut body) =
        response.unwrap_or_else(|never: Infallible| match never {}).into_parts();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let is_microbatch =
                |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|data| data.len() > 1000);
            if frame.as_ref().is_ok_and(is_microbatch) {
                let turn = worker.acquire().await;
                sleep(MAKE).await;
                drop(turn);
            }
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::from_parts(parts, Body::new(StreamBody::new(ReceiverStream::new(receiver)))))
}

/// The virtual time in which a single trainer receives 60 steps.
async fn time(servers: u32, prefetch: Prefetch) -> Duration {
    let data = Data { image_size: 32, frame: 1 << 20, ..Data::default() };
    let mut options = Options::new((0..servers).map(|i| format!("http://10.0.0.{i}:50051")));
    options.network = network(&data);
    options.hedge.quantile = 0.0;
    options.prefetch = prefetch;
    let client = Client::connect(options).unwrap();
    let start = Instant::now();
    let received = all(&client, Cursor::default(), End::Steps(60), Rank::SINGLE).await;
    assert_are(&data, &received, &names(&data, Cursor::default(), 60, Rank::SINGLE));
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_window_of_two_steps_per_server_keeps_several_servers_busy() {
    let step = 24 * 32 * 32 * 3;
    let single = time(1, Prefetch::Bytes(step)).await;
    for servers in [2, 3] {
        let steps = 2 * servers as usize;
        let several = time(servers, Prefetch::Bytes(steps * step)).await;
        let speedup = single.as_secs_f64() / several.as_secs_f64();
        assert!(speedup > 0.6 * f64::from(servers), "{servers} servers: {speedup:.2}");
        // The default is at least as large, as a unit test of it shows.
        assert!(time(servers, Prefetch::Auto).await <= several);
        let narrow = time(servers, Prefetch::Bytes(step / 2)).await;
        assert!(narrow > several, "{servers} servers with a narrow window: {narrow:?}");
    }
}
