//! AugMix: a mixture of several chains of operations on one image, as data.

use super::op::Op;

/// Chains of operations that are applied to an image and mixed with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// How they are mixed.
    pub kind: MixtureKind,
    /// Weight of the mixed chains; the image itself has the rest.
    pub weight: f32,
    /// The chains, at most 16.
    pub chains: Vec<Chain>,
}

/// A chain of operations, applied to the image of before.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// Weight among the chains.
    pub weight: f32,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// How chains are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixtureKind {
    /// As a sum in single precision, then blended with the image: timm's `AugMixAugment`.
    Summed,
    /// Blended into the image one after another: timm's `b1`.
    Blended,
}

/// Most chains.
pub(crate) const MAX_WIDTH: usize = 16;

impl Mixture {
    /// The factor by which each chain is blended into the result of the chains before it, so that the
    /// weights are as in a sum: timm's `_calc_blended_weights`, in single precision as there.
    ///
    /// # Panics
    /// Panics if there are more chains than factors.
    pub(crate) fn blend_factors(&self) -> [f32; MAX_WIDTH] {
        let mut factors = [0.0; MAX_WIDTH];
        let mut rest = 1.0_f32;
        for (factor, chain) in factors[..self.chains.len()].iter_mut().zip(&self.chains).rev() {
            *factor = chain.weight * self.weight / rest;
            rest *= 1.0 - *factor;
        }
        factors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_of_blends_make_the_weights() {
        let chains = [0.5, 0.3, 0.2].map(|weight| Chain { weight, ops: Vec::new() });
        let mixture = Mixture { kind: MixtureKind::Blended, weight: 0.8, chains: chains.to_vec() };
        let factors = &mixture.blend_factors()[..3];
        // What remains of the first chain after the blends of the two others.
        let first = factors[0] * (1.0 - factors[1]) * (1.0 - factors[2]);
        assert!((first - 0.5 * 0.8).abs() < 1e-6, "{factors:?}");
    }
}
