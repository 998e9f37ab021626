//! The libraries, the names of their files, and how each says its version.

#![expect(unsafe_code, reason = "calls of CUDA's libraries")]

use std::ffi::{CStr, c_int};

use super::loader::Handle;

/// A library of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Library {
    /// libcuda, which is a part of the driver.
    Driver,
    /// libnvrtc, the compiler of kernels.
    Nvrtc,
    /// libcublasLt, which libcublas and libcudnn need.
    CublasLt,
    /// libcublas.
    Cublas,
    /// libcudnn.
    Cudnn,
    /// libnccl.
    Nccl,
}

/// The newest and the oldest major version of CUDA that forebay runs with.
pub(super) const MAJORS: [u32; 2] = [13, 12];

/// The version of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) text: String,
    /// The major version of the library itself.
    pub(super) major: u32,
    /// The version of CUDA that it belongs to, major and minor. `None` if the library does not say.
    pub(super) cuda: Option<(u32, u32)>,
}

impl Library {
    /// All of them, each after those that it needs.
    pub const ALL: [Self; 6] =
        [Self::Driver, Self::Nvrtc, Self::CublasLt, Self::Cublas, Self::Cudnn, Self::Nccl];

    /// The name of the library, such as `libcuda`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Driver => "libcuda",
            Self::Nvrtc => "libnvrtc",
            Self::CublasLt => "libcublasLt",
            Self::Cublas => "libcublas",
            Self::Cudnn => "libcudnn",
            Self::Nccl => "libnccl",
        }
    }

    /// The package of pip that has it, for a major version of CUDA.
    pub(super) const fn package(self, cuda: u32) -> Option<&'static str> {
        match (self, cuda) {
            (Self::Driver, _) => None,
            (Self::Nvrtc, 12) => Some("nvidia-cuda-nvrtc-cu12"),
            (Self::Nvrtc, _) => Some("nvidia-cuda-nvrtc"),
            (Self::CublasLt | Self::Cublas, 12) => Some("nvidia-cublas-cu12"),
            (Self::CublasLt | Self::Cublas, _) => Some("nvidia-cublas"),
            (Self::Cudnn, 12) => Some("nvidia-cudnn-cu12"),
            (Self::Cudnn, _) => Some("nvidia-cudnn-cu13"),
            (Self::Nccl, 12) => Some("nvidia-nccl-cu12"),
            (Self::Nccl, _) => Some("nvidia-nccl-cu13"),
        }
    }

    /// The names of its file. Those of the major version `first` come first.
    pub(super) fn file_names(self, first: u32) -> Vec<String> {
        let name = self.name();
        match self {
            Self::Driver => vec![format!("{name}.so.1"), format!("{name}.so")],
            Self::Cudnn => vec![format!("{name}.so.9"), format!("{name}.so")],
            Self::Nccl => vec![format!("{name}.so.2"), format!("{name}.so")],
            Self::Nvrtc | Self::CublasLt | Self::Cublas => {
                let others = MAJORS.into_iter().filter(|major| *major != first);
                let majors = [first].into_iter().chain(others);
                let names = majors.map(|major| format!("{name}.so.{major}"));
                names.chain([format!("{name}.so")]).collect()
            }
        }
    }

    /// The names that are asked of the loader, in order. Those of the libraries that are called through cudarc are
    /// cudarc's, because it takes the first that the loader finds, and this must be the same one.
    pub(super) fn loader_names(self, first: u32) -> Vec<String> {
        match self {
            Self::Nccl | Self::CublasLt => self.file_names(first),
            _ => cudarc::get_lib_name_candidates(self.name().trim_start_matches("lib")),
        }
    }

    /// The oldest major version that works.
    pub(super) const fn oldest(self) -> u32 {
        match self {
            Self::Driver | Self::Nvrtc | Self::CublasLt | Self::Cublas => MAJORS[1],
            Self::Cudnn => 9,
            Self::Nccl => 2,
        }
    }

    /// Asks an open library for its version. `None` if it lacks the function or the function fails.
    pub(super) fn version(self, handle: Handle) -> Option<Version> {
        match self {
            Self::Driver => {
                let [major, minor] = of_thousands(by_pointer(handle, c"cuDriverGetVersion")?);
                Some(Version::of_cuda(format!("{major}.{minor}"), major, minor))
            }
            Self::Nvrtc => {
                let [major, minor] = nvrtc(handle)?;
                Some(Version::of_cuda(format!("{major}.{minor}"), major, minor))
            }
            Self::Cublas => cublas(handle, c"cublasGetProperty"),
            Self::CublasLt => cublas(handle, c"cublasLtGetProperty"),
            Self::Cudnn => {
                let [major, minor, patch] = of_ten_thousands(by_value(handle, c"cudnnGetVersion")?);
                let cuda = by_value(handle, c"cudnnGetCudartVersion").map(of_thousands);
                let cuda = cuda.map(|[major, minor]| (major, minor));
                Some(Version { text: format!("{major}.{minor}.{patch}"), major, cuda })
            }
            Self::Nccl => {
                let [major, minor, patch] =
                    of_ten_thousands(by_pointer(handle, c"ncclGetVersion")?);
                Some(Version { text: format!("{major}.{minor}.{patch}"), major, cuda: None })
            }
        }
    }
}

