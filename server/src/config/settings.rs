//! The settings of a server, once for flags, environment and file: the same struct is parsed by clap and
//! by serde, so that every flag has a key in the file and both accept the same values.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use forebay::recipe::RecipeSpec;
use forebay_types::file;
use forebay_types::settings::{
    ByteSize, NonZeroByteSize, NonZeroTimeSpan, Number, TimeSpan, boolean,
};
use serde::Deserialize;

use super::mix::Mix;
use super::named::{self, NamedList};
use super::storage::{PriceSettings, StorageSettings};
use crate::access::AccessArgs;
use crate::address::{self, ListenAddress, SocketMode};
use crate::device::DeviceChoice;
use crate::recipes;

/// Largest configuration.
const MAX_FILE: u64 = 1 << 20;

/// A number of worker threads.
pub(crate) type Threads = Number<1, 4096>;

/// A number of streams, connections or microbatches.
pub(super) type Count = Number<1, 1_000_000>;

/// Settings of `forebay serve`.
///
/// Each can also be set in the file given by `--config`, with `_` for `-`: datasets and recipes in the
/// tables `[datasets]` and `[recipes]`, limits in `[limits]`, certificates and tokens in `[access]`, what is
/// about buckets in `[storage]` and `[prices]`.
/// `[identities.NAME]` sets `max_streams`, `max_queued` and `window_bytes` for one identity, at most as
/// large as those of the server.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// TOML file with settings; environment variables and flags override it.
    #[arg(long, value_name = "FILE", env = "FOREBAY_CONFIG")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// The settings that the file contains.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// Name and path of a dataset to serve, or its URL in a bucket (s3, gs, az, https). May be given several times.
    /// NAME=PATH:WEIGHT,PATH:WEIGHT mixes datasets: with the weight 0.5, an epoch has half of the records.
    #[arg(long = "dataset", value_name = "NAME=PATH", env = "FOREBAY_DATASETS")]
    #[serde(deserialize_with = "named::table")]
    pub(super) datasets: Vec<NamedList<Mix>>,
    /// Name and TOML file of a recipe to offer. May be given several times.
    #[arg(long = "recipe", value_name = "NAME=FILE", env = "FOREBAY_RECIPES")]
    #[serde(deserialize_with = "named::table")]
    pub(super) recipes: Vec<NamedList<String>>,
    /// Folder for index files, if they cannot be stored next to the datasets.
    #[arg(long, value_name = "DIR", env = "FOREBAY_INDEX_DIR")]
    pub(super) index_dir: Option<PathBuf>,
    /// Address and port to listen on, where port 0 selects a free port; or unix:PATH for the programs of this
    /// host. May be given several times, or separated by commas. Default 127.0.0.1:50051.
    #[arg(long, value_name = "ADDR|unix:PATH", env = "FOREBAY_LISTEN", value_delimiter = ',')]
    #[serde(deserialize_with = "address::one_or_more")]
    pub(super) listen: Vec<ListenAddress>,
    /// Permissions of the files of Unix sockets, in octal: who may connect. Default 600, the server's own user.
    #[arg(long, value_name = "MODE", env = "FOREBAY_SOCKET_MODE")]
    pub(super) socket_mode: Option<SocketMode>,
    /// Address and port of the admin port: /metrics, /healthz, /readyz and the status page. Default:
    /// none.
    #[arg(long, value_name = "ADDR", env = "FOREBAY_METRICS_LISTEN", value_parser = tcp_address)]
    pub(super) metrics_listen: Option<SocketAddr>,
    /// Show samples of the last microbatch on the status page. Default: true, unless calls must
    /// authenticate.
    #[arg(long, value_name = "BOOL", env = "FOREBAY_STATUS_PICTURE", value_parser = boolean,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) status_picture: Option<bool>,
    /// Number of worker threads. Default: all cores.
    #[arg(long, value_name = "N", env = "FOREBAY_THREADS")]
    pub(super) threads: Option<Threads>,
    /// Device that mixes: auto (the first GPU, else the CPU), cpu, cuda or cuda:N. Default auto.
    #[arg(long, value_name = "auto|cpu|cuda:N", env = "FOREBAY_DEVICE")]
    pub(super) device: Option<DeviceChoice>,
    /// Memory to allocate on the GPU. Default 64MiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_DEVICE_BYTES")]
    pub(super) device_bytes: Option<NonZeroByteSize>,
    /// Memory of the server, which is divided among buffers, workers, precomputed samples, messages and
    /// the process. Default: 1GiB and 64MiB for each thread, but at most three quarters of what the
    /// machine or the control group has.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_MEMORY")]
    pub(super) memory: Option<NonZeroByteSize>,
    /// Memory for batches being computed, sent or cached. Default: what the other parts leave of --memory.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_BUFFER_BYTES")]
    pub(super) buffer_bytes: Option<NonZeroByteSize>,
    /// Memory for samples that are precomputed when a repeat of their record is decoded; 0 precomputes
    /// none. Default: an eighth of --memory, at most 96MiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_SHARE_BYTES")]
    pub(super) share_bytes: Option<ByteSize>,
    /// Part of the memory for batches that may cache microbatches for other jobs that request the same
    /// ones; cached ones are evicted when a buffer is needed. 0 caches none. Default: half of it, at most 128MiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_CACHE_BYTES")]
    pub(super) cache_bytes: Option<ByteSize>,
    /// Time that reading a record may take before clients are told to ask another server or to retry; less
    /// while other reads of the dataset hang. Default 5s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_READ_TIMEOUT")]
    pub(super) read_timeout: Option<NonZeroTimeSpan>,
    /// Drain and end as soon as no other process holds a lock (flock) on this file, which its users share.
    #[arg(long, value_name = "FILE", env = "FOREBAY_WHILE_LOCKED")]
    pub(super) while_locked: Option<PathBuf>,
    /// Write logs as JSON.
    #[arg(long, value_name = "BOOL", env = "FOREBAY_JSON", value_parser = boolean,
        num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) json: Option<bool>,
    #[command(flatten)]
    pub(super) storage: StorageSettings,
    #[command(flatten)]
    pub(super) prices: PriceSettings,
    #[command(flatten)]
    pub(super) limits: LimitSettings,
    #[command(flatten)]
    pub(super) access: AccessArgs,
    #[arg(skip)]
    pub(super) identities: BTreeMap<String, IdentitySettings>,
}

