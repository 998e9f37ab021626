//! A valid configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use forebay::PipelineConfig;
use forebay::mix::DEVICE_BYTES;
use forebay::recipe::RecipeSpec;
use forebay_types::process::available_memory;
use forebay_types::settings::NonZeroByteSize;

use super::memory::{Given, Memory};
use super::mix::Mix;
use super::named;
use super::settings::{IdentitySettings, LimitSettings, ServeArgs, Settings};
use super::storage::{PriceSettings, StorageSettings};
use crate::access::Access;
use crate::address::ListenAddress;
use crate::admission::{IdentityLimits, Limits};
use crate::device::DeviceChoice;
use crate::recipes;

/// The configuration of a server.
#[derive(Debug)]
pub struct Config {
    /// Paths of the datasets, by name; at least one.
    pub(crate) datasets: BTreeMap<String, Mix>,
    /// The user's own recipes, by name; none has the name of a preset.
    pub recipes: BTreeMap<String, RecipeSpec>,
    /// Folder for index files, if they are not stored next to the datasets.
    pub index_dir: Option<PathBuf>,
    /// Addresses to listen on, at least one.
    pub listen: Vec<ListenAddress>,
    /// Permissions of the files of Unix sockets.
    pub socket_mode: u32,
    /// Device that mixes.
    pub device: DeviceChoice,
    /// Bytes to allocate on a GPU.
    pub device_bytes: usize,
    /// Address of the admin port, if there is one.
    pub metrics_listen: Option<SocketAddr>,
    /// Whether the status page shows samples.
    pub picture: bool,
    /// File without whose locks the server ends.
    pub while_locked: Option<PathBuf>,
    /// Whether logs are JSON.
    pub json: bool,
    /// Access control.
    pub access: Access,
    /// What is about datasets in buckets.
    pub(crate) storage: StorageSettings,
    /// What requests to buckets cost.
    pub(crate) prices: PriceSettings,
    /// Workers and buffers.
    pub pipeline: PipelineConfig,
    /// The budget and its parts.
    pub memory: Memory,
    /// Limits of clients.
    pub limits: Limits,
}

impl Config {
    /// Merges flags, environment and file.
    ///
    /// # Errors
    /// When the file, a recipe, a certificate or a token file is invalid, a name occurs twice, or no
    /// dataset is given.
    pub fn new(args: ServeArgs) -> anyhow::Result<Self> {
        let file = args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let settings = args.settings.or(file);
        let datasets = named::by_name(settings.datasets)?;
        if datasets.is_empty() {
            bail!("no dataset to serve: set --dataset NAME=PATH");
        }
        let access = Access::new(settings.access.files())?;
        let mut listen = settings.listen;
        if listen.is_empty() {
            listen.push(ListenAddress::Tcp(([127, 0, 0, 1], 50051).into()));
        }
        let any_unix = listen.iter().any(|address| matches!(address, ListenAddress::Unix(_)));
        if any_unix && access.requires_certificates() {
            bail!(
                "calls over --listen unix: have no certificate, which --tls-client-ca requires: set --token-file \
                 too, or listen on TCP only"
            );
        }
        let defaults = PipelineConfig::default();
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let threads = settings.threads.and_then(|threads| NonZeroUsize::new(threads.count()));
        let threads = threads.unwrap_or(defaults.threads);
        let given = Given {
            memory: settings.memory.map(NonZeroByteSize::get),
            buffers: settings.buffer_bytes.map(NonZeroByteSize::get),
            precomputed: settings.share_bytes.map(|size| size.0),
            fetched: settings.storage.read_ahead.map(NonZeroByteSize::get),
            fetches: datasets.values().any(Mix::fetches),
        };
        let memory = Memory::new(given, threads, available_memory())?;
        let storage = StorageSettings {
            read_ahead: NonZeroByteSize::new(memory.fetched),
            ..settings.storage
        };
        Ok(Self {
            datasets,
            recipes: recipes::read(named::by_name(settings.recipes)?)?,
            index_dir: settings.index_dir,
            listen,
            socket_mode: settings.socket_mode.unwrap_or_default().0,
            device: settings.device.unwrap_or(DeviceChoice::Auto),
            device_bytes: settings.device_bytes.map_or(DEVICE_BYTES, |size| bytes(size.get())),
            metrics_listen: settings.metrics_listen,
            picture: settings.status_picture.unwrap_or(!access.requires_auth()),
            while_locked: settings.while_locked,
            json: settings.json.unwrap_or(false),
            access,
            storage,
            prices: settings.prices,
            pipeline: PipelineConfig {
                threads,
                buffer_bytes: bytes(memory.buffers),
                share_bytes: bytes(memory.precomputed),
                cache_bytes: settings.cache_bytes.map_or_else(
                    || defaults.cache_bytes.min(bytes(memory.buffers / 2)),
                    |size| bytes(size.0),
                ),
                worker_bytes: bytes(memory.worker),
                read_timeout: settings
                    .read_timeout
                    .map_or(defaults.read_timeout, forebay_types::settings::NonZeroTimeSpan::get),
                shared_memory: any_unix,
            },
            memory,
            limits: Limits {
                server_bytes: bytes(memory.messages),
                ..limits(settings.limits, settings.identities)
            },
        })
    }
}

