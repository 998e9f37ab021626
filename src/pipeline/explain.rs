//! The plan of a microbatch, for people and for replay in other tools.

use forebay_types::Digest;
use serde::{Serialize, Serializer};

use super::Request;
use super::make::Samples;
use crate::error::Error;
use crate::geometry::{Interpolation, Rect, Size};
use crate::plan::{self, MixKind, MixSample};
use crate::recipe::MixMode;

/// What happens to each sample of a microbatch. Its JSON form is documented in the README and stable.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Digest of the dataset.
    #[serde(serialize_with = "as_text")]
    pub dataset_digest: Digest,
    /// Digest of the recipe.
    #[serde(serialize_with = "as_text")]
    pub recipe_digest: Digest,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Microbatch of the step, from 0.
    pub index: u32,
    /// What all samples share; in pair and elem mode, only the mode.
    pub mix: ExplainedMix,
    /// One entry a slot.
    pub samples: Vec<ExplainedSample>,
}

/// MixUp or CutMix.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedMix {
    /// `none`, `mixup`, `cutmix`; or `pair`, `elem` where each sample has its own.
    pub mode: &'static str,
    /// Weight of the sample's own label; null where each sample has its own.
    pub lambda: Option<f64>,
    /// CutMix's box: top, bottom, left, right; bottom and right exclusive.
    #[serde(rename = "box")]
    pub cut: Option<[u32; 4]>,
}

/// What happens to one sample.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSample {
    /// Place in the microbatch.
    pub slot: usize,
    /// Place in the epoch.
    pub position: u64,
    /// Record number, after substitution of a bad record.
    pub record: u64,
    /// Its path or key.
    pub file: String,
    /// Its label.
    pub label: u32,
    /// Height and width of the stored image.
    pub size: [u32; 2],
    /// Crop: top, left, height, width, in the stored image.
    #[serde(rename = "box")]
    pub source: [u32; 4],
    /// Height and width after the resize.
    pub resized: [u32; 2],
    /// The part kept of the resized picture: top, left, height, width.
    pub window: [u32; 4],
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// Whether left and right are exchanged.
    pub flip: bool,
    /// The operations applied, in order.
    pub ops: Vec<ExplainedOp>,
    /// Slot of the sample it is mixed with.
    pub partner: usize,
    /// In pair and elem mode, how it is mixed; else all samples share [`Explanation::mix`].
    #[serde(flatten)]
    pub own_mix: Option<OwnMix>,
}

/// How one sample is mixed, where each has its own draw.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OwnMix {
    /// `none`, `mixup` or `cutmix`.
    pub mix_mode: &'static str,
    /// Weight of the sample's own label.
    pub lambda: f64,
    /// CutMix's box: top, bottom, left, right; bottom and right exclusive.
    pub mix_box: Option<[u32; 4]>,
}

impl Explanation {
    /// How a sample is mixed: `none`, `mixup` or `cutmix`, and the weight of its own label.
    pub fn mix_of(&self, sample: &ExplainedSample) -> (&'static str, f64) {
        let shared = (self.mix.mode, self.mix.lambda.unwrap_or(1.0));
        sample.own_mix.map_or(shared, |own| (own.mix_mode, own.lambda))
    }
}

/// One operation of RandAugment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedOp {
    /// timm's name.
    pub name: &'static str,
    /// The number that timm's function gets.
    pub arg: Option<f64>,
    /// Filter of a geometric operation.
    pub interpolation: Option<Interpolation>,
}

/// Explains a microbatch without making it.
pub fn explain(request: &Request) -> Result<Explanation, Error> {
    let Request { dataset, recipe, name, .. } = request;
    let Samples { positions, records, .. } = Samples::of(dataset, recipe, *name)?;
    let n = records.len();
    let mixes = plan::mix(recipe, *name, n).samples;
    let own = recipe.mix.enabled() && recipe.mix.mode != MixMode::Batch;
    let slots = positions.into_iter().zip(records).zip(&mixes).enumerate();
    let samples = slots.map(|(slot, ((position, record), mix))| {
        let stored = dataset.record(record);
        let plan = plan::sample(recipe, name.seed, name.epoch, position, stored.size);
        ExplainedSample {
            slot,
            position,
            record,
            file: dataset.name(record).to_owned(),
            label: stored.label,
            size: height_width(stored.size),
            source: corner_size(plan.source),
            resized: height_width(plan.resized),
            window: corner_size(plan.window),
            interpolation: plan.filter,
            flip: plan.flip,
            ops: plan.ops.iter().map(explain_op).collect(),
            partner: n - 1 - slot,
            own_mix: own.then(|| {
                let (mix_mode, mix_box) = explain_mix(mix);
                OwnMix { mix_mode, lambda: mix.lambda, mix_box }
            }),
        }
    });
    Ok(Explanation {
        dataset_digest: dataset.digest(),
        recipe_digest: recipe.digest(),
        seed: name.seed,
        epoch: name.epoch,
        step: name.step,
        index: name.index,
        mix: shared_mix(recipe.mix.mode, recipe.mix.enabled(), mixes.first()),
        samples: samples.collect(),
    })
}

fn shared_mix(mode: MixMode, enabled: bool, first: Option<&MixSample>) -> ExplainedMix {
    let own = |mode| ExplainedMix { mode, lambda: None, cut: None };
    match (mode, first) {
        (MixMode::Pair, _) if enabled => own("pair"),
        (MixMode::Elem, _) if enabled => own("elem"),
        (_, None) => own("none"),
        (_, Some(sample)) => {
            let (mode, cut) = explain_mix(sample);
            ExplainedMix { mode, lambda: Some(sample.lambda), cut }
        }
    }
}

fn explain_mix(sample: &MixSample) -> (&'static str, Option<[u32; 4]>) {
    match sample.kind {
        MixKind::None => ("none", None),
        MixKind::Mixup => ("mixup", None),
        MixKind::Cutmix(Rect { top, left, height, width }) => {
            ("cutmix", Some([top, top + height, left, left + width]))
        }
    }
}

fn explain_op(op: &crate::Op) -> ExplainedOp {
    ExplainedOp { name: op.name(), arg: op.arg(), interpolation: op.interpolation() }
}

const fn height_width(size: Size) -> [u32; 2] {
    [size.height, size.width]
}

const fn corner_size(rect: Rect) -> [u32; 4] {
    [rect.top, rect.left, rect.height, rect.width]
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}
