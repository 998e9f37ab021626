//! `forebay serve`: opens datasets and devices, then runs the server until a signal.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use forebay::Pipeline;
use forebay::dataset::Dataset;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::output::say;
use crate::access::Access;
use crate::catalog::Catalog;
use crate::config::Config;
pub(super) use crate::config::ServeArgs;
use crate::serve::{self, Setup};

/// Threads for network IO; the pipeline has its own threads.
const NETWORK_THREADS: usize = 2;

pub(super) fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let config = Config::new(args)?;
    log_to_stderr(config.json);
    let mixer = config.device.open(config.device_bytes)?;
    let mut datasets = BTreeMap::new();
    for (name, path) in &config.datasets {
        let dataset = Dataset::open(path, config.index_dir.as_deref())
            .with_context(|| format!("cannot open the dataset {name}"))?;
        let (records, bad) = (dataset.len(), dataset.bad().len());
        info!(dataset = name, records, bad, digest = %dataset.digest(), "dataset opened");
        datasets.insert(name.clone(), Arc::new(dataset));
    }
    let pipeline = Arc::new(Pipeline::with_mixer(&mixer, config.pipeline)?);
    let catalog = Arc::new(Catalog::new(datasets, config.recipes, pipeline));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let admin = match config.metrics_listen {
            Some(address) => Some(
                TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address} for metrics"))?,
            ),
            None => None,
        };
        warn_if_exposed(&config.access, listener.local_addr()?);
        // The handlers are installed before the address is printed: a process that reads it may send a
        // signal, which would kill this one if it had no handler.
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // A process that started this server on port 0 reads the port from this line.
        say(format!("listening on {}", listener.local_addr()?))?;
        if let Some(admin) = &admin {
            say(format!("metrics and status on http://{}/", admin.local_addr()?))?;
        }
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: draining"),
                _ = interrupt.recv() => info!("SIGINT: draining"),
            }
        };
        let access = Arc::new(config.access);
        let reloads = reload_on_hangup(Arc::clone(&access), signal(SignalKind::hangup())?);
        let setup = Setup { limits: config.limits, access, admin, picture: config.picture };
        let report = tokio::select! {
            report = serve::run(listener, catalog, setup, shutdown) => report,
            never = reloads => match never {},
        };
        info!(?report, "stopped");
        Ok(())
    })
}

/// Reloads certificates and tokens on SIGHUP.
async fn reload_on_hangup(access: Arc<Access>, mut hangup: Signal) -> Infallible {
    loop {
        if hangup.recv().await.is_none() {
            return std::future::pending().await;
        }
        info!("SIGHUP: reloading certificates and tokens");
        access.reload();
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

fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Fails if there is a subscriber already: a program that embeds the server has its own.
    let result = if json { logs.json().try_init() } else { logs.try_init() };
    drop(result);
}
