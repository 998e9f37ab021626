//! Configuration of a server: `--config` file, then environment, then flags; parsed once into a
//! [`Config`] that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Deserializer};

use crate::access::{Access, AccessArgs};
use crate::device::DeviceChoice;
use crate::limits::{IdentityLimits, Limits};
use forebay::PipelineConfig;
use forebay::mix::DEVICE_BYTES;
use forebay::recipe::{PRESETS, RecipeSpec};

/// Settings of a server. Each can also stand in the file given by `--config`, with `_` for `-`:
/// tables `[datasets]` and `[recipes]`, the limits in `[limits]`, files of certificates and tokens in
/// `[access]`; `[identities.NAME]` bounds one identity's `max_streams`, `max_queued` and
/// `ahead_bytes`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArgs {
    /// TOML file with settings; environment and flags go before it.
    #[arg(long, value_name = "FILE", env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,
    /// A dataset to serve and the name to serve it by; may be given more than once.
    #[arg(long, value_name = "NAME=PATH", env = "FOREBAY_DATASETS", value_delimiter = ',')]
    dataset: Vec<Named>,
    /// A recipe of your own, a TOML file, and its name; may be given more than once.
    #[arg(long, value_name = "NAME=FILE", env = "FOREBAY_RECIPES", value_delimiter = ',')]
    recipe: Vec<Named>,
    /// Folder for index files, where they cannot lie beside the datasets.
    #[arg(long, value_name = "DIR", env = "FOREBAY_INDEX_DIR")]
    index_dir: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one. Default 127.0.0.1:50051.
    #[arg(long, value_name = "ADDR", env = "FOREBAY_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address and port for /metrics, /healthz, /readyz and the status page; without it there are none.
    #[arg(long, value_name = "ADDR", env = "FOREBAY_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Show a few samples of what was sent last on the status page. Default: where anybody may call.
    #[arg(long, value_name = "BOOL", env = "FOREBAY_STATUS_PICTURE")]
    status_picture: Option<bool>,
    #[command(flatten)]
    access: AccessArgs,
    /// Worker threads. Default: all cores.
    #[arg(long, env = "FOREBAY_THREADS")]
    threads: Option<NonZeroUsize>,
    /// Where to mix: auto (the first GPU, else the CPU), cpu, or cuda:N. Default auto.
    #[arg(long, value_name = "auto|cpu|cuda:N", env = "FOREBAY_DEVICE")]
    device: Option<DeviceChoice>,
    /// Memory to take on the GPU. Default 64MiB.
    #[arg(long, value_name = "BYTES", env = "FOREBAY_DEVICE_BYTES")]
    device_bytes: Option<ByteSize>,
    /// Memory for batches being made and sent. Default 256MiB.
    #[arg(long, value_name = "BYTES", env = "FOREBAY_BUFFER_BYTES")]
    buffer_bytes: Option<ByteSize>,
    /// Memory for samples made early, as their repeats are decoded; 0 makes none. Default 96MiB.
    #[arg(long, value_name = "BYTES", env = "FOREBAY_SHARE_BYTES")]
    share_bytes: Option<ByteSize>,
    /// Of the memory for batches, what may hold ready ones for others who ask for the same; whoever
    /// needs the room goes first. 0 keeps none. Default 128MiB.
    #[arg(long, value_name = "BYTES", env = "FOREBAY_CACHE_BYTES")]
    cache_bytes: Option<ByteSize>,
    /// Streams at once; more are told to try again. Default 64.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_STREAMS")]
    max_streams: Option<NonZeroUsize>,
    /// Streams at once of one identity. Default: as many as all.
    #[arg(long, value_name = "N", env = "FOREBAY_IDENTITY_STREAMS")]
    identity_streams: Option<NonZeroUsize>,
    /// Microbatches that one client may have asked for and not got; more are told to slow down.
    /// Default 512.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_QUEUED")]
    max_queued: Option<NonZeroUsize>,
    /// Connections at once; more wait. Default 1024.
    #[arg(long, value_name = "N", env = "FOREBAY_MAX_CONNECTIONS")]
    max_connections: Option<NonZeroUsize>,
    /// Bytes made ahead for one stream; at least one microbatch is. Default 96MiB.
    #[arg(long, value_name = "BYTES", env = "FOREBAY_AHEAD_BYTES")]
    ahead_bytes: Option<ByteSize>,
    /// Seconds that a reader may take nothing before its stream ends. Default 60.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_STALL_TIMEOUT")]
    stall_timeout: Option<u64>,
    /// Seconds for a microbatch after which a reader is slow: slow ones together have half of the
    /// memory for batches. Default 5.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_SLOW")]
    slow: Option<u64>,
    /// Seconds that a connection may take to begin: TLS's handshake, then HTTP/2. Default 10.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_HANDSHAKE_TIMEOUT")]
    handshake_timeout: Option<u64>,
    /// Seconds without an accepted call after which a connection is closed. Default 120.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_IDLE_TIMEOUT")]
    idle_timeout: Option<u64>,
    /// Seconds that streams may take to finish when the server stops. Default 25.
    #[arg(long, value_name = "SECONDS", env = "FOREBAY_DRAIN_GRACE")]
    drain_grace: Option<u64>,
    /// Write logs as JSON.
    #[arg(long, env = "FOREBAY_JSON")]
    pub(crate) json: bool,
}