/// The limits of clients; those that are not set have their defaults.
fn limits(given: LimitSettings, identities: BTreeMap<String, IdentitySettings>) -> Limits {
    let mut limits = Limits {
        identity: IdentityLimits {
            max_streams: given.identity_streams.map(forebay_types::settings::Number::count),
            ..IdentityLimits::default()
        },
        identities: identities.into_iter().map(|(name, of)| (name, identity(of))).collect(),
        ..Limits::default()
    };
    set(&mut limits.max_streams, given.max_streams.map(forebay_types::settings::Number::count));
    set(&mut limits.max_queued, given.max_queued.map(forebay_types::settings::Number::count));
    set(
        &mut limits.max_connections,
        given.max_connections.map(forebay_types::settings::Number::count),
    );
    set(
        &mut limits.max_unauthenticated,
        given.max_unauthenticated.map(forebay_types::settings::Number::count),
    );
    set(&mut limits.window_bytes, given.window_bytes.map(|size| size.0));
    set(
        &mut limits.stall_timeout,
        given.stall_timeout.map(forebay_types::settings::NonZeroTimeSpan::get),
    );
    set(
        &mut limits.slow_after,
        given.slow_after.map(forebay_types::settings::NonZeroTimeSpan::get),
    );
    set(
        &mut limits.handshake_timeout,
        given.handshake_timeout.map(forebay_types::settings::NonZeroTimeSpan::get),
    );
    set(
        &mut limits.authentication_timeout,
        given.authentication_timeout.map(forebay_types::settings::NonZeroTimeSpan::get),
    );
    set(
        &mut limits.idle_timeout,
        given.idle_timeout.map(forebay_types::settings::NonZeroTimeSpan::get),
    );
    set(&mut limits.drain_grace, given.drain_grace.map(|span| span.0));
    limits
}

fn set<T>(limit: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *limit = given;
    }
}

