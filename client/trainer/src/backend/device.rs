//! The device that trains: what was asked for, opened.

use std::fmt;
use std::str::FromStr;

use forebay_client::Rank;

use super::Backend;
use super::cpu::Cpu;
use crate::Error;
use crate::model::Graph;

/// `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor, in f32.
    Cpu,
    /// A GPU, in bf16. Without a number it is that of the process among those of its machine.
    Cuda(Option<u32>),
}

/// A network in training and in evaluation, and how images are normalised.
#[derive(Clone, Debug)]
pub struct Networks {
    /// In training.
    pub training: Graph,
    /// Most samples of a microbatch in training.
    pub batch: usize,
    /// In evaluation, perhaps over images of another size.
    pub evaluation: Graph,
    /// Most samples of a microbatch in evaluation.
    pub eval_batch: usize,
    /// Of R, G, B in 0..1.
    pub mean: [f64; 3],
    /// Of R, G, B.
    pub std: [f64; 3],
}

impl Device {
    /// This device, where `local` counts the processes of a machine.
    #[must_use]
    pub fn or(self, local: u32) -> Self {
        match self {
            Self::Cuda(None) => Self::Cuda(Some(local)),
            device => device,
        }
    }

    /// A backend on the device, for a rank that is to [`Backend::join`] its world.
    pub fn open(self, networks: Networks, place: Rank) -> Result<Box<dyn Backend>, Error> {
        match self {
            Self::Cpu => {
                let Networks { training, batch, evaluation, eval_batch, mean, std } = networks;
                let cpu = Cpu::<f32>::new(training, batch, evaluation, eval_batch, mean, std);
                Ok(Box::new(cpu))
            }
            Self::Cuda(number) => cuda(number.unwrap_or(0), networks, place),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: u32, networks: Networks, place: Rank) -> Result<Box<dyn Backend>, Error> {
    use super::cuda::{BUCKET, Cuda, Number, Setting};
    let device = forebay::gpu::Gpu::open(number)?;
    let setting = Setting { device, number: Number::Bf16, place, bucket: BUCKET };
    Ok(Box::new(Cuda::new(setting, networks)?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: u32, _networks: Networks, _place: Rank) -> Result<Box<dyn Backend>, Error> {
    Err(Error::Setting {
        setting: "--device",
        problem: format!(
            "cuda:{number}: this forebay-trainer was built without CUDA; build it with `--features cuda`, or use \
             --device cpu"
        ),
    })
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map(|n| Self::Cuda(Some(n)));
        match (text, text.strip_prefix("cuda:").map(number)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(device))) => Ok(device),
            _ => Err(format!("{text} is no device: use cpu, cuda or cuda:N")),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(number)) => write!(f, "cuda:{number}"),
        }
    }
}
