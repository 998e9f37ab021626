//! `forebay serve`: opens datasets and devices, then runs the server until a signal.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use anyhow::Context as _;
use forebay::dataset::{Dataset, MAX_STUCK_READS};
use forebay::{MAX_SHARED, Pipeline};
use forebay_types::command::{StopSignal, log_to_stderr, on_stop};
use forebay_types::file;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::output::say;
use crate::access::Access;
use crate::catalog::Catalog;
pub(super) use crate::config::ServeArgs;
use crate::config::{Config, Memory};
use crate::datasets::Datasets;
use crate::descriptors;
use crate::listen::{self, Listeners};
use crate::serve::{self, Setup};

/// Threads for network IO; the pipeline has its own threads.
const NETWORK_THREADS: usize = 2;

/// Time in which the streams of the last user end, who would otherwise be told to continue them elsewhere.
const LAST_STREAMS: Duration = Duration::from_millis(200);

pub(super) fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .enable_all()
        .build()?;
    // Before anything that takes time: SIGHUP ends a process that does not handle it.
    let hangups = {
        let _entered = runtime.enter();
        signal(SignalKind::hangup())?
    };
    let stop = Stop::default();
    let stop_at_signal = stop.clone();
    on_stop(None, move |signal| stop_at_signal.begin(signal))?;
    let mut config = Config::new(args)?;
    log_to_stderr("info", config.json);
    let unused = unused_from_now_on(config.while_locked.as_deref())?;
    let mixer = config.device.open(config.device_bytes)?;
    let opener = Datasets::new(config.index_dir.clone(), config.storage.clone());
    let datasets = open_datasets(&config, &opener)?;
    let pipeline = Arc::new(Pipeline::with_mixer(&mixer, config.pipeline)?);
    let Memory { total, buffers, precomputed, worker, messages, fetched } = config.memory;
    info!(total, buffers, precomputed, worker, messages, fetched, "memory");
    if let Some(cache) = opener.storage().and_then(|storage| storage.cache()) {
        let (folder, used, limit) = (cache.folder().display(), cache.used(), cache.limit());
        info!(%folder, used, limit, "disk cache");
    }
    for (name, dataset) in &datasets {
        pipeline
            .check_records(dataset)
            .with_context(|| format!("cannot serve the dataset {name}"))?;
    }
    let shared = if pipeline.shares_memory() { MAX_SHARED } else { 0 };
    let readers = config.pipeline.threads.get() + datasets.len() * MAX_STUCK_READS + shared;
    descriptors::fit(&mut config.limits, readers, config.metrics_listen.is_some())?;
    let catalog = Catalog::new(datasets, config.recipes, Arc::clone(&pipeline));
    let catalog = Arc::new(catalog.with_prices(config.prices));
    let served = runtime.block_on(async {
        let listeners =
            Listeners::bind(&config.listen, config.socket_mode, pipeline.shares_memory()).await?;
        let addresses = listeners.addresses()?;
        let admin = match config.metrics_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address} for metrics"))?,
            ),
            None => None,
        };
        listen::tcp(&addresses).for_each(|address| warn_if_exposed(&config.access, address));
        // Before the address is printed, because a process that reads it may send a signal.
        let stopped = stop.drains_from_now_on();
        // A process that started this server on port 0 reads the port from the first line.
        for address in &addresses {
            say(format!("listening on {address}"))?;
        }
        if let Some(admin) = &admin {
            say(format!("metrics and status on http://{}/", admin.local_addr()?))?;
        }
        let shutdown = async move {
            let stopped = async {
                match stopped.await {
                    Ok(signal) => info!("{signal}: draining"),
                    // The sender is kept until a signal arrives.
                    Err(_dropped) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopped => {}
                () = unused => info!("no lock is held on the file of --while-locked: draining"),
            }
        };
        let access = Arc::new(config.access);
        let reloads = reload_on_hangup(Arc::clone(&access), hangups);
        let setup = Setup { limits: config.limits, access, admin, picture: config.picture };
        let report = tokio::select! {
            report = serve::run(listeners, catalog, setup, shutdown) => report,
            never = reloads => match never {},
        };
        info!(?report, "stopped");
        Ok(())
    });
    // Nothing waits for a thread now, because one may be blocked in a read that never returns. The process
    // ends with all of them.
    runtime.shutdown_background();
    std::mem::forget(pipeline);
    served
}

/// Opens the datasets by name.
fn open_datasets(
    config: &Config,
    opener: &Datasets,
) -> anyhow::Result<BTreeMap<String, Arc<Dataset>>> {
    let mut datasets = BTreeMap::new();
    for (name, mix) in &config.datasets {
        let dataset =
            opener.open_mix(mix).with_context(|| format!("cannot open the dataset {name}"))?;
        let (records, bad) = (dataset.len(), dataset.bad_count());
        info!(dataset = name, path = %mix, records, bad, digest = %dataset.digest(), "dataset opened");
        for consequence in dataset.index_damage() {
            warn!(dataset = name, consequence, "the index is damaged; run \"forebay index\" again");
        }
        datasets.insert(name.clone(), Arc::new(dataset));
    }
    Ok(datasets)
}

/// What the first SIGINT or SIGTERM does: it ends a process that does not serve yet, and drains a server. The
/// second one ends the process in any case.
#[derive(Clone, Default)]
struct Stop(Arc<Mutex<Option<oneshot::Sender<StopSignal>>>>);

impl Stop {
    fn begin(&self, signal: StopSignal) {
        let drain = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match drain {
            // Fails only if the server is about to end.
            Some(drain) => drop(drain.send(signal)),
            None => signal.exit(),
        }
    }

    fn drains_from_now_on(&self) -> oneshot::Receiver<StopSignal> {
        let (drain, drained) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(drain);
        drained
    }
}

/// Waits until no other process locks the file of `--while-locked`; forever if there is none.
///
/// The server then holds its lock until it has ended, so that a client that gets one after it knows that
/// it has to start another server. The operating system releases the locks of killed processes.
fn unused_from_now_on(path: Option<&Path>) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (unused, waiter) = oneshot::channel();
    if let Some(path) = path {
        let cannot = || format!("cannot lock the file of --while-locked, {}", path.display());
        let opened = file::open(path).map_err(io::Error::from);
        let (file, _metadata) = opened.with_context(cannot)?;
        let wait = move || loop {
            match file.lock() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!(%error, "cannot wait for the locks of --while-locked");
                    break;
                }
                Ok(()) => {
                    std::mem::forget(file);
                    // Fails only if the server is about to end.
                    unused.send(()).ok();
                    break;
                }
            }
        };
        Builder::new().name("lock".to_owned()).spawn(wait).with_context(cannot)?;
    }
    Ok(async move {
        if waiter.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_STREAMS).await;
    })
}

/// Reloads certificates and tokens on SIGHUP.
async fn reload_on_hangup(access: Arc<Access>, mut hangup: Signal) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            return std::future::pending().await;
        }
        info!("SIGHUP: reloading certificates and tokens");
        access.apart(Access::reload).await;
    }
}

/// Warns if other hosts in the network could read the datasets or the traffic.
fn warn_if_exposed(access: &Access, address: SocketAddr) {
    if address.ip().is_loopback() {
        return;
    }
    if !access.requires_auth() {
        warn!(%address, "every host that can reach this address can read the datasets; set --token-file to require tokens");
    } else if !access.encrypts() {
        warn!(%address, "tokens and data are sent in plain text; set --tls-cert and --tls-key to encrypt");
    }
}
