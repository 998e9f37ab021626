//! The field `auto_augment`: policies in timm's notation, such as `rand-m9-mstd0.5-inc1`.
//!
//! Source: timm 1.0.31, `timm/data/auto_augment.py` (`rand_augment_transform`, `auto_augment_transform`,
//! `augment_and_mix_transform`).
//! A policy has one canonical form: parts in a fixed order, without those at their defaults. Unlike timm,
//! a part that would be ignored is an error.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::geometry::Interpolation;
use crate::ops::MAX_WIDTH;

/// Most operations of a sample or a chain.
pub(super) const OPS: u32 = 16;

/// Largest magnitude.
const MAGNITUDE: u32 = 100;

/// timm's largest magnitude, unless `mmax` is another.
pub(super) const MAX: u32 = 10;

/// Most chains of `AugMix`.
const WIDTH: u32 = 16;
const _: () = assert!(WIDTH as usize <= MAX_WIDTH);

/// The names of policies, for messages.
const POLICIES: &str =
    "rand-..., augmix-..., original, originalr, v0, v0r, 3a, torchvision-... or none";

/// A policy of augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AutoAugment {
    /// `RandAugment`: operations of a set, drawn alike or by weight.
    Rand(Rand),
    /// `AutoAugment`: a sub-policy with probabilities and magnitudes.
    Auto {
        /// The sub-policies.
        policy: AutoPolicy,
        /// Standard deviation of magnitudes.
        std: f64,
    },
    /// `AugMix`: chains of operations, mixed.
    AugMix(AugMix),
    /// A policy of torchvision.
    Torchvision(Torchvision),
}

/// timm's `RandAugment`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rand {
    /// Mean magnitude (`m`), or its upper end if it is uniform.
    pub magnitude: u32,
    /// Operations that are drawn for a sample (`n`).
    pub ops: u32,
    /// Probability that a drawn operation is applied (`p`).
    pub probability: f64,
    /// How magnitudes vary (`mstd`).
    pub noise: Noise,
    /// The largest magnitude (`mmax`): larger ones are clipped.
    pub max: u32,
    /// The operations (`inc`, `t`).
    pub set: RandSet,
}

/// timm's `AugMixAugment`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugMix {
    /// Mean magnitude (`m`), or its upper end if it is uniform.
    pub magnitude: u32,
    /// Chains (`w`).
    pub width: u32,
    /// Operations of a chain (`d`); 0 draws 1 to 3.
    pub depth: u32,
    /// Alpha of the distributions of weights (`a`).
    pub alpha: f64,
    /// Whether chains are blended into the image one by one (`b`).
    pub blended: bool,
    /// How magnitudes vary (`mstd`); uniformly by default.
    pub noise: Noise,
}

/// A policy of torchvision, on Pillow's images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torchvision {
    /// The policy.
    pub policy: TorchPolicy,
    /// Filter of geometric operations; torchvision's default is the nearest pixel.
    pub filter: Interpolation,
}

/// The policies of torchvision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TorchPolicy {
    /// `TrivialAugmentWide`.
    TrivialWide,
    /// `RandAugment`.
    Rand {
        /// Operations of a sample (`num_ops`).
        ops: u32,
        /// Index of the magnitude, of 31 (`magnitude`).
        magnitude: u32,
    },
    /// `AutoAugment` for ImageNet.
    Imagenet,
    /// `AutoAugment` for CIFAR-10.
    Cifar10,
    /// `AutoAugment` for SVHN.
    Svhn,
}

/// How a magnitude varies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Noise {
    /// Normally, with this standard deviation.
    Normal(f64),
    /// Uniformly from 0.
    Uniform,
}

/// The operations that `RandAugment` draws from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RandSet {
    /// `_RAND_TRANSFORMS`, with replacement.
    Plain,
    /// `_RAND_INCREASING_TRANSFORMS` (`inc1`), with replacement.
    Increasing,
    /// `_RAND_3A` (`t3a`), with replacement.
    ThreeAugment,
    /// `_RAND_WEIGHTED_3A` (`t3aw`), by weight and without replacement.
    WeightedThreeAugment,
    /// `_RAND_WEIGHTED_0` (`tweights`), by weight and without replacement.
    Weighted,
}

