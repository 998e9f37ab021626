//! The settings, which tests set by environment variables.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::Order;
use crate::image::Version;

/// When queued work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// Only when something waits for it, and then only the work that it depends on. Reveals missing waits.
    Lazy,
    /// During the call that enqueues it.
    Eager,
    /// In a random order from this seed, which respects streams and events.
    Seeded(u64),
}

/// Settings of the process, read once.
#[derive(Debug)]
pub(crate) struct Config {
    /// `FOREBAY_STANDIN_SCHED`: `lazy` (default), `eager` or a seed.
    pub(crate) schedule: Schedule,
    /// `FOREBAY_STANDIN_ORDER`: `forward` (default) or `reverse`.
    pub(crate) order: Order,
    /// `FOREBAY_STANDIN_DEVICES`: the number of devices, 1 by default. With 0, the driver finds no GPU.
    pub(crate) devices: usize,
    /// `FOREBAY_STANDIN_MEMORY`: the bytes of memory of each device, 4 GiB by default.
    pub(crate) memory: u64,
    /// `FOREBAY_STANDIN_CAPABILITY`: the compute capability, `9.0` by default.
    pub(crate) capability: (i32, i32),
    /// `FOREBAY_STANDIN_DRIVER_VERSION`: the version of CUDA that the driver supports, `13.0` by default.
    pub(crate) driver_version: Version,
    /// `FOREBAY_STANDIN_NVRTC_VERSION`: the version of the stand-in's own NVRTC, `13.0` by default.
    pub(crate) nvrtc_version: Version,
    /// `FOREBAY_STANDIN_NVRTC_ARCHS`: the architectures that it knows, `75,80,86,89,90,100,103,120` by default.
    pub(crate) nvrtc_architectures: Vec<i32>,
    /// `FOREBAY_STANDIN_CACHE`: the folder of compiled kernels, in the system's temporary folder by default.
    pub(crate) cache: PathBuf,
    /// `FOREBAY_STANDIN_NCCL_TIMEOUT`: the seconds that a collective waits for a missing rank, 60 by default.
    pub(crate) nccl_timeout: Duration,
    /// `FOREBAY_STANDIN_NCCL_SILENT`: if set, a lost rank does not show in `ncclCommGetAsyncError` of the others, as between GPUs that are
    /// connected directly.
    pub(crate) nccl_silent: bool,
    /// `NCCL_HOSTID`: processes with different values count as being on different machines.
    host: String,
    /// `CUDA_VISIBLE_DEVICES`: used only to distinguish the GPUs of different processes.
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
                return Err(format!(
                    "invalid FOREBAY_STANDIN_ORDER {other:?}: expected forward or reverse"
                ));
            }
        };
        let devices = get("DEVICES").map_or(Ok(1), |text| number("DEVICES", &text, "a number"))?;
        let memory = get("MEMORY")
            .map_or(Ok(4 << 30), |text| number("MEMORY", &text, "a number of bytes"))?;
        let capability = get("CAPABILITY").unwrap_or_else(|| "9.0".to_owned());
        let parts =
            capability.split_once('.').and_then(|(a, b)| a.parse().ok().zip(b.parse().ok()));
        let capability = parts.ok_or_else(|| {
            format!("invalid FOREBAY_STANDIN_CAPABILITY {capability:?}: expected 8.0 or 9.0")
        })?;
        let cache = get("CACHE")
            .map_or_else(|| std::env::temp_dir().join("forebay-standin"), PathBuf::from);
        let devices = usize::try_from(devices).unwrap_or(usize::MAX).min(64);
        let nccl_timeout = get("NCCL_TIMEOUT")
            .map_or(Ok(60), |text| number("NCCL_TIMEOUT", &text, "a number of seconds"))?;
        let version = |name: &str| {
            let text = get(name).unwrap_or_else(|| "13.0".to_owned());
            Version::parse(&text)
                .ok_or_else(|| format!("invalid FOREBAY_STANDIN_{name} {text:?}: expected 13.0"))
        };
        let known = get("NVRTC_ARCHS").unwrap_or_else(|| "75,80,86,89,90,100,103,120".to_owned());
        let known: Result<Vec<i32>, _> = known.split(',').map(str::parse).collect();
        let expected = "invalid FOREBAY_STANDIN_NVRTC_ARCHS: expected numbers with commas";
        Ok(Self {
            driver_version: version("DRIVER_VERSION")?,
            nvrtc_version: version("NVRTC_VERSION")?,
            nvrtc_architectures: known.map_err(|_invalid| expected)?,
            nccl_silent: get("NCCL_SILENT").is_some(),
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

    /// `FOREBAY_STANDIN_NVRTC`: the file of the real NVRTC, to which the stand-in's forwards.
    pub(crate) fn real_nvrtc() -> Option<String> {
        get("NVRTC")
    }

    /// The name of a device that is unique across processes.
    pub(crate) fn gpu(&self, device: usize) -> String {
        let visible = self.visible.as_deref().and_then(|visible| visible.split(',').nth(device));
        let host =
            if self.host.is_empty() { String::new() } else { format!(" of host {}", self.host) };
        visible.map_or_else(|| format!("GPU {device}{host}"), |name| format!("GPU {name}{host}"))
    }
}

fn number(name: &str, text: &str, expected: &str) -> Result<u64, String> {
    let invalid = |_| format!("invalid FOREBAY_STANDIN_{name} {text:?}: expected {expected}");
    text.parse().map_err(invalid)
}

fn get(name: &str) -> Option<String> {
    variable(&format!("FOREBAY_STANDIN_{name}"))
}

#[expect(clippy::disallowed_methods, reason = "a shared library has no command line")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