fn identity(given: IdentitySettings) -> IdentityLimits {
    IdentityLimits {
        max_streams: given.max_streams.map(forebay_types::settings::Number::count),
        window_bytes: given.window_bytes.map(|size| size.0),
        max_queued: given.max_queued.map(forebay_types::settings::Number::count),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    use super::*;
    use crate::admission::StreamLimits;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ServeArgs,
    }

    /// Parses flags without looking at the environment.
    fn parse(flags: &[&str]) -> Result<ServeArgs, clap::Error> {
        let command = Command::command().mut_args(|arg| arg.env(None::<&str>));
        let matches = command.try_get_matches_from([&["serve"], flags].concat())?;
        Ok(Command::from_arg_matches(&matches)?.args)
    }

    fn config(flags: &[&str]) -> anyhow::Result<Config> {
        Config::new(parse(flags)?)
    }

    fn error(flags: &[&str]) -> String {
        format!("{:#}", config(flags).unwrap_err())
    }

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    #[test]
    fn flags_override_the_file_and_the_file_overrides_defaults() {
        let (_folder, path) = file(
            "listen = \"127.0.0.1:7\"\nbuffer_bytes = \"64MiB\"\ndevice = \"cuda:1\"\njson = true\n\
             [datasets]\ntrain = \"a\"\n[limits]\nstall_timeout = \"5s\"\nidentity_streams = 3\n\
             [identities.\"team/a\"]\nwindow_bytes = \"1MiB\"\nmax_queued = 9\n",
        );
        let config = config(&["--config", &path, "--buffer-bytes=1KiB", "--json=off"]).unwrap();
        assert_eq!(config.pipeline.buffer_bytes, 1024);
        assert_eq!(config.listen, ["127.0.0.1:7".parse().unwrap()]);
        assert_eq!(config.device, DeviceChoice::Only(forebay::mix::Device::Cuda(1)));
        assert_eq!(config.device_bytes, DEVICE_BYTES);
        assert_eq!(config.limits.stall_timeout, Duration::from_secs(5));
        assert_eq!(config.limits.drain_grace, Limits::default().drain_grace);
        assert_eq!(config.datasets["train"].to_string(), "a");
        let Limits { window_bytes, max_queued, .. } = config.limits;
        let anyone = StreamLimits { max_streams: 3, window_bytes, max_queued };
        assert_eq!(config.limits.for_identity("anyone"), anyone);
        let team = StreamLimits { window_bytes: 1 << 20, max_queued: 9, ..anyone };
        assert_eq!(config.limits.for_identity("team/a"), team);
        assert!(config.picture && !config.access.requires_auth() && !config.json);
    }

    #[test]
    fn a_server_listens_on_several_addresses() {
        let shown = |config: Config| {
            let shown = config.listen.iter().map(ToString::to_string);
            (shown.collect::<Vec<_>>().join(" "), config.socket_mode)
        };
        let flags = ["--dataset=a=x", "--listen=127.0.0.1:7,unix:/a", "--listen=unix:b"];
        let all = "127.0.0.1:7 unix:/a unix:b";
        assert_eq!(shown(config(&flags).unwrap()), (all.into(), 0o600));
        let listen = r#"listen = ["127.0.0.1:7", "unix:/a", "unix:b"]"#;
        let (_folder, path) =
            file(&format!("{listen}\nsocket_mode = \"660\"\n[datasets]\na = \"x\"\n"));
        assert_eq!(shown(config(&["--config", &path]).unwrap()), (all.into(), 0o660));
        let default = shown(config(&["--dataset=a=x"]).unwrap());
        assert_eq!(default, ("127.0.0.1:50051".into(), 0o600));
        let (_folder, path) = file("listen = \"nowhere\"");
        assert!(error(&["--config", &path]).contains("or unix:PATH"));
    }

    #[test]
    fn errors_name_what_is_wrong_with_a_configuration() {
        assert!(error(&[]).contains("--dataset NAME=PATH"));
        assert!(error(&["--dataset=a=x", "--dataset=a=y"]).contains("duplicate name \"a\""));
        let preset = error(&["--dataset=a=x", "--recipe=a2=mine.toml"]);
        assert!(preset.contains("a2") && preset.contains("preset"), "{preset}");
        assert!(error(&["--config=no/file"]).contains("no/file"));
        let (_folder, path) = file("[datasets]\na = \"x\"\n[access]\ntls_cert = \"no.pem\"\n");
        assert!(error(&["--config", &path]).contains("--tls-key"));
        let (_folder, path) = file("datasetz = 1");
        assert!(error(&["--config", &path]).contains("datasetz"));
    }

    #[test]
    fn an_error_in_the_file_names_the_line_and_not_its_text() {
        let secret = "0123456789abcdef";
        for (text, says) in [
            (format!("team {secret}\n"), "line 1: "),
            (format!("[access]\ntoken = \"{secret}\"\n"), "line 2: unknown field `token`"),
            (format!("json = false\ntoken = {secret}\n"), "line 2: "),
        ] {
            let (_folder, path) = file(&text);
            let error = error(&["--config", &path]);
            assert!(error.contains(says) && error.contains(&path), "{error}");
            assert!(!error.contains(secret), "{error}");
        }
    }

    #[test]
    fn every_number_that_would_not_work_is_refused_by_flag_and_by_file() {
        let cases = [
            ("threads", "0", "from 1 to 4096"),
            ("max-streams", "18446744073709551615", "from 1 to 1000000"),
            ("max-streams", "0", "from 1 to 1000000"),
            ("identity-streams", "0", "from 1 to 1000000"),
            ("max-queued", "0", "from 1 to 1000000"),
            ("max-connections", "0", "from 1 to 1000000"),
            ("max-unauthenticated", "0", "from 1 to 1000000"),
            ("memory", "0", "above 0"),
            ("buffer-bytes", "0", "above 0"),
            ("device-bytes", "0", "above 0"),
            ("window-bytes", "1MB", "such as 256MiB"),
            ("stall-timeout", "0s", "above 0"),
            ("stall-timeout", "60", "such as 300ms"),
            ("stall-timeout", "18446744073709551615s", "at most 100 years"),
            ("slow-after", "0", "above 0"),
            ("handshake-timeout", "0", "above 0"),
            ("authentication-timeout", "0", "above 0"),
            ("idle-timeout", "0", "above 0"),
            ("drain-grace", "-1s", "such as 300ms"),
        ];
        for (flag, value, says) in cases {
            let by_flag = error(&["--dataset=a=x", &format!("--{flag}={value}")]);
            assert!(by_flag.contains(says) && by_flag.contains(flag), "{by_flag}");
            let top = ["threads", "memory", "buffer-bytes", "device-bytes"].contains(&flag);
            let (table, line) = if top { ("", 1) } else { ("[limits]\n", 2) };
            let key = flag.replace('-', "_");
            // Larger numbers than TOML has are refused by TOML.
            if value.len() < 19 || value.ends_with('s') {
                let value = value.parse::<u64>().map_or(format!("{value:?}"), |n| n.to_string());
                let (_folder, path) = file(&format!("{table}{key} = {value}\n"));
                let by_file = error(&["--config", &path]);
                assert!(by_file.contains(&format!("line {line}: ")), "{by_file}");
            }
        }
    }

    #[test]
    fn zero_is_accepted_where_help_documents_it() {
        let flags = ["--share-bytes=0", "--cache-bytes=0", "--window-bytes=0", "--drain-grace=0"];
        let config = config(&[&["--dataset=a=x"][..], &flags].concat()).unwrap();
        assert_eq!((config.pipeline.share_bytes, config.pipeline.cache_bytes), (0, 0));
        assert!(config.limits.drain_grace.is_zero());
    }

    #[test]
    fn the_example_file_has_every_flag_and_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/forebay.toml");
        let example = std::fs::read_to_string(path).unwrap().replace("\n#: ", "\n");
        let table: toml::Table = example.parse().unwrap();
        toml::from_str::<Settings>(&example).unwrap();
        let mut keys = BTreeSet::new();
        for (key, value) in table {
            match (key.as_str(), value) {
                ("limits" | "access" | "storage" | "prices", toml::Value::Table(inner)) => {
                    keys.extend(inner.into_iter().map(|(key, _)| key));
                }
                ("identities", _) => {}
                _ => drop(keys.insert(key)),
            }
        }
        let command = Command::command();
        let flags = command
            .get_arguments()
            .filter_map(clap::Arg::get_long)
            .filter(|flag| *flag != "config");
        let flags: BTreeSet<String> = flags
            .map(|flag| match flag {
                "dataset" => "datasets".into(),
                "recipe" => "recipes".into(),
                _ => flag.replace('-', "_"),
            })
            .collect();
        assert_eq!(keys, flags);
    }
}