/// The sub-policies of `AutoAugment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoPolicy {
    /// The paper's, with the arguments of timm's `original`.
    Original,
    /// The paper's, with posterization that increases.
    OriginalR,
    /// That of the TPU implementation of `EfficientNet`.
    V0,
    /// The same, with posterization that increases.
    V0R,
    /// 3-Augment of `DeiT` III.
    ThreeAugment,
}

impl AutoPolicy {
    const NAMES: [(&'static str, Self); 5] = [
        ("original", Self::Original),
        ("originalr", Self::OriginalR),
        ("v0", Self::V0),
        ("v0r", Self::V0R),
        ("3a", Self::ThreeAugment),
    ];
}

impl FromStr for AutoAugment {
    /// What is wrong with the text, and what is expected.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, parts) = text.split_once('-').map_or((text, None), |(n, rest)| (n, Some(rest)));
        if name == "torchvision" {
            return torchvision(parts.unwrap_or_default()).map(Self::Torchvision);
        }
        let parts = Parts::read(parts)?;
        if name == "rand" {
            return rand(parts).map(Self::Rand);
        }
        if name == "augmix" {
            return aug_mix(parts).map(Self::AugMix);
        }
        let Some((_, policy)) = AutoPolicy::NAMES.iter().find(|(known, _)| *known == name) else {
            return Err(format!("part {name:?}: expected {POLICIES}"));
        };
        let mut std = 0.0;
        for part in parts.0 {
            match part.key {
                "mstd" => std = part.real(0.0, 100.0)?,
                _ => return Err(part.unknown("mstd")),
            }
        }
        Ok(Self::Auto { policy: *policy, std })
    }
}

fn rand(parts: Parts<'_>) -> Result<Rand, String> {
    let mut rand = Rand {
        magnitude: 10,
        ops: 2,
        probability: 0.5,
        noise: Noise::Normal(0.0),
        max: MAX,
        set: RandSet::Plain,
    };
    let (mut increasing, mut set) = (false, None);
    for part in parts.0 {
        match part.key {
            "m" => rand.magnitude = part.whole(0, MAGNITUDE)?,
            "n" => rand.ops = part.whole(1, OPS)?,
            "p" => rand.probability = part.real(0.0, 1.0)?,
            "mstd" => {
                let std = part.real(0.0, 1e9)?;
                rand.noise = if std > 100.0 { Noise::Uniform } else { Noise::Normal(std) };
            }
            // timm takes 0 for its default.
            "mmax" => match part.whole(0, MAGNITUDE)? {
                0 => {}
                max => rand.max = max,
            },
            "inc" => increasing = part.whole(0, 1)? == 1,
            "t" => {
                set = Some(match part.value {
                    "weights" => RandSet::Weighted,
                    "3aw" => RandSet::WeightedThreeAugment,
                    "3a" => RandSet::ThreeAugment,
                    _ => return Err(part.expected("tweights, t3a or t3aw")),
                });
            }
            "w" => return Err(part.expected("tweights, as timm no longer has w")),
            _ => return Err(part.unknown("m, n, p, mstd, mmax, inc or t")),
        }
    }
    rand.set = set.unwrap_or(if increasing { RandSet::Increasing } else { RandSet::Plain });
    let distinct = match rand.set {
        RandSet::Weighted => 15,
        RandSet::WeightedThreeAugment => 14,
        _ => OPS,
    };
    if rand.ops > distinct {
        return Err(format!(
            "part \"n{}\": expected at most {distinct}, because operations with weights are drawn \
             without replacement",
            rand.ops
        ));
    }
    Ok(rand)
}