impl Version {
    const fn of_cuda(text: String, major: u32, minor: u32) -> Self {
        Self { text, major, cuda: Some((major, minor)) }
    }
}

/// CUDA 12.8 is 12080.
const fn of_thousands(number: u32) -> [u32; 2] {
    [number / 1000, number % 1000 / 10]
}

/// cuDNN 9.10.2 is 91002, and NCCL 2.28.3 is 22803.
const fn of_ten_thousands(number: u32) -> [u32; 3] {
    [number / 10_000, number % 10_000 / 100, number % 100]
}

fn by_pointer(handle: Handle, name: &CStr) -> Option<u32> {
    // SAFETY: the functions of this kind take a pointer to an int and return a status.
    let function: unsafe extern "C" fn(*mut c_int) -> c_int = unsafe { handle.function(name) }?;
    let mut number = 0;
    // SAFETY: the pointer is valid.
    let status = unsafe { function(&raw mut number) };
    u32::try_from(number).ok().filter(|_| status == 0)
}

fn by_value(handle: Handle, name: &CStr) -> Option<u32> {
    // SAFETY: the functions of this kind take nothing and return a number.
    let function: unsafe extern "C" fn() -> usize = unsafe { handle.function(name) }?;
    // SAFETY: no preconditions.
    u32::try_from(unsafe { function() }).ok()
}

fn nvrtc(handle: Handle) -> Option<[u32; 2]> {
    type Function = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
    // SAFETY: the type of this function in nvrtc.h.
    let function: Function = unsafe { handle.function(c"nvrtcVersion") }?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both pointers are valid.
    let status = unsafe { function(&raw mut major, &raw mut minor) };
    let both = [u32::try_from(major).ok()?, u32::try_from(minor).ok()?];
    (status == 0).then_some(both)
}

/// Major, minor and patch version are the properties 0, 1 and 2.
fn cublas(handle: Handle, name: &CStr) -> Option<Version> {
    type Function = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
    // SAFETY: the type of this function in cublas_api.h and cublasLt.h.
    let function: Function = unsafe { handle.function(name) }?;
    let property = |which| {
        let mut number = 0;
        // SAFETY: the pointer is valid.
        let status = unsafe { function(which, &raw mut number) };
        u32::try_from(number).ok().filter(|_| status == 0)
    };
    let [major, minor, patch] = [property(0)?, property(1)?, property(2)?];
    Some(Version { cuda: Some((major, 0)), text: format!("{major}.{minor}.{patch}"), major })
}
