//! The device that mixes.

use std::fmt;
use std::str::FromStr;

use forebay::gpu::DeviceError;
use forebay::mix::{Device, Mixer};
use serde::{Deserialize, Deserializer};
use tracing::info;

/// The device of `--device`: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if it works, otherwise the CPU.
    Auto,
    /// This device.
    Only(Device),
}

impl DeviceChoice {
    /// Opens the device and logs which one it is. On a GPU the mixer allocates `device_bytes`.
    ///
    /// # Errors
    /// When a GPU was requested and does not work.
    pub fn open(self, device_bytes: usize) -> Result<Mixer, DeviceError> {
        let mixer = match self {
            Self::Only(device) => Mixer::open(device, device_bytes)?,
            Self::Auto => match Mixer::open(Device::Cuda(0), device_bytes) {
                Ok(mixer) => mixer,
                Err(reason) => {
                    info!(%reason, "no usable GPU, mixing on the CPU");
                    Mixer::Cpu
                }
            },
        };
        if let Some(libraries) = mixer.libraries() {
            info!(device = %mixer.device(), %libraries, "mixing device");
        } else {
            info!(device = %mixer.device(), "mixing device");
        }
        Ok(mixer)
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let device = text.parse().ok().map(Self::Only);
        device.ok_or_else(|| format!("unknown device {text:?}: expected auto, cpu, cuda or cuda:N"))
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Only(device) => device.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choices_round_trip() {
        for (name, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Only(Device::Cpu)),
            ("cuda:2", DeviceChoice::Only(Device::Cuda(2))),
        ] {
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(choice.to_string(), name);
        }
        let error = "gpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(error, "unknown device \"gpu\": expected auto, cpu, cuda or cuda:N");
    }
}