/// The table `[limits]`.
#[derive(Clone, Copy, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitSettings {
    /// Maximum concurrent streams; more are refused with a delay after which to retry. Default 64.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_STREAMS")]
    pub(super) max_streams: Option<Count>,
    /// Maximum concurrent streams of one identity. Default: as --max-streams.
    #[arg(long, value_name = "N", env = "FOREBAY_IDENTITY_STREAMS")]
    pub(super) identity_streams: Option<Count>,
    /// Maximum outstanding microbatches of one client; more are refused with a delay after which to retry.
    /// Default 512.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_QUEUED")]
    pub(super) max_queued: Option<Count>,
    /// Maximum concurrent connections that have authenticated: by a certificate, by the token of a call,
    /// or, where calls need neither, by a valid call. One more takes the place of one that is idle, or
    /// its calls are refused. Default 1024.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_CONNECTIONS")]
    pub(super) max_connections: Option<Count>,
    /// Maximum concurrent connections that have not authenticated, half of them of one address. One more
    /// takes the place of the oldest. Default 128.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_UNAUTHENTICATED")]
    pub(super) max_unauthenticated: Option<Count>,
    /// Largest window of a stream: bytes computed ahead of its reader. One microbatch is always
    /// allowed, even by 0.
    /// Default 96MiB.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_WINDOW_BYTES")]
    pub(super) window_bytes: Option<ByteSize>,
    /// Time that a reader may accept no data before its stream ends. Default 60s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_STALL_TIMEOUT")]
    pub(super) stall_timeout: Option<NonZeroTimeSpan>,
    /// Time to accept a microbatch after which a reader counts as slow. Slow readers share half of the
    /// memory for batches. Default 5s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_SLOW_AFTER")]
    pub(super) slow_after: Option<NonZeroTimeSpan>,
    /// Time that a connection may take for the TLS handshake, and again to begin HTTP/2. Default 10s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_HANDSHAKE_TIMEOUT")]
    pub(super) handshake_timeout: Option<NonZeroTimeSpan>,
    /// Time that a connection may take to authenticate, from when it is accepted. Default 20s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_AUTHENTICATION_TIMEOUT")]
    pub(super) authentication_timeout: Option<NonZeroTimeSpan>,
    /// Time without an authenticated call after which a connection is closed. Default 2m.
    #[arg(long, value_name = "TIME", env = "FOREBAY_IDLE_TIMEOUT")]
    pub(super) idle_timeout: Option<NonZeroTimeSpan>,
    /// Time that streams have to finish their microbatch when the server shuts down; 0 aborts them.
    /// Default 25s.
    #[arg(long, value_name = "TIME", env = "FOREBAY_DRAIN_GRACE")]
    pub(super) drain_grace: Option<TimeSpan>,
}