fn aug_mix(parts: Parts<'_>) -> Result<AugMix, String> {
    let mut mix = AugMix {
        magnitude: 3,
        width: 3,
        depth: 0,
        alpha: 1.0,
        blended: false,
        noise: Noise::Uniform,
    };
    for part in parts.0 {
        match part.key {
            "m" => mix.magnitude = part.whole(0, MAGNITUDE)?,
            "w" => mix.width = part.whole(1, WIDTH)?,
            "d" => mix.depth = part.whole(0, OPS)?,
            "a" => mix.alpha = part.real(0.01, 100.0)?,
            "b" => mix.blended = part.whole(0, 1)? == 1,
            "mstd" => mix.noise = Noise::Normal(part.real(0.0, 100.0)?),
            _ => return Err(part.unknown("m, w, d, a, b or mstd")),
        }
    }
    Ok(mix)
}

/// A policy of torchvision, of which the text after `torchvision-` is given.
fn torchvision(text: &str) -> Result<Torchvision, String> {
    const KNOWN: &str = "ta-wide, rand, auto-imagenet, auto-cifar10 or auto-svhn";
    let names = [
        ("ta-wide", TorchPolicy::TrivialWide),
        ("rand", TorchPolicy::Rand { ops: 2, magnitude: 9 }),
        ("auto-imagenet", TorchPolicy::Imagenet),
        ("auto-cifar10", TorchPolicy::Cifar10),
        ("auto-svhn", TorchPolicy::Svhn),
    ];
    // The name ends at the end or at a dash.
    let rest = |name: &str| match text.strip_prefix(name) {
        Some("") => Some(None),
        Some(rest) => rest.strip_prefix('-').map(Some),
        None => None,
    };
    if rest("augmix").is_some() {
        return Err(format!(
            "part \"augmix\": expected {KNOWN}; torchvision's AugMix computes on tensors, whose rounding \
             depends on the CPU; timm's is augmix-m3-w3"
        ));
    }
    let found = names.iter().find_map(|(name, policy)| Some((*policy, rest(name)?)));
    let Some((mut policy, rest)) = found else {
        return Err(format!("part {text:?}: expected {KNOWN}"));
    };
    let mut filter = Interpolation::Nearest;
    let parts = Parts::read(rest)?;
    let mut filters = parts.0.iter().filter(|part| filter_named(part.text).is_some());
    if let Some(second) = filters.nth(1) {
        return Err(second.expected("one filter"));
    }
    for part in parts.0 {
        match (part.key, &mut policy) {
            ("n", TorchPolicy::Rand { ops, .. }) => *ops = part.whole(1, OPS)?,
            ("m", TorchPolicy::Rand { magnitude, .. }) => *magnitude = part.whole(0, 30)?,
            (_, policy) => {
                let own = if matches!(policy, TorchPolicy::Rand { .. }) { "n, m, " } else { "" };
                let known = format!("{own}nearest, bilinear or bicubic");
                filter = filter_named(part.text).ok_or_else(|| part.expected(&known))?;
            }
        }
    }
    Ok(Torchvision { policy, filter })
}

fn filter_named(text: &str) -> Option<Interpolation> {
    match text {
        "nearest" => Some(Interpolation::Nearest),
        "bilinear" => Some(Interpolation::Bilinear),
        "bicubic" => Some(Interpolation::Bicubic),
        _ => None,
    }
}

/// The parts of a policy after its name.
struct Parts<'a>(Vec<Part<'a>>);

/// One part: `mstd0.5`.
struct Part<'a> {
    text: &'a str,
    key: &'a str,
    value: &'a str,
}

impl<'a> Parts<'a> {
    fn read(text: Option<&'a str>) -> Result<Self, String> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        for text in text.into_iter().flat_map(|text| text.split('-')) {
            let part = Part::read(text);
            if parts.iter().any(|other| other.key == part.key) {
                return Err(part.expected(&format!("{:?} once", part.key)));
            }
            parts.push(part);
        }
        Ok(Self(parts))
    }
}

