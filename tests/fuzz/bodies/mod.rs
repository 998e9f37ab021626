//! Properties that hold for any input, one function per fuzz target. Each takes bytes and panics if its property
//! is violated.
//!
//! Two drivers run them: `tests/fuzz/suite.rs` on seeds and random mutations in each `cargo test`, and
//! `tests/fuzz/targets/` under libFuzzer.

mod frames;
mod index;
mod layouts;
mod parquet;
mod picture;
mod recipe;
mod region;
pub mod seeds;
mod tar;
pub mod writers;

pub use frames::frames;
pub use index::index;
pub use layouts::layouts;
pub use parquet::parquet;
pub use picture::picture;
pub use recipe::recipe;
pub use region::region;
pub use tar::tar;

use forebay::Rect;

/// A parser that takes numbers from the front of the input, and zeros after its end. The rest is the file.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Takes at most `count` bytes.
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

    /// Takes a box. The largest u16 stands for a value beyond any image.
    fn rect(&mut self) -> Rect {
        let mut side = || match self.u16() {
            u16::MAX => u32::MAX,
            side => side.into(),
        };
        Rect { top: side(), left: side(), height: side(), width: side() }
    }
}