/// A table `[identities.NAME]`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct IdentitySettings {
    pub(super) max_streams: Option<Count>,
    pub(super) max_queued: Option<Count>,
    pub(super) window_bytes: Option<ByteSize>,
}

/// An error of TOML with its line but without the text, which may be a token: a file of tokens that is given
/// as the configuration, or a token among the settings.
fn in_line(error: &toml::de::Error, text: &str) -> anyhow::Error {
    let line =
        error.span().and_then(|span| Some(text.get(..span.start)?.matches('\n').count() + 1));
    let line = line.map_or_else(String::new, |line| format!("line {line}: "));
    anyhow::anyhow!("{line}{}", error.message())
}

impl Settings {
    /// Reads the settings of a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot use the configuration {}", path.display());
        let text = file::read_to_string(path, MAX_FILE).with_context(context)?;
        toml::from_str(&text).map_err(|error| in_line(&error, &text)).with_context(context)
    }

    /// These settings, with those of the file for what is not set.
    pub(super) fn or(self, file: Self) -> Self {
        Self {
            datasets: if self.datasets.is_empty() { file.datasets } else { self.datasets },
            recipes: if self.recipes.is_empty() { file.recipes } else { self.recipes },
            index_dir: self.index_dir.or(file.index_dir),
            listen: if self.listen.is_empty() { file.listen } else { self.listen },
            socket_mode: self.socket_mode.or(file.socket_mode),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            status_picture: self.status_picture.or(file.status_picture),
            threads: self.threads.or(file.threads),
            device: self.device.or(file.device),
            device_bytes: self.device_bytes.or(file.device_bytes),
            memory: self.memory.or(file.memory),
            buffer_bytes: self.buffer_bytes.or(file.buffer_bytes),
            share_bytes: self.share_bytes.or(file.share_bytes),
            cache_bytes: self.cache_bytes.or(file.cache_bytes),
            read_timeout: self.read_timeout.or(file.read_timeout),
            while_locked: self.while_locked.or(file.while_locked),
            json: self.json.or(file.json),
            storage: self.storage.or(file.storage),
            prices: self.prices.or(file.prices),
            limits: self.limits.or(file.limits),
            access: self.access.or(file.access),
            identities: file.identities,
        }
    }
}

impl LimitSettings {
    fn or(self, file: Self) -> Self {
        Self {
            max_streams: self.max_streams.or(file.max_streams),
            identity_streams: self.identity_streams.or(file.identity_streams),
            max_queued: self.max_queued.or(file.max_queued),
            max_connections: self.max_connections.or(file.max_connections),
            max_unauthenticated: self.max_unauthenticated.or(file.max_unauthenticated),
            window_bytes: self.window_bytes.or(file.window_bytes),
            stall_timeout: self.stall_timeout.or(file.stall_timeout),
            slow_after: self.slow_after.or(file.slow_after),
            handshake_timeout: self.handshake_timeout.or(file.handshake_timeout),
            authentication_timeout: self.authentication_timeout.or(file.authentication_timeout),
            idle_timeout: self.idle_timeout.or(file.idle_timeout),
            drain_grace: self.drain_grace.or(file.drain_grace),
        }
    }
}

/// Parses an address to listen on.
fn tcp_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_syntax| "expected an IP address and a port, such as 0.0.0.0:50051".to_owned())
}

/// The recipes that a configuration file defines.
pub(crate) fn recipes_in(path: &Path) -> anyhow::Result<BTreeMap<String, RecipeSpec>> {
    recipes::read(named::by_name(Settings::read(path)?.recipes)?)
}
