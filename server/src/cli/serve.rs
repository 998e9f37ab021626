//! `forebay serve`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use forebay::Pipeline;
use forebay::dataset::Dataset;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use super::say;
use crate::catalog::Catalog;
use crate::config::Config;
pub(super) use crate::config::ServeArgs;

/// Threads that move bytes; pixels have threads of their own.
const NETWORK_THREADS: usize = 2;

pub(super) fn serve(args: ServeArgs) -> anyhow::Result<()> {
    log_to_stderr(args.json);
    let config = Config::new(args)?;
    let mixer = config.device.open(config.device_bytes)?;
    let mut datasets = BTreeMap::new();
    for (name, path) in &config.datasets {
        let dataset = Dataset::open(path, config.index_dir.as_deref())
            .with_context(|| format!("dataset {name}"))?;
        let (records, bad) = (dataset.len(), dataset.bad().len());
        info!(dataset = name, records, bad, digest = %dataset.digest(), "opened");
        datasets.insert(name.clone(), Arc::new(dataset));
    }
    let pipeline = Arc::new(Pipeline::on(&mixer, config.pipeline)?);
    let catalog = Arc::new(Catalog::new(datasets, config.recipes, pipeline));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen)
            .await
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        // For whoever started this server on port 0.
        say(format!("listening on {}", listener.local_addr()?))?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => info!("SIGTERM: draining"),
                _ = interrupt.recv() => info!("SIGINT: draining"),
            }
        };
        let report = crate::run(listener, catalog, config.limits, shutdown).await;
        info!(?report, "stopped");
        Ok(())
    })
}

fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An earlier subscriber stays: a test or a program that embeds the server has its own.
    let result = if json { logs.json().try_init() } else { logs.try_init() };
    drop(result);
}
