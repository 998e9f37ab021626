//! What must hold for any bytes at all, one plain function a target. A body takes bytes, and panics
//! where forebay does not keep its word.
//!
//! Two drivers share them: `tests/fuzz/suite/main.rs` runs them on seeds and random changes of
//! seeds in each `cargo test`, and `tests/fuzz/targets/` runs them under libFuzzer.

mod frames;
mod index;
mod picture;
mod recipe;
mod region;
pub mod seeds;
mod tar;

pub use frames::frames;
pub use index::index;
pub use picture::picture;
pub use recipe::recipe;
pub use region::region;
pub use tar::tar;

use forebay::Rect;

/// Numbers off the front of the bytes, zeros where they run out. What is left is the file.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// At most `count` bytes.
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// Any box, of sides that occur. The largest numbers stand for those beyond any image.
    fn rect(&mut self) -> Rect {
        let mut side = || match self.u16() {
            u16::MAX => u32::MAX,
            side => side.into(),
        };
        Rect { top: side(), left: side(), height: side(), width: side() }
    }
}