impl<'a> Part<'a> {
    /// The key ends at the first digit. timm's set of operations has a name for a value.
    fn read(text: &'a str) -> Self {
        let at = match text.strip_prefix('t') {
            Some(_) => 1,
            None => text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len()),
        };
        let (key, value) = text.split_at(at);
        Self { text, key, value }
    }

    fn expected(&self, what: &str) -> String {
        format!("part {:?}: expected {what}", self.text)
    }

    fn unknown(&self, known: &str) -> String {
        self.expected(&format!("{known}, each with its value, or {POLICIES} at the beginning"))
    }

    fn whole(&self, min: u32, max: u32) -> Result<u32, String> {
        let digits = self.value.bytes().all(|byte| byte.is_ascii_digit());
        let value = self.value.parse().ok().filter(|v| digits && (min..=max).contains(v));
        value.ok_or_else(|| {
            self.expected(&format!("{} and a whole number, {min} to {max}", self.key))
        })
    }

    fn real(&self, min: f64, max: f64) -> Result<f64, String> {
        let digits = self.value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let value = self.value.parse().ok().filter(|v| digits && (min..=max).contains(v));
        value.ok_or_else(|| self.expected(&format!("{} and a number, {min} to {max}", self.key)))
    }
}

impl fmt::Display for AutoAugment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rand(rand) => rand.fmt(f),
            Self::AugMix(mix) => mix.fmt(f),
            Self::Torchvision(torchvision) => torchvision.fmt(f),
            Self::Auto { policy, std } => {
                let known = AutoPolicy::NAMES.iter().find(|(_, known)| known == policy);
                f.write_str(known.map_or("", |(name, _)| name))?;
                write_unless(f, "mstd", *std, 0.0)
            }
        }
    }
}

impl fmt::Display for Rand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { magnitude, ops, probability, noise, max, set } = self;
        write!(f, "rand-m{magnitude}-n{ops}")?;
        write_unless(f, "p", *probability, 0.5)?;
        match noise {
            Noise::Normal(std) => write_unless(f, "mstd", *std, 0.0)?,
            // Any number above 100.
            Noise::Uniform => f.write_str("-mstd101")?,
        }
        write_unless(f, "mmax", f64::from(*max), f64::from(MAX))?;
        f.write_str(match set {
            RandSet::Plain => "",
            RandSet::Increasing => "-inc1",
            RandSet::ThreeAugment => "-t3a",
            RandSet::WeightedThreeAugment => "-t3aw",
            RandSet::Weighted => "-tweights",
        })
    }
}

impl fmt::Display for AugMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { magnitude, width, depth, alpha, blended, noise } = self;
        write!(f, "augmix-m{magnitude}-w{width}")?;
        write_unless(f, "d", f64::from(*depth), 0.0)?;
        write_unless(f, "a", *alpha, 1.0)?;
        write_unless(f, "b", f64::from(u8::from(*blended)), 0.0)?;
        match noise {
            Noise::Normal(std) => write!(f, "-mstd{std}"),
            Noise::Uniform => Ok(()),
        }
    }
}

impl fmt::Display for Torchvision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("torchvision-")?;
        match self.policy {
            TorchPolicy::TrivialWide => f.write_str("ta-wide")?,
            TorchPolicy::Rand { ops, magnitude } => write!(f, "rand-n{ops}-m{magnitude}")?,
            TorchPolicy::Imagenet => f.write_str("auto-imagenet")?,
            TorchPolicy::Cifar10 => f.write_str("auto-cifar10")?,
            TorchPolicy::Svhn => f.write_str("auto-svhn")?,
        }
        f.write_str(match self.filter {
            Interpolation::Nearest => "",
            Interpolation::Bilinear => "-bilinear",
            Interpolation::Bicubic => "-bicubic",
        })
    }
}

/// Writes a part unless it has its default.
fn write_unless(f: &mut fmt::Formatter<'_>, key: &str, value: f64, default: f64) -> fmt::Result {
    if value.to_bits() == default.to_bits() { Ok(()) } else { write!(f, "-{key}{value}") }
}

