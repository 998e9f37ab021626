//! The operations of a sample, drawn as timm and torchvision draw them.

use super::random::RandomStream;
use crate::ops::policies::{
    AUG_MIX, ORIGINAL, Part, RAND, RAND_3A, THREE_AUGMENT, V0, WEIGHTED, WEIGHTED_3A,
};
use crate::ops::torch_policies::{CIFAR10, IMAGENET, SVHN, TorchPart};
use crate::ops::{
    Chain, Drawn, Hparams, MAX_MAGNITUDE, Mixture, MixtureKind, Op, Space, TimmOp, TorchOp,
};
use crate::recipe::{
    AugMix, AutoAugment, AutoPolicy, Filter, Noise, Rand, RandAugment, RandSet, Recipe,
    TorchPolicy, Torchvision,
};

/// timm's `hparams` of a recipe, as `transforms_imagenet_train` sets them.
fn hparams(recipe: &Recipe) -> Hparams {
    let translate_const = (f64::from(recipe.image_size) * 0.45).trunc();
    Hparams { translate_const, translate_pct: 0.45 }
}

/// Draws operations as timm's `RandAugment` does over `_RAND_INCREASING_TRANSFORMS`.
pub(super) fn table(random: &mut RandomStream, recipe: &Recipe) -> Vec<Op> {
    let RandAugment { ops, magnitude, std, probability } = recipe.randaugment;
    let hparams = hparams(recipe);
    let mut drawn = Vec::with_capacity(ops as usize);
    for _ in 0..ops {
        // Every number is drawn whether it is used or not, so that the next operation's numbers do not
        // depend on this one.
        let op = *pick(random, &TimmOp::INCREASING);
        let applied = random.unit() <= probability;
        let magnitude = magnitude + std * random.normal();
        let negative = random.unit() > 0.5;
        let filter = random.filter(recipe.interpolation);
        if applied {
            let magnitude = magnitude.clamp(0.0, MAX_MAGNITUDE);
            drawn.push(op.at(magnitude, &hparams, &Drawn { negative, radius: 0.0, filter }));
        }
    }
    drawn
}

/// Draws the operations of a policy, or the chains of AugMix.
pub(super) fn draw(
    random: &mut RandomStream,
    recipe: &Recipe,
    policy: &AutoAugment,
) -> (Vec<Op>, Option<Mixture>) {
    let draws = Draws { hparams: hparams(recipe), filter: recipe.interpolation };
    let ops = match policy {
        AutoAugment::Rand(rand) => rand_augment(random, &draws, rand),
        AutoAugment::Torchvision(policy) => torchvision(random, recipe.image_size, policy),
        AutoAugment::AugMix(mix) => return (Vec::new(), Some(aug_mix(random, draws, mix))),
        AutoAugment::Auto { policy, std } => {
            let (sub_policies, posterize): (&[&[Part]], _) = match policy {
                AutoPolicy::Original => (&ORIGINAL, TimmOp::PosterizeOriginal),
                AutoPolicy::OriginalR => (&ORIGINAL, TimmOp::PosterizeIncreasing),
                AutoPolicy::V0 => (&V0, TimmOp::Posterize),
                AutoPolicy::V0R => (&V0, TimmOp::PosterizeIncreasing),
                AutoPolicy::ThreeAugment => (&THREE_AUGMENT, TimmOp::Posterize),
            };
            let parts = pick(random, sub_policies).iter();
            let ops = parts.filter_map(|&(op, probability, magnitude)| {
                let op = match op {
                    TimmOp::Posterize | TimmOp::PosterizeOriginal => posterize,
                    op => op,
                };
                let magnitude = f64::from(magnitude);
                let level = Level { magnitude, noise: Noise::Normal(*std), max: MAX_MAGNITUDE };
                draws.op(random, op, probability, &level)
            });
            ops.collect()
        }
    };
    (ops, None)
}

/// timm's `AugMixAugment`.
#[expect(clippy::cast_possible_truncation, reason = "timm's arrays are of single precision")]
fn aug_mix(random: &mut RandomStream, mut draws: Draws, mix: &AugMix) -> Mixture {
    let AugMix { magnitude, width, depth, alpha, blended, noise } = *mix;
    draws.hparams.translate_pct = 0.3;
    let level = Level { magnitude: f64::from(magnitude), noise, max: MAX_MAGNITUDE };
    let weights = random.dirichlet(alpha, width);
    let weight = random.beta(alpha) as f32;
    let chains = weights.into_iter().map(|weight| {
        let drawn = 1 + random.below(3);
        let depth = if depth > 0 { depth } else { drawn };
        let ops = (0..depth).filter_map(|_| {
            let op = *pick(random, &AUG_MIX);
            draws.op(random, op, 1.0, &level)
        });
        Chain { weight: weight as f32, ops: ops.collect() }
    });
    let chains = chains.collect();
    let kind = if blended { MixtureKind::Blended } else { MixtureKind::Summed };
    Mixture { kind, weight, chains }
}

