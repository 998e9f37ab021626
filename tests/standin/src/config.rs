//! What a test sets by environment variables.

use std::path::PathBuf;

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
        Ok(Self { schedule, order, devices, memory, capability, cache })
    }
}

fn number(name: &str, text: &str, take: &str) -> Result<u64, String> {
    text.parse().map_err(|_not| format!("FOREBAY_STANDIN_{name} is {text}: take {take}"))
}

#[expect(clippy::disallowed_methods, reason = "a library that others load has no command line")]
fn get(name: &str) -> Option<String> {
    std::env::var(format!("FOREBAY_STANDIN_{name}")).ok()
}
