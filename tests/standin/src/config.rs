//! What a test sets by environment variables.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Order;

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Only when something waits for it, and then only what it needs: shows waits that are missing.
    Lazy,
    /// At the call that queues it.
    Eager,
    /// In an order drawn from this seed, which respects streams and events.
    Seeded(u64),
}

/// Settings of the process, read once.
#[derive(Debug)]
pub(crate) struct Config {
    /// `FOREBAY_STANDIN_SCHED`: `lazy` (default), `eager` or a seed.
    pub(crate) schedule: Schedule,
    /// `FOREBAY_STANDIN_ORDER`: `forward` (default) or `reverse`.
    pub(crate) order: Order,
    /// `FOREBAY_STANDIN_DEVICES`: how many devices there are, 1 by default; 0 is a driver without a GPU.
    pub(crate) devices: usize,
    /// `FOREBAY_STANDIN_MEMORY`: bytes of each device, 4 GiB by default.
    pub(crate) memory: u64,
    /// `FOREBAY_STANDIN_CAPABILITY`: compute capability, `9.0` by default.
    pub(crate) capability: (i32, i32),
    /// `FOREBAY_STANDIN_CACHE`: folder of compiled kernels, in the system's temporary folder by default.
    pub(crate) cache: PathBuf,
    /// `FOREBAY_STANDIN_NCCL_TIMEOUT`: seconds after which a rank that does not come to a collective is an error, 10 by default.
    pub(crate) nccl_timeout: Duration,
    /// `NCCL_HOSTID`: processes with different ones count as on different machines.
    host: String,
    /// `CUDA_VISIBLE_DEVICES`: only for telling GPUs of different processes apart.
    visible: Option<String>,
}

impl Config {
    pub(crate) fn from_env() -> Result<Self, String> {
        let schedule = match get("SCHED").as_deref() {
            None | Some("lazy") => Schedule::Lazy,
            Some("eager") => Schedule::Eager,
            Some(seed) => Schedule::Seeded(number("SCHED", seed, "lazy, eager or a number")?),
        };
        let order = match get("ORDER").as_deref() {
            None | Some("forward") => Order::Forward,
            Some("reverse") => Order::Reverse,
            Some(other) => {
                return Err(format!("FOREBAY_STANDIN_ORDER is {other}: take forward or reverse"));
            }
        };
        let devices = get("DEVICES").map_or(Ok(1), |text| number("DEVICES", &text, "a number"))?;
        let memory = get("MEMORY")
            .map_or(Ok(4 << 30), |text| number("MEMORY", &text, "a number of bytes"))?;
        let capability = get("CAPABILITY").unwrap_or_else(|| "9.0".to_owned());
        let parts =
            capability.split_once('.').and_then(|(a, b)| a.parse().ok().zip(b.parse().ok()));
        let capability = parts.ok_or_else(|| {
            format!("FOREBAY_STANDIN_CAPABILITY is {capability}: take 8.0 or 9.0")
        })?;
        let cache = get("CACHE")
            .map_or_else(|| std::env::temp_dir().join("forebay-standin"), PathBuf::from);
        let devices = usize::try_from(devices).unwrap_or(usize::MAX).min(64);
        let nccl_timeout = get("NCCL_TIMEOUT")
            .map_or(Ok(10), |text| number("NCCL_TIMEOUT", &text, "a number of seconds"))?;
        Ok(Self {
            schedule,
            order,
            devices,
            memory,
            capability,
            cache,
            nccl_timeout: Duration::from_secs(nccl_timeout),
            host: variable("NCCL_HOSTID").unwrap_or_default(),
            visible: variable("CUDA_VISIBLE_DEVICES").filter(|visible| !visible.is_empty()),
        })
    }

    /// What a device is, for all processes.
    pub(crate) fn gpu(&self, device: usize) -> String {
        let visible = self.visible.as_deref().and_then(|visible| visible.split(',').nth(device));
        let host =
            if self.host.is_empty() { String::new() } else { format!(" of host {}", self.host) };
        visible.map_or_else(|| format!("GPU {device}{host}"), |name| format!("GPU {name}{host}"))
    }
}

fn number(name: &str, text: &str, take: &str) -> Result<u64, String> {
    text.parse().map_err(|_not| format!("FOREBAY_STANDIN_{name} is {text}: take {take}"))
}

fn get(name: &str) -> Option<String> {
    variable(&format!("FOREBAY_STANDIN_{name}"))
}

#[expect(clippy::disallowed_methods, reason = "a library that others load has no command line")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