/// timm's `RandAugment`.
fn rand_augment(random: &mut RandomStream, draws: &Draws, rand: &Rand) -> Vec<Op> {
    let Rand { magnitude, ops, probability, noise, max, set } = *rand;
    let level = Level { magnitude: f64::from(magnitude), noise, max: f64::from(max) };
    let mut remaining: Vec<(TimmOp, f64)> = match set {
        RandSet::Weighted => WEIGHTED.to_vec(),
        RandSet::WeightedThreeAugment => WEIGHTED_3A.to_vec(),
        RandSet::Plain | RandSet::Increasing | RandSet::ThreeAugment => Vec::new(),
    };
    let mut drawn = Vec::with_capacity(ops as usize);
    for _ in 0..ops {
        let op = match set {
            RandSet::Plain => *pick(random, &RAND),
            RandSet::Increasing => *pick(random, &TimmOp::INCREASING),
            RandSet::ThreeAugment => *pick(random, &RAND_3A),
            RandSet::Weighted | RandSet::WeightedThreeAugment => take(random, &mut remaining),
        };
        drawn.extend(draws.op(random, op, probability, &level));
    }
    drawn
}

/// torchvision's `RandAugment`, `TrivialAugmentWide` and `AutoAugment`.
fn torchvision(random: &mut RandomStream, side: u32, policy: &Torchvision) -> Vec<Op> {
    let Torchvision { policy, filter } = *policy;
    // `AutoAugment` alone has inversion.
    let (drawn, _) = TorchOp::ALL.split_at(14);
    let parts: Vec<TorchPart> = match policy {
        TorchPolicy::TrivialWide => vec![(*pick(random, drawn), 1.0, random.below(31))],
        TorchPolicy::Rand { ops, magnitude } => {
            (0..ops).map(|_| (*pick(random, drawn), 1.0, magnitude)).collect()
        }
        TorchPolicy::Imagenet => pick(random, &IMAGENET).to_vec(),
        TorchPolicy::Cifar10 => pick(random, &CIFAR10).to_vec(),
        TorchPolicy::Svhn => pick(random, &SVHN).to_vec(),
    };
    let space = match policy {
        TorchPolicy::TrivialWide => Space::Wide,
        TorchPolicy::Rand { .. } => Space::Narrow(31),
        TorchPolicy::Imagenet | TorchPolicy::Cifar10 | TorchPolicy::Svhn => Space::Narrow(10),
    };
    let ops = parts.into_iter().filter_map(|(op, probability, index)| {
        let applied = random.unit() <= probability;
        let negative = random.unit() <= 0.5 && op.is_signed();
        let magnitude = op.magnitude(space, index, side);
        let magnitude = magnitude.map(|value| if negative { -value } else { value });
        if applied { op.at(magnitude, filter) } else { None }
    });
    ops.collect()
}

/// One of a list, each as likely.
fn pick<'a, T>(random: &mut RandomStream, list: &'a [T]) -> &'a T {
    let index = random.below(u32::try_from(list.len()).expect("a short list"));
    &list[index as usize]
}

/// Takes one of the operations out of a list, by weight. NumPy's `choice` without replacement has the same
/// distribution: it draws again instead of an operation that it had.
fn take(random: &mut RandomStream, remaining: &mut Vec<(TimmOp, f64)>) -> TimmOp {
    let total: f64 = remaining.iter().map(|(_, weight)| weight).sum();
    let mut left = total * random.unit();
    let index = remaining.iter().position(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave a little beyond the last one.
    remaining.remove(index.unwrap_or(remaining.len() - 1)).0
}

/// The magnitude of an operation.
struct Level {
    magnitude: f64,
    noise: Noise,
    max: f64,
}

/// What all operations of a policy share.
struct Draws {
    hparams: Hparams,
    filter: Filter,
}

impl Draws {
    /// Draws one operation as timm's `AugmentOp` does; `None` if it is not applied. Every number is drawn
    /// whether it is used or not, so that the next operation's numbers do not depend on this one.
    fn op(
        &self,
        random: &mut RandomStream,
        op: TimmOp,
        probability: f64,
        level: &Level,
    ) -> Option<Op> {
        let applied = random.unit() <= probability;
        let (normal, uniform) = (random.normal(), random.unit());
        let (negative, radius) = (random.unit() > 0.5, random.unit());
        let filter = random.filter(self.filter);
        let magnitude = match level.noise {
            Noise::Normal(std) => level.magnitude + std * normal,
            Noise::Uniform => level.magnitude * uniform,
        };
        applied.then(|| {
            let drawn = Drawn { negative, radius, filter };
            op.at(magnitude.clamp(0.0, level.max), &self.hparams, &drawn)
        })
    }
}
