//! The plan of a microbatch as JSON, to read and to replay in other tools.

use std::ops::Range;

use forebay_types::Digest;
use serde::Serialize;

use crate::error::Error;
use crate::geometry::{Interpolation, Padding, Rect, ResizeFilter, Size};
use crate::jitter::ColorOp;
use crate::make::Request;
use crate::ops::{Chain, Library, Mixture, MixtureKind, Op};
use crate::plan::{self, MixKind, MixSample};
use crate::recipe::MixMode;

/// The plan of each sample of a microbatch. Its JSON form is documented and stable.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Digest of the dataset.
    pub dataset_digest: Digest,
    /// Digest of the recipe.
    pub recipe_digest: Digest,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Step of the epoch, from 0.
    pub step: u64,
    /// Microbatch of the step, from 0.
    pub index: u32,
    /// The mixing that all samples share; in pair and elem mode, only the mode.
    pub mix: ExplainedMix,
    /// One entry for each slot.
    pub samples: Vec<ExplainedSample>,
}

/// The mixing of a microbatch.
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

/// The plan of one sample.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSample {
    /// Index in the microbatch.
    pub slot: usize,
    /// Position in the epoch.
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
    /// The part of the resized image that is kept: top, left, height, width.
    pub window: [u32; 4],
    /// Filter of the resize.
    pub interpolation: ResizeFilter,
    /// What is added around the window.
    pub padding: Option<Padding>,
    /// Whether the image is flipped horizontally.
    pub flip: bool,
    /// Whether the image is flipped vertically.
    pub vflip: bool,
    /// The operations that are applied, in order.
    pub ops: Vec<ExplainedOp>,
    /// AugMix, if the recipe has it: it is applied after the operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmix: Option<ExplainedMixture>,
    /// The color operations that are applied after those, in order.
    pub color: Vec<ExplainedColorOp>,
    /// Slot of the sample that it is mixed with.
    pub partner: usize,
    /// The sample's own mixing in pair and elem mode; otherwise all samples share
    /// [`Explanation::mix`].
    #[serde(flatten)]
    pub own_mix: Option<OwnMix>,
}

/// The mixing of one sample, where each sample has a draw of its own.
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
    /// The mixing of a sample: `none`, `mixup` or `cutmix`, and the weight of its own label.
    pub fn mix_of(&self, sample: &ExplainedSample) -> (&'static str, f64) {
        let shared = (self.mix.mode, self.mix.lambda.unwrap_or(1.0));
        sample.own_mix.map_or(shared, |own| (own.mix_mode, own.lambda))
    }
}

/// One color operation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedColorOp {
    /// Name of torchvision's function.
    pub name: &'static str,
    /// Its argument.
    pub arg: Option<f64>,
}

/// One operation of the augmentation policy.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExplainedOp {
    /// Name of the operation in its library.
    pub name: &'static str,
    /// Argument of the library's function.
    pub arg: Option<f64>,
    /// Filter, if the operation is geometric.
    pub interpolation: Option<Interpolation>,
    /// The library that has the operation under this name.
    pub library: Library,
}

/// AugMix of one sample.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedMixture {
    /// `summed`, or `blended` (timm's `b1`).
    pub kind: &'static str,
    /// Weight of the chains; the image has the rest.
    pub weight: f32,
    /// The chains of operations.
    pub chains: Vec<ExplainedChain>,
}

/// One chain of AugMix.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedChain {
    /// Weight among the chains.
    pub weight: f32,
    /// The operations, in order.
    pub ops: Vec<ExplainedOp>,
}

/// Explains a microbatch without making it.
///
/// # Errors
/// [`Error::OutOfRange`] if the step or the microbatch is past the end, and [`Error::Recipe`] if the
/// dataset has too few records for one step.
pub fn explain(request: &Request) -> Result<Explanation, Error> {
    explain_samples(request, 0..usize::MAX)
}

/// Explains those samples of a microbatch whose slots are in a range.
///
/// # Errors
/// [`Error::OutOfRange`] if the step, the microbatch or the first of the samples is past the end.
pub fn explain_samples(request: &Request, slots: Range<usize>) -> Result<Explanation, Error> {
    let recipe_digest = request.recipe.digest();
    let request = &*request.in_epoch();
    let Request { dataset, recipe, name, .. } = request;
    let sampler = request.sampler()?;
    let n = usize::try_from(sampler.samples(name.step, name.index)).unwrap_or(usize::MAX);
    if slots.start >= n {
        let (got, limit) = (slots.start as u64, n as u64);
        return Err(Error::OutOfRange { what: "sample", got, limit });
    }
    let epoch = sampler.epoch(name.epoch);
    let mixes = plan::mix(recipe, *name, n).samples;
    let own = recipe.mix.enabled() && recipe.mix.mode != MixMode::Batch;
    let positions = sampler.positions(name.step, name.index);
    let slots = positions.zip(&mixes).enumerate().skip(slots.start).take(slots.len());
    let samples = slots.map(|(slot, (position, mix))| {
        let record = dataset.good_or_next(epoch.record(position));
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
            padding: plan.padding,
            flip: plan.flip,
            vflip: plan.vflip,
            ops: plan.ops.iter().map(explain_op).collect(),
            augmix: plan.mixture.as_ref().map(explain_mixture),
            color: plan.color.iter().map(explain_color).collect(),
            partner: n - 1 - slot,
            own_mix: own.then(|| {
                let (mix_mode, mix_box) = explain_mix(mix);
                OwnMix { mix_mode, lambda: mix.lambda, mix_box }
            }),
        }
    });
    Ok(Explanation {
        dataset_digest: dataset.digest(),
        recipe_digest,
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

fn explain_op(op: &Op) -> ExplainedOp {
    let (name, arg, interpolation) = (op.name(), op.arg(), op.interpolation());
    ExplainedOp { name, arg, interpolation, library: op.library() }
}

fn explain_mixture(mixture: &Mixture) -> ExplainedMixture {
    let kind = match mixture.kind {
        MixtureKind::Summed => "summed",
        MixtureKind::Blended => "blended",
    };
    let chain = |chain: &Chain| ExplainedChain {
        weight: chain.weight,
        ops: chain.ops.iter().map(explain_op).collect(),
    };
    let chains = mixture.chains.iter().map(chain).collect();
    ExplainedMixture { kind, weight: mixture.weight, chains }
}

fn explain_color(op: &ColorOp) -> ExplainedColorOp {
    ExplainedColorOp { name: op.name(), arg: op.arg() }
}

const fn height_width(size: Size) -> [u32; 2] {
    [size.height, size.width]
}

const fn corner_size(rect: Rect) -> [u32; 4] {
    [rect.top, rect.left, rect.height, rect.width]
}
