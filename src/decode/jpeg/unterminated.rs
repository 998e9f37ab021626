//! Whether entropy-coded data that ends without a marker holds a whole scan for libjpeg-turbo.
//!
//! Pillow accepts such a file if libjpeg returns all rows, which depends on when it fills its bit
//! buffer: see [`super::exact`].

use super::exact::{ExactScan, ExactSlot};
use super::restart::{Restart, find_restart};

/// Whether a file that has no marker after the last restart of its only scan, which has `mcus` MCUs
/// and starts at `data`, holds all of them.
pub(super) fn is_complete(
    file: &[u8],
    data: usize,
    interval: u32,
    slots: Vec<ExactSlot<'_>>,
    mcus: u32,
) -> bool {
    let (mut at, mut left, mut due) = (data, mcus, 0);
    while interval != 0 && left > interval {
        // Any other marker would stay in the way of all later restarts, and end the data.
        let Some(Restart::Due(after) | Restart::Later(after)) = find_restart(file, at, due) else {
            return false;
        };
        (at, left, due) = (after, left - interval, (due + 1) & 7);
    }
    ExactScan::new(file, at, slots).skip_to(left).is_ok()
}