/// The same settings in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    datasets: BTreeMap<String, PathBuf>,
    recipes: BTreeMap<String, PathBuf>,
    index_dir: Option<PathBuf>,
    listen: Option<SocketAddr>,
    metrics_listen: Option<SocketAddr>,
    status_picture: Option<bool>,
    access: AccessArgs,
    threads: Option<NonZeroUsize>,
    device: Option<DeviceChoice>,
    device_bytes: Option<ByteSize>,
    buffer_bytes: Option<ByteSize>,
    share_bytes: Option<ByteSize>,
    cache_bytes: Option<ByteSize>,
    limits: FileLimits,
    identities: BTreeMap<String, FileIdentity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileLimits {
    max_streams: Option<NonZeroUsize>,
    identity_streams: Option<NonZeroUsize>,
    max_queued: Option<NonZeroUsize>,
    max_connections: Option<NonZeroUsize>,
    ahead_bytes: Option<ByteSize>,
    stall_timeout: Option<u64>,
    slow: Option<u64>,
    handshake_timeout: Option<u64>,
    idle_timeout: Option<u64>,
    drain_grace: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct FileIdentity {
    max_streams: Option<NonZeroUsize>,
    max_queued: Option<NonZeroUsize>,
    ahead_bytes: Option<ByteSize>,
}

/// What a server is started with.
#[derive(Debug)]
pub struct Config {
    /// Paths of the datasets, by name; at least one.
    pub datasets: BTreeMap<String, PathBuf>,
    /// The user's own recipes, by name; none has a preset's name.
    pub recipes: BTreeMap<String, RecipeSpec>,
    /// Folder for index files, where they do not lie beside the datasets.
    pub index_dir: Option<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where to mix.
    pub device: DeviceChoice,
    /// Bytes to take on a GPU.
    pub device_bytes: usize,
    /// Where to listen for operators.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether the status page shows samples.
    pub picture: bool,
    /// Who may call.
    pub access: Access,
    /// Workers and buffers.
    pub pipeline: PipelineConfig,
    /// What clients may do.
    pub limits: Limits,
}

impl Config {
    /// Merges file, environment and flags.
    ///
    /// # Errors
    /// When the file or a recipe cannot be read, a name is taken twice, or there is no dataset.
    pub fn new(args: ServeArgs) -> anyhow::Result<Self> {
        let file = args.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let limits = args.limits(&file.limits, file.identities);
        let datasets = if args.dataset.is_empty() { file.datasets } else { by_name(args.dataset)? };
        if datasets.is_empty() {
            bail!("no dataset to serve; give --dataset NAME=PATH");
        }
        let paths = if args.recipe.is_empty() { file.recipes } else { by_name(args.recipe)? };
        let mut recipes = BTreeMap::new();
        for (name, path) in paths {
            if PRESETS.iter().any(|(preset, _)| *preset == name) {
                bail!("{name} is a preset's name; name the recipe {} otherwise", path.display());
            }
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the recipe {}", path.display()))?;
            let spec = RecipeSpec::text(path.display().to_string(), text);
            spec.resolve()?;
            recipes.insert(name, spec);
        }
        let defaults = PipelineConfig::default();
        let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        let buffers = args.buffer_bytes.or(file.buffer_bytes);
        let share = args.share_bytes.or(file.share_bytes);
        let cache = args.cache_bytes.or(file.cache_bytes);
        let device_bytes = args.device_bytes.or(file.device_bytes);
        let access = Access::new(args.access.or(file.access).files())?;
        Ok(Self {
            datasets,
            recipes,
            index_dir: args.index_dir.or(file.index_dir),
            listen: args.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 50051).into()),
            device: args.device.or(file.device).unwrap_or(DeviceChoice::Auto),
            device_bytes: device_bytes.map_or(DEVICE_BYTES, bytes),
            metrics_listen: args.metrics_listen.or(file.metrics_listen),
            picture: args.status_picture.or(file.status_picture).unwrap_or(!access.asks()),
            access,
            pipeline: PipelineConfig {
                threads: args.threads.or(file.threads).unwrap_or(defaults.threads),
                buffer_bytes: buffers.map_or(defaults.buffer_bytes, bytes),
                share_bytes: share.map_or(defaults.share_bytes, bytes),
                cache_bytes: cache.map_or(defaults.cache_bytes, bytes),
            },
            limits,
        })
    }
}

