//! Gate 4: the frames of HTTP/2 that a connection may send.
//!
//! PING, SETTINGS, `WINDOW_UPDATE` and unknown frames cost their sender nothing, and flow control does not
//! hold them back. So a connection earns the frames that it sends: by its calls, by the bytes that it
//! takes, and a few by time.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Frames that a connection may send at first, and that time adds up to.
const BURST: u64 = 1000;
/// Frames that a second adds.
const PER_SECOND: f64 = 50.0;
/// Frames that a call adds: its headers and message, and those by which a client ends it or measures it.
const PER_CALL: u64 = 8;
/// Bytes taken that add a frame. Clients send two `WINDOW_UPDATE` frames for 16 KiB at most, which is the
/// largest DATA frame by default.
const BYTES_PER_FRAME: usize = 1024;
/// Maximum number of frames that a connection may have left: bounded high, because clients send those that they have earned in
/// bursts.
const MAX_LEFT: u64 = 16 << 10;

/// Length of the preface that an HTTP/2 client sends first (RFC 9113, section 3.4).
pub(crate) const PREFACE_BYTES: usize = 24;
/// Length of a frame's header, which begins with the three bytes of its payload's length.
const HEADER_BYTES: usize = 9;

/// The frames that a connection may still send.
#[derive(Debug)]
pub(crate) struct FrameBudget(Mutex<State>);

#[derive(Debug)]
struct State {
    left: u64,
    /// Until when time has added frames.
    counted: Instant,
    /// Bytes taken that have not added a frame yet.
    bytes: usize,
    exhausted: bool,
}

impl FrameBudget {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(State { left: BURST, counted: now, bytes: 0, exhausted: false }))
    }

    /// Counts frames that the peer has sent. Returns whether it may send them.
    pub(crate) fn spend(&self, frames: u64) -> bool {
        self.spend_at(frames, Instant::now())
    }

    fn spend_at(&self, frames: u64, now: Instant) -> bool {
        self.change(|state| {
            let added = now.saturating_duration_since(state.counted).as_secs_f64() * PER_SECOND;
            if added >= 1.0 {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "not negative"
                )]
                let filled = state.left.saturating_add(added as u64).min(BURST);
                state.left = state.left.max(filled);
                state.counted = now;
            }
            state.exhausted |= frames > state.left;
            state.left = state.left.saturating_sub(frames);
            !state.exhausted
        })
    }

    /// Counts a call that has an identity.
    pub(crate) fn earn_call(&self) {
        self.change(|state| state.left = (state.left + PER_CALL).min(MAX_LEFT));
    }

    /// Counts bytes that the peer has taken.
    pub(crate) fn earn_bytes(&self, bytes: usize) {
        self.change(|state| {
            state.bytes += bytes;
            let frames = (state.bytes / BYTES_PER_FRAME) as u64;
            state.bytes %= BYTES_PER_FRAME;
            state.left = (state.left + frames).min(MAX_LEFT);
        });
    }

    /// Whether the peer has sent more frames than it may.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.change(|state| state.exhausted)
    }

    /// A panic cannot leave the state half-changed, so a poisoned lock is used as it is.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts the frames in the bytes that a client sends.
#[derive(Debug)]
pub(crate) struct FrameCounter {
    /// Bytes of the preface or of a payload that are left.
    skip: usize,
    /// Bytes of a frame's header received so far.
    header: usize,
    /// The length that they state.
    length: usize,
}

impl FrameCounter {
    pub(crate) const fn new() -> Self {
        Self { skip: PREFACE_BYTES, header: 0, length: 0 }
    }

    /// The number of frames that begin in the next bytes.
    pub(crate) fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut frames = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let Some((&byte, rest)) = bytes.split_first() else { return frames };
            bytes = rest;
            if self.header < 3 {
                self.length = self.length << 8 | usize::from(byte);
            }
            self.header += 1;
            if self.header == HEADER_BYTES {
                frames += 1;
                *self = Self { skip: self.length, header: 0, length: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn frames_are_counted_wherever_reads_divide_them() {
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        for length in [0_u32, 8, 300, 70_000, 1] {
            bytes.extend(&length.to_be_bytes()[1..]);
            bytes.extend([6, 0, 0, 0, 0, 0]);
            bytes.extend(vec![9; length as usize]);
        }
        for size in [1, 2, 7, 100, bytes.len()] {
            let mut counter = FrameCounter::new();
            let frames: u64 = bytes.chunks(size).map(|chunk| counter.count(chunk)).sum();
            assert_eq!(frames, 5, "by {size}");
        }
    }

    #[test]
    fn a_connection_may_send_what_it_has_earned_and_a_burst() {
        let (budget, start) = (FrameBudget::new(), Instant::now());
        assert!(budget.spend_at(BURST, start));
        budget.earn_call();
        budget.earn_bytes(3 * BYTES_PER_FRAME - 1);
        budget.earn_bytes(1);
        assert!(budget.spend_at(PER_CALL + 3, start));
        assert!(budget.spend_at(100, start + Duration::from_secs(2)));
        assert!(!budget.is_exhausted());
        assert!(!budget.spend_at(1, start + Duration::from_secs(2)));
        assert!(budget.is_exhausted());
    }

    #[test]
    fn neither_time_nor_bytes_add_frames_without_end() {
        let (budget, start) = (FrameBudget::new(), Instant::now());
        assert!(budget.spend_at(0, start + Duration::from_hours(9)));
        assert_eq!(budget.change(|state| state.left), BURST);
        budget.earn_bytes(1 << 40);
        assert_eq!(budget.change(|state| state.left), MAX_LEFT);
        // Time does not take away what was earned.
        assert!(budget.spend_at(0, start + Duration::from_hours(10)));
        assert_eq!(budget.change(|state| state.left), MAX_LEFT);
    }
}
