//! Support for the whole-system tests and the golden suites.

#[path = "../fuzz/bodies/mod.rs"]
pub mod fuzz;
pub mod process;
pub mod proxy;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use forebay::mix::{self, Device, Mixer};

/// A time that only a hang exceeds, however busy the machine is. No test fails because of a shorter time.
pub const HANG: Duration = Duration::from_mins(5);

/// The folder of golden data: `FOREBAY_GOLDENS`, or the repository's own small set.
pub fn goldens() -> PathBuf {
    std::env::var_os("FOREBAY_GOLDENS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens"), PathBuf::from)
}

/// A program that Cargo built for a test, as its `CARGO_BIN_EXE_` variable names it; or the program of the same name in the
/// folder `FOREBAY_BIN_DIR`, for test executables that were moved to another machine.
pub fn program(built: &str) -> PathBuf {
    let built = Path::new(built);
    let moved = std::env::var_os("FOREBAY_BIN_DIR").map(PathBuf::from);
    moved
        .zip(built.file_name())
        .map_or_else(|| built.to_owned(), |(folder, name)| folder.join(name))
}

/// The folder of real images, `FOREBAY_DATA`. Tests that need it are not listed if it is not set.
pub fn data() -> Option<PathBuf> {
    std::env::var_os("FOREBAY_DATA").map(PathBuf::from)
}

/// The GPU or its stand-in that tests use in addition to the CPU: `FOREBAY_TEST_DEVICE`, such as `cuda:0`.
///
/// # Panics
/// If it does not name a device, because the tests would then silently run without it.
pub fn gpu() -> Option<Device> {
    let name = std::env::var_os("FOREBAY_TEST_DEVICE")?;
    let device = name.to_str().and_then(|name| name.parse().ok());
    Some(device.unwrap_or_else(|| {
        panic!("invalid FOREBAY_TEST_DEVICE {:?}: expected cuda:N", name.display())
    }))
}

/// The mixer of the tests' device: the GPU if `FOREBAY_TEST_DEVICE` names one, otherwise the CPU.
///
/// # Panics
/// If the GPU cannot be opened.
pub fn mixer() -> Mixer {
    static MIXER: LazyLock<Mixer> = LazyLock::new(|| {
        let opened = Mixer::open(gpu().unwrap_or_default(), mix::DEVICE_BYTES);
        opened.unwrap_or_else(|error| panic!("{error}"))
    });
    MIXER.clone()
}

/// The CPU's mixer, and the GPU's if `FOREBAY_TEST_DEVICE` names one.
pub fn mixers() -> Vec<Mixer> {
    std::iter::once(Mixer::Cpu).chain(gpu().map(|_| mixer())).collect()
}

/// Reads a JSON file.
///
/// # Panics
/// If the file is missing or malformed, with its path.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a PNG as 8-bit RGB. Returns width, height and pixels.
///
/// # Panics
/// If the file is missing or malformed, with its path.
pub fn png(path: &Path) -> (u32, u32, Vec<u8>) {
    let image = image::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into_rgb8();
    (image.width(), image.height(), image.into_raw())
}

/// The SHA-256 of some bytes in hexadecimal digits, as Python's `hexdigest` has it.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Waits until a condition holds; `what` describes it.
///
/// # Panics
/// If it does not hold within [`HANG`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < HANG, "not within {HANG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
