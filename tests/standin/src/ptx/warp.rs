//! Warp-level operations: shuffles, votes, matches, reductions.

use super::code::{Converge, WarpOp};
use super::thread_fault::ThreadFault;
use crate::engine::FaultKind;

/// The input of one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LaneInput {
    pub(super) value: u64,
    pub(super) lane: u64,
    pub(super) clamp: u64,
}

/// The result and the predicate for `lane` of the lanes in `group`.
///
/// A shuffle must not read a lane that does not participate, because its value is undefined on a GPU.
pub(super) fn result(
    op: &Converge,
    group: u32,
    given: &[LaneInput; 32],
    lane: u32,
) -> Result<(u64, u64), ThreadFault> {
    let mine = given[lane as usize];
    let lanes = || (0..32_u32).filter(|lane| group >> lane & 1 == 1);
    let values = || lanes().map(|lane| given[lane as usize].value);
    let where_true = |test: &dyn Fn(u64) -> bool| {
        let bits = lanes().filter(|&lane| test(given[lane as usize].value));
        bits.fold(0_u32, |all, lane| all | 1 << lane)
    };
    let set = |value: u64| value & 1 == 1;
    let flag = |truth: bool| (u64::from(truth), 0);
    Ok(match op.what {
        WarpOp::ShuffleIndex | WarpOp::ShuffleUp | WarpOp::ShuffleDown | WarpOp::ShuffleXor => {
            let (from, inside) = source(op.what, lane, mine);
            if group >> from & 1 == 0 {
                let what = format!(
                    "a shuffle in lane {lane} reads lane {from}, which does not participate"
                );
                return Err(ThreadFault::new(FaultKind::LaunchFailed, what));
            }
            (given[from as usize].value, u64::from(inside))
        }
        WarpOp::Ballot => (u64::from(where_true(&set)), 0),
        WarpOp::Any => flag(where_true(&set) != 0),
        WarpOp::All => flag(where_true(&set) == group),
        WarpOp::Uniform => flag(where_true(&set) == group || where_true(&set) == 0),
        WarpOp::MatchAny => (u64::from(where_true(&|value| value == mine.value)), 0),
        WarpOp::MatchAll => {
            let same = where_true(&|value| value == mine.value) == group;
            (if same { u64::from(group) } else { 0 }, u64::from(same))
        }
        WarpOp::Reduce(fold) => (values().reduce(|a, b| fold(a, b, 0)).unwrap_or(0), 0),
        WarpOp::ActiveMask => (u64::from(group), 0),
        WarpOp::Sync => (0, 0),
    })
}

/// The lane that a shuffle reads, and whether it is within the segment. It is the pseudo-code of the PTX manual.
fn source(what: WarpOp, lane: u32, given: LaneInput) -> (u32, bool) {
    let low = |value: u64| u32::try_from(value & 31).unwrap_or(0);
    let (by, clamp, segment) = (low(given.lane), low(given.clamp), low(given.clamp >> 8));
    let bound = lane & segment | clamp & !segment;
    let (from, inside) = match what {
        // The bound is the lowest lane here, and the highest one below.
        WarpOp::ShuffleUp => (lane.wrapping_sub(by), lane >= bound + by),
        WarpOp::ShuffleDown => (lane + by, lane + by <= bound),
        WarpOp::ShuffleXor => (lane ^ by, lane ^ by <= bound),
        _ => {
            let from = lane & segment | by & !segment;
            (from, from <= bound)
        }
    };
    (if inside { from } else { lane }, inside)
}
