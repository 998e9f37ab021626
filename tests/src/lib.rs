//! What the whole-system tests and golden suites share.

#[path = "../fuzz/bodies/mod.rs"]
pub mod fuzz;

use std::path::{Path, PathBuf};

/// The folder of golden data: `FOREBAY_GOLDENS`, or the repository's own small set.
pub fn goldens() -> PathBuf {
    std::env::var_os("FOREBAY_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens"), PathBuf::from)
}

/// The folder of real inputs, `FOREBAY_DATA`: where it is not set, tests that need it are not
/// selected.
pub fn data() -> Option<PathBuf> {
    std::env::var_os("FOREBAY_DATA").map(PathBuf::from)
}

/// Reads a JSON file.
///
/// # Panics
/// When the file is missing or malformed, with its path.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a PNG as RGB, 8 bits a channel: width, height, pixels.
///
/// # Panics
/// When the file is missing or malformed, with its path.
pub fn png(path: &Path) -> (u32, u32, Vec<u8>) {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into_rgb8();
    (image.width(), image.height(), image.into_raw())
}
