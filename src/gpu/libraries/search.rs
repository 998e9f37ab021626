//! The search for a library, and the checks of what was found.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::library::{Library, MAJORS, Version};
use super::loader::{self, Handle, Refusal};
use super::places::{Place, Variables, is_stubs, places};

/// A library that is loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub(super) library: Library,
    handle: Handle,
    pub(super) path: PathBuf,
    /// The place where it was found.
    pub(super) origin: String,
    pub(super) version: Option<Version>,
    /// The file that was found first, where the loader took another one.
    pub(super) instead_of: Option<PathBuf>,
}

/// Why a library cannot be used.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    pub(super) library: Library,
    /// `None` if no file was found.
    pub(super) problem: Option<String>,
}

pub(super) type Found = Result<Loaded, Missing>;

/// What was found in this process. A search is made once, because libraries are never closed.
static FOUND: Mutex<BTreeMap<Library, Found>> = Mutex::new(BTreeMap::new());

/// The libraries that were loaded so far.
pub(super) fn loaded() -> Vec<Loaded> {
    let found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.values().filter_map(|found| found.clone().ok()).collect()
}

/// Looks for a library, and loads it.
pub(super) fn find(library: Library) -> Found {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let variables = Variables::of_process();
    Search { places: places(&variables), found: &mut found }.find(library)
}

struct Search<'a> {
    places: Vec<Place>,
    found: &'a mut BTreeMap<Library, Found>,
}

impl Search<'_> {
    fn find(&mut self, library: Library) -> Found {
        if let Some(found) = self.found.get(&library) {
            return found.clone();
        }
        let needed: &[Library] = match library {
            Library::Driver => &[],
            Library::Nvrtc | Library::CublasLt | Library::Nccl => &[Library::Driver],
            Library::Cublas => &[Library::Nvrtc, Library::CublasLt],
            Library::Cudnn => &[Library::Nvrtc, Library::Cublas],
        };
        for needed in needed {
            // A missing one is an error where it is required.
            self.find(*needed).ok();
        }
        let found = self.open(library).and_then(|loaded| self.checked(loaded));
        if let Ok(loaded) = &found {
            self.open_companions(loaded);
        }
        self.found.insert(library, found.clone());
        found
    }

    fn cuda_of(&self, library: Library) -> Option<(u32, u32)> {
        self.found.get(&library)?.as_ref().ok()?.version.as_ref()?.cuda
    }

    /// The major version to prefer: that of NVRTC, or else the newest that the driver supports.
    fn preferred(&self) -> u32 {
        let nvrtc = self.cuda_of(Library::Nvrtc).map(|(major, _)| major);
        let driver = self.cuda_of(Library::Driver).map(|(major, _)| major);
        let supported = driver.map(|driver| driver.clamp(MAJORS[1], MAJORS[0]));
        nvrtc.or(supported).unwrap_or(MAJORS[0])
    }

    /// Opens the first file that there is.
    fn open(&self, library: Library) -> Found {
        let first = self.preferred();
        let mut problem = None;
        let mut opened = None;
        for place in &self.places {
            let found = match place {
                Place::Loader { .. } => ask_loader(library, first).map(Some),
                // The driver is never in a package or a toolkit: what they have is a stub.
                Place::Python { .. } | Place::Toolkit(_) if library == Library::Driver => Ok(None),
                place => open_in(place.folders(), library, first),
            };
            match found {
                Ok(Some(handle)) => {
                    opened = Some((handle, place.origin()));
                    break;
                }
                Ok(None) | Err(Refusal::Absent) => {}
                Err(Refusal::Broken(reason)) => problem = problem.or(Some(reason)),
            }
        }
        let Some((handle, origin)) = opened else { return Err(Missing { library, problem }) };
        let path = handle.path().unwrap_or_default();
        // What cudarc will use.
        let used = ask_loader(library, first).map_or(handle, |used| match library {
            Library::Nccl | Library::CublasLt => handle,
            _ => used,
        });
        let (origin, path, instead_of) = if used == handle {
            (origin, path, None)
        } else {
            ("loader".to_owned(), used.path().unwrap_or_default(), Some(path))
        };
        let version = library.version(used);
        Ok(Loaded { library, handle: used, path, origin, version, instead_of })
    }

    /// Checks that the versions of a library and of the driver fit together.
    fn checked(&self, loaded: Loaded) -> Found {
        let library = loaded.library;
        let path = loaded.path.display();
        let problem = |problem| Err(Missing { library, problem: Some(problem) });
        if library == Library::Driver && is_stubs(&loaded.path) {
            return problem(format!(
                "{path} is a stub for linking: remove its folder from LD_LIBRARY_PATH"
            ));
        }
        let Some(version) = &loaded.version else { return Ok(loaded) };
        if version.major < library.oldest() {
            let (text, oldest) = (&version.text, library.oldest());
            return problem(format!("{path} is version {text}, and {oldest} or newer is needed"));
        }
        let (cuda, driver) = (version.cuda, self.cuda_of(Library::Driver));
        if let (Some((cuda, _)), Some((driver, minor))) = (cuda, driver)
            && library != Library::Driver
            && cuda > driver
        {
            return problem(format!(
                "{path} is of CUDA {cuda}, and the driver supports CUDA {driver}.{minor}: install a newer driver, or \
                 the library of CUDA {driver}"
            ));
        }
        Ok(loaded)
    }

    /// Opens what cuDNN looks for by name when it is of another major version of CUDA than NVRTC and cuBLAS.
    fn open_companions(&self, loaded: &Loaded) {
        let cuda = loaded.version.as_ref().and_then(|version| version.cuda);
        let Some((cuda, _)) = cuda.filter(|_| loaded.library == Library::Cudnn) else { return };
        for library in [Library::Nvrtc, Library::CublasLt, Library::Cublas] {
            if self.cuda_of(library).is_some_and(|(major, _)| major != cuda) {
                let name = format!("{}.so.{cuda}", library.name());
                let files = self.places.iter().flat_map(Place::folders).map(|it| it.join(&name));
                if let Some(file) = files.into_iter().find(|file| file.is_file()) {
                    // If this fails, cuDNN says what it lacks when it needs it.
                    drop(loader::open(file.as_os_str()));
                }
            }
        }
    }
}