impl ServeArgs {
    /// What clients may do.
    fn limits(&self, file: &FileLimits, identities: BTreeMap<String, FileIdentity>) -> Limits {
        let defaults = Limits::default();
        Limits {
            streams: self
                .max_streams
                .or(file.max_streams)
                .map_or(defaults.streams, NonZeroUsize::get),
            identity: IdentityLimits {
                streams: self.identity_streams.or(file.identity_streams).map(NonZeroUsize::get),
                ..IdentityLimits::default()
            },
            identities: identities.into_iter().map(FileIdentity::limits).collect(),
            queued: self.max_queued.or(file.max_queued).map_or(defaults.queued, NonZeroUsize::get),
            slow: seconds(self.slow.or(file.slow), defaults.slow),
            connections: self
                .max_connections
                .or(file.max_connections)
                .map_or(defaults.connections, NonZeroUsize::get),
            ahead_bytes: self
                .ahead_bytes
                .or(file.ahead_bytes)
                .map_or(defaults.ahead_bytes, |size| size.0),
            stall_timeout: seconds(
                self.stall_timeout.or(file.stall_timeout),
                defaults.stall_timeout,
            ),
            handshake_timeout: seconds(
                self.handshake_timeout.or(file.handshake_timeout),
                defaults.handshake_timeout,
            ),
            idle_timeout: seconds(self.idle_timeout.or(file.idle_timeout), defaults.idle_timeout),
            drain_grace: seconds(self.drain_grace.or(file.drain_grace), defaults.drain_grace),
            ..defaults
        }
    }
}

impl FileIdentity {
    fn limits((name, given): (String, Self)) -> (String, IdentityLimits) {
        let limits = IdentityLimits {
            streams: given.max_streams.map(NonZeroUsize::get),
            ahead_bytes: given.ahead_bytes.map(|size| size.0),
            queued: given.max_queued.map(NonZeroUsize::get),
        };
        (name, limits)
    }
}

fn seconds(given: Option<u64>, default: Duration) -> Duration {
    given.map_or(default, Duration::from_secs)
}

