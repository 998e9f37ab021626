//! The phases of a schedule, as they are written.

use serde::{Deserialize, Serialize};

/// Values from an epoch on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Phase {
    /// The first epoch, from 0, of the values, or of the way to them.
    pub from_epoch: u64,
    /// The epoch that has the values, if numbers move there in equal steps from what they were before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_epoch: Option<u64>,
    /// Height and width of a sample in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<u32>,
    /// Fields of the crop.
    #[serde(skip_serializing_if = "CropChange::is_empty")]
    pub crop: CropChange,
    /// Fields of RandAugment.
    #[serde(skip_serializing_if = "RandAugmentChange::is_empty")]
    pub randaugment: RandAugmentChange,
    /// Fields of MixUp and CutMix.
    #[serde(skip_serializing_if = "MixChange::is_empty")]
    pub mix: MixChange,
}

/// Fields of the crop that can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CropChange {
    /// `crop.scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<[f64; 2]>,
    /// `crop.resize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
}

/// Fields of RandAugment that can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandAugmentChange {
    /// `randaugment.magnitude`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub magnitude: Option<f64>,
}

/// Fields of MixUp and CutMix that can change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixChange {
    /// `mix.probability`; 0 turns mixing off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// `mix.mixup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup: Option<f64>,
    /// `mix.cutmix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<f64>,
}

impl CropChange {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl RandAugmentChange {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl MixChange {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