/// Opens the first name that the loader finds.
fn ask_loader(library: Library, first: u32) -> Result<Handle, Refusal> {
    let mut refusal = Refusal::Absent;
    for name in library.loader_names(first) {
        match loader::open(name.as_ref()) {
            Ok(handle) => return Ok(handle),
            Err(broken @ Refusal::Broken(_)) => refusal = broken,
            Err(Refusal::Absent) => {}
        }
    }
    Err(refusal)
}

/// Opens the first file of a library in these folders. The major version counts more than the order of the folders.
fn open_in(folders: &[PathBuf], library: Library, first: u32) -> Result<Option<Handle>, Refusal> {
    let mut refusal = None;
    for name in library.file_names(first) {
        let files = folders.iter().map(|folder| folder.join(&name));
        for file in files.filter(|file| file.is_file()) {
            match loader::open(file.as_os_str()) {
                Ok(handle) => return Ok(Some(handle)),
                Err(broken) => refusal = Some(broken),
            }
        }
    }
    refusal.map_or(Ok(None), Err)
}

impl Loaded {
    /// The file of the library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The version of CUDA that it belongs to, major and minor, if the library says it.
    pub fn cuda(&self) -> Option<(u32, u32)> {
        self.version.as_ref()?.cuda
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the type of the function with this name.
    #[expect(unsafe_code, reason = "the type of a C function is known to the caller only")]
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        // SAFETY: the caller guarantees the type.
        unsafe { self.handle.function(name) }
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_ref().map_or("of unknown version", |it| it.text.as_str());
        write!(f, "{} {version}", self.library.name())
    }
}
