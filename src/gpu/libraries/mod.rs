//! Finds the libraries of CUDA and loads them, wherever they are installed.
//!
//! ```text
//! FOREBAY_CUDA_LIBS      folders, Python environments or site-packages that the operator names
//! the loader             LD_LIBRARY_PATH and the system's folders
//! Python environments    VIRTUAL_ENV, CONDA_PREFIX, and that of the first python3 on PATH: nvidia/*/lib of site-packages
//! /usr/local/cuda/lib64
//! ```
//!
//! cudarc asks the loader for names. The loader matches a name with the sonames of the libraries that are loaded already, so
//! a library that is opened here by its full path is the one that cudarc gets. If the loader finds a name that cudarc
//! asks for earlier, then cudarc uses that file, whatever was opened here; so this module asks for the same names in the same
//! order, and reports the file that is used.
//!
//! The libraries of one major version of CUDA are preferred: the newest that the driver supports. The minor versions need
//! not match. Libraries that are found in a folder also find those that they need themselves: cuBLAS those of its
//! folder, and cuDNN the cuBLAS and the NVRTC of its own version of CUDA.

mod library;
mod load;
mod loader;
mod places;
mod search;
mod table;

pub use library::Library;
pub use load::{describe, load, require};
pub use search::Loaded;
pub use table::LibraryTable;