impl TryFrom<String> for AutoAugment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AutoAugment> for String {
    fn from(policy: AutoAugment) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_one_canonical_form() {
        for (text, canonical) in [
            ("rand", "rand-m10-n2"),
            ("rand-m9-n3-mstd0.5-mmax10-p0.50", "rand-m9-n3-mstd0.5"),
            ("rand-inc1-n2-m7-mstd.5", ""),
            ("rand-inc1-mstd0.500-m7", "rand-m7-n2-mstd0.5-inc1"),
            ("rand-mstd1000-m7", "rand-m7-n2-mstd101"),
            ("rand-m7-mmax0", "rand-m7-n2"),
            ("rand-m20-mmax30-p1.0-inc0", "rand-m20-n2-p1-mmax30"),
            ("rand-t3a-inc1", "rand-m10-n2-t3a"),
            ("rand-tweights-n15", "rand-m10-n15-tweights"),
            ("original-mstd0.5", "original-mstd0.5"),
            ("v0r-mstd0", "v0r"),
            ("3a", "3a"),
            ("torchvision-ta-wide", "torchvision-ta-wide"),
            ("torchvision-ta-wide-bilinear", "torchvision-ta-wide-bilinear"),
            ("torchvision-rand", "torchvision-rand-n2-m9"),
            ("torchvision-rand-m5-nearest", "torchvision-rand-n2-m5"),
            ("torchvision-auto-cifar10-bicubic", "torchvision-auto-cifar10-bicubic"),
            ("augmix", "augmix-m3-w3"),
            ("augmix-m5-w4-d2-a1", "augmix-m5-w4-d2"),
            ("augmix-b1-mstd0-a0.50-d0", "augmix-m3-w3-a0.5-b1-mstd0"),
        ] {
            let policy = text.parse::<AutoAugment>();
            let Ok(policy) = policy else {
                assert_eq!(canonical, "", "{text}: {policy:?}");
                continue;
            };
            assert_eq!(policy.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse(), Ok(policy), "{text}");
        }
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("", "part \"\": expected rand-"),
            ("randm9", "part \"randm9\": expected rand-"),
            ("rand-m9-foo3", "part \"foo3\": expected m, n, p"),
            ("rand-inc", "part \"inc\": expected inc and a whole number, 0 to 1"),
            ("rand-m9.5", "part \"m9.5\": expected m and a whole number, 0 to 100"),
            ("rand-m9-", "part \"\": expected m, n, p"),
            ("rand-m9-m5", "part \"m5\": expected \"m\" once"),
            ("rand-mstd-1", "part \"mstd\": expected mstd and a number"),
            ("rand-mstd1e3", "part \"mstd1e3\": expected mstd and a number"),
            ("rand-w0", "part \"w0\": expected tweights"),
            ("rand-tfoo", "part \"tfoo\": expected tweights, t3a or t3aw"),
            ("rand-n15-t3aw", "part \"n15\": expected at most 14"),
            ("rand-n0", "part \"n0\": expected n and a whole number, 1 to 16"),
            ("torchvision", "part \"\": expected ta-wide"),
            ("torchvision-ta", "part \"ta\": expected ta-wide"),
            ("torchvision-augmix-w2", "part \"augmix\": expected ta-wide"),
            ("torchvision-rand-m31", "part \"m31\": expected m and a whole number, 0 to 30"),
            ("torchvision-ta-wide-m5", "part \"m5\": expected nearest, bilinear or bicubic"),
            ("torchvision-rand-lanczos", "part \"lanczos\": expected n, m, nearest"),
            ("torchvision-rand-nearest-bilinear", "part \"bilinear\": expected one filter"),
            ("augmix-w0", "part \"w0\": expected w and a whole number, 1 to 16"),
            ("augmix-d-1", "part \"d\": expected d and a whole number"),
            ("augmix-mstd101", "part \"mstd101\": expected mstd and a number, 0 to 100"),
            ("original-m5", "part \"m5\": expected mstd"),
        ] {
            let error = text.parse::<AutoAugment>().unwrap_err();
            assert!(error.starts_with(part), "{text}: {error}");
        }
    }
}
