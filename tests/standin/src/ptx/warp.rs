//! What lanes of a warp do together: shuffles, votes, matches, reductions.

use super::code::{Meet, Together};
use super::trouble::Trouble;
use crate::engine::FaultKind;

/// What one lane brings.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given {
    pub(super) value: u64,
    pub(super) lane: u64,
    pub(super) clamp: u64,
}

/// The result and the predicate for `lane` of the lanes in `group`.
///
/// A shuffle must not read a lane that takes no part: its value is undefined on a GPU.
pub(super) fn result(
    meet: &Meet,
    group: u32,
    given: &[Given; 32],
    lane: u32,
) -> Result<(u64, u64), Trouble> {
    let mine = given[lane as usize];
    let lanes = || (0..32_u32).filter(|lane| group >> lane & 1 == 1);
    let values = || lanes().map(|lane| given[lane as usize].value);
    let where_true = |test: &dyn Fn(u64) -> bool| {
        let bits = lanes().filter(|&lane| test(given[lane as usize].value));
        bits.fold(0_u32, |all, lane| all | 1 << lane)
    };
    let set = |value: u64| value & 1 == 1;
    let flag = |truth: bool| (u64::from(truth), 0);
    Ok(match meet.what {
        Together::ShuffleIndex
        | Together::ShuffleUp
        | Together::ShuffleDown
        | Together::ShuffleXor => {
            let (from, inside) = source(meet.what, lane, mine);
            if group >> from & 1 == 0 {
                let what = format!(
                    "a shuffle in lane {lane} reads lane {from}, which takes no part in it"
                );
                return Err(Trouble::new(FaultKind::LaunchFailed, what));
            }
            (given[from as usize].value, u64::from(inside))
        }
        Together::Ballot => (u64::from(where_true(&set)), 0),
        Together::Any => flag(where_true(&set) != 0),
        Together::All => flag(where_true(&set) == group),
        Together::Uniform => flag(where_true(&set) == group || where_true(&set) == 0),
        Together::MatchAny => (u64::from(where_true(&|value| value == mine.value)), 0),
        Together::MatchAll => {
            let same = where_true(&|value| value == mine.value) == group;
            (if same { u64::from(group) } else { 0 }, u64::from(same))
        }
        Together::Reduce(fold) => (values().reduce(|a, b| fold(a, b, 0)).unwrap_or(0), 0),
        Together::ActiveMask => (u64::from(group), 0),
        Together::Sync => (0, 0),
    })
}

/// The lane that a shuffle reads, and whether it lies in the segment: the PTX manual's pseudo-code.
fn source(what: Together, lane: u32, given: Given) -> (u32, bool) {
    let low = |value: u64| u32::try_from(value & 31).unwrap_or(0);
    let (by, clamp, segment) = (low(given.lane), low(given.clamp), low(given.clamp >> 8));
    let most = lane & segment | clamp & !segment;
    let (from, inside) = match what {
        // `most` is the least lane here.
        Together::ShuffleUp => (lane.wrapping_sub(by), lane >= most + by),
        Together::ShuffleDown => (lane + by, lane + by <= most),
        Together::ShuffleXor => (lane ^ by, lane ^ by <= most),
        _ => {
            let from = lane & segment | by & !segment;
            (from, from <= most)
        }
    };
    (if inside { from } else { lane }, inside)
}
