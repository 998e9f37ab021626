//! Ranks, and their shares of a step.

use std::fmt;

/// One of the processes of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Number of this process, from 0.
    pub rank: u32,
    /// Number of processes; must divide the microbatches of a step.
    pub world: u32,
}

/// The reason why a rank has no share of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankError {
    /// The rank is not below the world.
    OutsideWorld(Rank),
    /// The world does not divide the microbatches of a step.
    Uneven {
        /// Number of processes.
        world: u32,
        /// Microbatches of a step.
        microbatches: u32,
    },
}

impl Rank {
    /// The only process of a run.
    pub const SINGLE: Self = Self { rank: 0, world: 1 };

    /// The rank's microbatches of a step: those with `index % world == rank`, in order.
    ///
    /// # Errors
    /// When the rank is not below the world, or the world does not divide `microbatches`.
    pub fn microbatches(self, microbatches: u32) -> Result<Vec<u32>, RankError> {
        let Self { rank, world } = self;
        if rank >= world {
            return Err(RankError::OutsideWorld(self));
        }
        if !microbatches.is_multiple_of(world) {
            return Err(RankError::Uneven { world, microbatches });
        }
        Ok((rank..microbatches).step_by(world as usize).collect())
    }
}

impl fmt::Display for RankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutsideWorld(Rank { rank, world }) => write!(
                f,
                "invalid rank {rank} for a world of {world}: expected a rank from 0 to world - 1"
            ),
            Self::Uneven { world, microbatches } => write!(
                f,
                "a world of {world} does not divide the {microbatches} microbatches of a step: \
                 choose a world that does, or change the recipe's microbatches"
            ),
        }
    }
}

impl std::error::Error for RankError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_share_a_step(groups in 1..40_u32, world in 1..40_u32) {
            let of = |rank| Rank { rank, world }.microbatches(groups);
            if groups % world == 0 {
                let mut all: Vec<u32> = (0..world).flat_map(|rank| of(rank).unwrap()).collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..groups).collect::<Vec<_>>());
            } else {
                prop_assert!(of(0).is_err());
            }
        }
    }

    #[test]
    fn a_rank_outside_of_its_world_is_refused() {
        for (rank, world) in [(0, 0), (1, 1), (8, 4)] {
            let error = Rank { rank, world }.microbatches(8).unwrap_err();
            assert_eq!(error, RankError::OutsideWorld(Rank { rank, world }));
        }
    }
}