fn read(path: &Path) -> anyhow::Result<File> {
    let what = || format!("cannot use the configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(what)?;
    toml::from_str(&text).with_context(what)
}

fn by_name(named: Vec<Named>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut map = BTreeMap::new();
    for Named { name, path } in named {
        if let Some(first) = map.insert(name.clone(), path.clone()) {
            bail!("{name} names both {} and {}", first.display(), path.display());
        }
    }
    Ok(map)
}

/// `NAME=PATH`.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    path: PathBuf,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.into(), path: path.into() })
            }
            _ => Err("write NAME=PATH".into()),
        }
    }
}

/// A number of bytes, such as `256MiB`, `1GiB` or `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("", 0)];
        let (digits, shift) = units
            .iter()
            .find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
            .unwrap_or((text, 0));
        let number = digits.trim().parse::<u64>().ok();
        let bytes = number.and_then(|number| number.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| "write bytes, or a number with KiB, MiB, GiB or TiB".into())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::Bounds;

    use super::*;

    fn named(text: &str) -> Named {
        text.parse().unwrap()
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.toml");
        let text = "listen = \"127.0.0.1:7\"\nbuffer_bytes = \"64MiB\"\ndevice = \"cuda:1\"\n\
                    [datasets]\ntrain = \"a\"\n[limits]\nstall_timeout = 5\nidentity_streams = 3\n\
                    [identities.\"team/a\"]\nahead_bytes = \"1MiB\"\nmax_queued = 9\n";
        std::fs::write(&path, text).unwrap();
        let args = ServeArgs {
            config: Some(path),
            buffer_bytes: Some(ByteSize(1)),
            ..ServeArgs::default()
        };
        let config = Config::new(args).unwrap();
        assert_eq!(config.pipeline.buffer_bytes, 1);
        assert_eq!(config.listen.port(), 7);
        assert_eq!(config.device, DeviceChoice::Only(forebay::mix::Device::Cuda(1)));
        assert_eq!(config.device_bytes, DEVICE_BYTES);
        assert_eq!(config.limits.stall_timeout, Duration::from_secs(5));
        assert_eq!(config.limits.drain_grace, Limits::default().drain_grace);
        assert_eq!(config.datasets["train"], Path::new("a"));
        let Limits { ahead_bytes, queued, .. } = config.limits;
        let anyone = Bounds { streams: 3, ahead_bytes, queued };
        assert_eq!(config.limits.of("anyone"), anyone);
        let team = Bounds { ahead_bytes: 1 << 20, queued: 9, ..anyone };
        assert_eq!(config.limits.of("team/a"), team);
        assert!(config.picture && !config.access.asks());
    }

    #[test]
    fn what_is_wrong_with_a_configuration_is_said() {
        let error = |args| format!("{:#}", Config::new(args).unwrap_err());
        assert!(error(ServeArgs::default()).contains("--dataset NAME=PATH"));
        let twice = vec![named("a=x"), named("a=y")];
        assert!(error(ServeArgs { dataset: twice, ..ServeArgs::default() }).contains("names both"));
        let (dataset, recipe) = (vec![named("a=x")], vec![named("a2=mine.toml")]);
        let preset = error(ServeArgs { dataset, recipe, ..ServeArgs::default() });
        assert!(preset.contains("preset"), "{preset}");
        let absent = error(ServeArgs { config: Some("no/file".into()), ..ServeArgs::default() });
        assert!(absent.contains("no/file"), "{absent}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.toml");
        let text = "[datasets]\na = \"x\"\n[access]\ntls_cert = \"no.pem\"\n";
        std::fs::write(&path, text).unwrap();
        let half = error(ServeArgs { config: Some(path.clone()), ..ServeArgs::default() });
        assert!(half.contains("--tls-key"), "{half}");
        std::fs::write(&path, "datasetz = 1").unwrap();
        let unknown = error(ServeArgs { config: Some(path), ..ServeArgs::default() });
        assert!(unknown.contains("datasetz"), "{unknown}");
    }

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        for (text, bytes) in [("7", 7), ("2KiB", 2048), ("256MiB", 256 << 20), ("1 GiB", 1 << 30)] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "99999999999TiB", "3MB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
