//! What the whole-system tests and golden suites share.

#[path = "../fuzz/bodies/mod.rs"]
pub mod fuzz;
pub mod proxy;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use forebay::mix::{self, Device, Mixer};

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

/// The GPU, or its stand-in, that tests use beside the CPU: `FOREBAY_TEST_DEVICE`, such as `cuda:0`.
///
/// # Panics
/// When it is no device: nobody should think that it was tested.
pub fn gpu() -> Option<Device> {
    let name = std::env::var_os("FOREBAY_TEST_DEVICE")?;
    let device = name.to_str().and_then(|name| name.parse().ok());
    Some(device.unwrap_or_else(|| panic!("FOREBAY_TEST_DEVICE is {}", name.display())))
}

/// The mixer of the tests' device: the GPU's where there is one, otherwise the CPU's.
///
/// # Panics
/// When the GPU cannot be opened.
pub fn mixer() -> Mixer {
    static MIXER: LazyLock<Mixer> = LazyLock::new(|| {
        let opened = mix::open(gpu().unwrap_or_default(), mix::DEVICE_BYTES);
        opened.unwrap_or_else(|error| panic!("{error}"))
    });
    MIXER.clone()
}

/// The CPU's mixer, and the GPU's where there is one.
pub fn mixers() -> Vec<Mixer> {
    std::iter::once(Mixer::Cpu).chain(gpu().map(|_| mixer())).collect()
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
