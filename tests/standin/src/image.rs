//! The images that the stand-in's NVRTC returns and its driver loads.
//!
//! An image is a text for one of the engines, after a line that says what it stands for:
//!
//! ```text
//! // forebay-standin cubin sm_90            machine code for this architecture
//! // forebay-standin ptx 13.0 compute_80    PTX, of this version of CUDA
//! ```
//!
//! PTX of the real NVRTC has no such line, and says the same by its `.version` and `.target`.
//!
//! The rules, from the CUDA programming guide ("Binary Compatibility", "PTX Compatibility") and the compatibility guide: machine code
//! runs on GPUs of the same major version and the same or a later minor version; PTX runs on GPUs of its or a later version, if the
//! driver is not older than the compiler.

use std::fmt;

use crate::code::{Answer, Code};
use crate::report::log;

const CUBIN: &str = "// forebay-standin cubin ";
const PTX: &str = "// forebay-standin ptx ";

/// Two numbers: a version of CUDA, or a compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) i32, pub(crate) i32);

impl Version {
    /// Parses `13.0`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }

    /// Parses the digits of `sm_90` or `compute_90`.
    pub(crate) fn of_architecture(text: &str) -> Option<Self> {
        let digits = text.split_once('_')?.1.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: i32 = digits.parse().ok()?;
        Some(Self(number / 10, number % 10))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The image that stands for machine code.
pub(crate) fn cubin(architecture: &str, text: &str) -> String {
    format!("{CUBIN}{architecture}\n{text}")
}

/// The image that stands for PTX.
pub(crate) fn ptx(nvrtc: Version, architecture: &str, text: &str) -> String {
    format!("{PTX}{nvrtc} {architecture}\n{text}")
}

/// Returns the text for the engine, if a GPU of this capability and a driver of this version load the image.
pub(crate) fn check(image: &str, capability: Version, driver: Version) -> Answer<&str> {
    let (line, text) = image.split_once('\n').unwrap_or((image, ""));
    if let Some(architecture) = line.strip_prefix(CUBIN) {
        let of = Version::of_architecture(architecture).ok_or(Code::INVALID_IMAGE)?;
        if of.0 != capability.0 || of.1 > capability.1 {
            log(&format!("module: machine code for {architecture} does not run on {capability}"));
            return Err(Code::NO_BINARY_FOR_GPU);
        }
        return Ok(text);
    }
    let (version, architecture, text) = match line.strip_prefix(PTX) {
        Some(line) => {
            let (version, architecture) = line.split_once(' ').ok_or(Code::INVALID_PTX)?;
            (Version::parse(version), Some(architecture), text)
        }
        None => (version_of_ptx(image), word_after(image, ".target"), image),
    };
    if let Some(version) = version.filter(|version| *version > driver) {
        log(&format!("module: PTX of CUDA {version}, and the driver is of CUDA {driver}"));
        return Err(Code::UNSUPPORTED_PTX_VERSION);
    }
    let target = architecture.and_then(Version::of_architecture);
    if let Some(target) = target.filter(|target| *target > capability) {
        log(&format!("module: PTX for {target} does not run on {capability}"));
        return Err(Code::NO_BINARY_FOR_GPU);
    }
    Ok(text)
}

fn word_after<'a>(text: &'a str, directive: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(directive))?;
    line.trim().split([' ', ',']).next()
}

/// The version of CUDA that introduced the PTX version of a text (PTX ISA, "Release History").
fn version_of_ptx(text: &str) -> Option<Version> {
    let Version(major, minor) = Version::parse(word_after(text, ".version")?)?;
    Some(match (major, minor) {
        (8, 0..=5) => Version(12, minor),
        (8, _) => Version(12, minor + 1),
        (9.., _) => Version(major + 4, minor),
        _ => Version(11, 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: Version = Version(9, 0);
    const DRIVER: Version = Version(13, 0);

    #[test]
    fn machine_code_runs_on_its_architecture_and_later_minor_versions() {
        let load = |architecture, capability| {
            check(&cubin(architecture, "text"), capability, DRIVER).map(str::len)
        };
        assert_eq!(cubin("sm_90", "text"), "// forebay-standin cubin sm_90\ntext");
        assert_eq!(load("sm_90", HOPPER), Ok(4));
        assert_eq!(load("sm_80", Version(8, 9)), Ok(4));
        for (architecture, capability) in
            [("sm_89", Version(8, 0)), ("sm_80", HOPPER), ("sm_100", HOPPER)]
        {
            assert_eq!(load(architecture, capability).err(), Some(Code::NO_BINARY_FOR_GPU));
        }
    }

    #[test]
    fn ptx_runs_on_later_architectures_and_not_on_earlier_drivers() {
        let load =
            |nvrtc, driver| check(&ptx(nvrtc, "compute_80", "text"), HOPPER, driver).map(str::len);
        assert_eq!(load(DRIVER, DRIVER), Ok(4));
        assert_eq!(load(Version(13, 1), DRIVER), Err(Code::UNSUPPORTED_PTX_VERSION));
        assert_eq!(load(Version(12, 9), Version(12, 8)), Err(Code::UNSUPPORTED_PTX_VERSION));
        let newer = check("// forebay-standin ptx 12.9 compute_100\n", HOPPER, DRIVER);
        assert_eq!(newer, Err(Code::NO_BINARY_FOR_GPU));
    }

    #[test]
    fn real_ptx_says_its_version_and_target() {
        let text = |version| format!("//\n// NVIDIA\n.version {version}\n.target sm_80, debug\n");
        for (version, driver, loads) in [
            ("8.8", Version(12, 9), true),
            ("8.8", Version(12, 8), false),
            ("8.5", Version(12, 5), true),
            ("9.0", DRIVER, true),
            ("9.1", DRIVER, false),
        ] {
            assert_eq!(check(&text(version), HOPPER, driver).is_ok(), loads, "{version} {driver}");
        }
        assert!(check(&text("8.8"), Version(7, 5), DRIVER).is_err());
    }
}
