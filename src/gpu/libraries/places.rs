//! Where libraries of CUDA are looked for.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the operator says that the libraries are.
pub(super) const VARIABLE: &str = "FOREBAY_CUDA_LIBS";

/// The folder of NVIDIA's own installer.
const TOOLKIT: &str = "/usr/local/cuda/lib64";

/// The variables that decide where libraries are looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    pub(super) cuda_libs: Option<OsString>,
    pub(super) ld_library_path: Option<OsString>,
    pub(super) virtual_env: Option<OsString>,
    pub(super) conda_prefix: Option<OsString>,
    pub(super) path: Option<OsString>,
    pub(super) home: Option<OsString>,
}

impl Variables {
    pub(super) fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            cuda_libs: variable(VARIABLE),
            ld_library_path: variable("LD_LIBRARY_PATH"),
            virtual_env: variable("VIRTUAL_ENV"),
            conda_prefix: variable("CONDA_PREFIX"),
            path: variable("PATH"),
            home: variable("HOME"),
        }
    }
}

/// One of the places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The folders of `FOREBAY_CUDA_LIBS`. `None` if it is not set.
    Variable(Option<Vec<PathBuf>>),
    /// Where the loader looks for names.
    Loader { library_path: Option<OsString> },
    /// A Python environment: its folder, how it was found, and the folders of NVIDIA's packages.
    Python { prefix: PathBuf, of: &'static str, folders: Vec<PathBuf> },
    /// The folder of NVIDIA's installer.
    Toolkit(Option<PathBuf>),
}

impl Place {
    /// The folders that may have the files. The loader has its own.
    pub(super) fn folders(&self) -> &[PathBuf] {
        match self {
            Self::Variable(folders) => folders.as_deref().unwrap_or_default(),
            Self::Loader { .. } => &[],
            Self::Python { folders, .. } => folders,
            Self::Toolkit(folder) => folder.as_slice(),
        }
    }

    /// The place in one or two words, for a table.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Variable(_) => VARIABLE.to_owned(),
            Self::Loader { .. } => "loader".to_owned(),
            Self::Python { of, .. } => format!("Python ({of})"),
            Self::Toolkit(_) => "toolkit".to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(None) => write!(f, "{VARIABLE}, which is not set"),
            Self::Variable(Some(folders)) if folders.is_empty() => {
                write!(f, "{VARIABLE}, which names no folder that exists")
            }
            Self::Variable(Some(folders)) => write!(f, "{VARIABLE} ({})", listed(folders)),
            Self::Loader { library_path: None } => {
                write!(f, "the loader's folders (LD_LIBRARY_PATH is not set)")
            }
            Self::Loader { library_path: Some(path) } => {
                write!(f, "the loader's folders (LD_LIBRARY_PATH is {})", path.display())
            }
            Self::Python { prefix, of, folders } if folders.is_empty() => {
                let prefix = prefix.display();
                write!(f, "the Python environment {prefix} ({of}), which has no packages of NVIDIA")
            }
            Self::Python { prefix, of, folders } => {
                let names: Vec<_> = folders.iter().map(|folder| package(folder)).collect();
                let (prefix, names) = (prefix.display(), names.join(", "));
                write!(f, "the Python environment {prefix} ({of}, with packages {names})")
            }
            Self::Toolkit(None) => write!(f, "{TOOLKIT}, which does not exist"),
            Self::Toolkit(Some(folder)) => write!(f, "{}", folder.display()),
        }
    }
}

fn listed(folders: &[PathBuf]) -> String {
    let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    folders.join(", ")
}

/// The name of the package whose folder `lib` this is.
fn package(lib: &Path) -> String {
    lib.parent().map(name_of).unwrap_or_default()
}

/// All places, in the order in which they are tried.
pub(super) fn places(variables: &Variables) -> Vec<Place> {
    let named = variables
        .cuda_libs
        .as_ref()
        .map(|list| folders_in(list).flat_map(|folder| folders_of(&folder)).collect());
    let loader = Place::Loader { library_path: variables.ld_library_path.clone() };
    let mut places = vec![Place::Variable(named), loader];
    let mut python = |prefix: PathBuf, of, own: &[PathBuf]| {
        let known =
            |place: &Place| matches!(place, Place::Python { prefix: it, .. } if *it == prefix);
        if !places.iter().any(known) {
            let folders = own.iter().cloned().chain(packages_of(&prefix)).collect();
            places.push(Place::Python { prefix, of, folders });
        }
    };
    if let Some(prefix) = &variables.virtual_env {
        python(PathBuf::from(prefix), "VIRTUAL_ENV", &[]);
    }
    if let Some(prefix) = &variables.conda_prefix {
        // Conda's own packages put libraries there.
        let prefix = PathBuf::from(prefix);
        let own = [prefix.join("lib")];
        python(prefix, "CONDA_PREFIX", &own);
    }
    if let Some(prefix) = variables.path.as_ref().and_then(prefix_of_python) {
        let system = prefix == Path::new("/usr");
        python(prefix, "python3", &[]);
        if system {
            // Where pip installs without an environment.
            python(PathBuf::from("/usr/local"), "python3", &[]);
            if let Some(home) = &variables.home {
                python(Path::new(home).join(".local"), "pip --user", &[]);
            }
        }
    }
    let toolkit = PathBuf::from(TOOLKIT);
    places.push(Place::Toolkit(toolkit.is_dir().then_some(toolkit)));
    places
}

/// The folders of a list with colons between them. An empty part, as a colon at the end leaves it, is not the current folder.
fn folders_in(list: &OsStr) -> impl Iterator<Item = PathBuf> + '_ {
    std::env::split_paths(list).filter(|folder| !folder.as_os_str().is_empty())
}

/// The folders that a folder of `FOREBAY_CUDA_LIBS` stands for: itself, or those of NVIDIA's packages in it.
fn folders_of(folder: &Path) -> Vec<PathBuf> {
    let own = if folder.is_dir() { vec![folder.to_owned()] } else { Vec::new() };
    own.into_iter()
        .chain(packages_in(folder))
        .chain(packages_of(folder))
        .filter(|folder| !is_stubs(folder))
        .collect()
}

/// The folders of NVIDIA's packages in a Python environment.
fn packages_of(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for lib in ["lib", "lib64"] {
        let pythons = entries(&prefix.join(lib));
        let is_python = |folder: &PathBuf| name_of(folder).starts_with("python3");
        for python in pythons.into_iter().filter(is_python) {
            for packages in ["site-packages", "dist-packages"] {
                found.extend(packages_in(&python.join(packages)));
            }
        }
    }
    // In many environments lib64 is a link to lib.
    let mut seen = Vec::new();
    found.retain(|folder| {
        let real = folder.canonicalize().unwrap_or_else(|_gone| folder.clone());
        let new = !seen.contains(&real);
        seen.push(real);
        new
    });
    found
}

/// The folders of NVIDIA's packages in site-packages: `nvidia/*/lib`. CUDA 13's own folder is the first.
fn packages_in(site_packages: &Path) -> Vec<PathBuf> {
    let mut packages = entries(&site_packages.join("nvidia"));
    packages.sort_by_key(|package| !name_of(package).starts_with("cu1"));
    packages.into_iter().map(|package| package.join("lib")).filter(|lib| lib.is_dir()).collect()
}

/// The entries of a folder, sorted by name. None if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The prefix of the first `python3` on `PATH`. The link is not followed, because in an environment it leads out of it.
fn prefix_of_python(path: &OsString) -> Option<PathBuf> {
    let bin = folders_in(path).find(|folder| folder.join("python3").is_file())?;
    // /bin is a link to /usr/bin.
    let bin = if bin == Path::new("/bin") { PathBuf::from("/usr/bin") } else { bin };
    bin.parent().map(Path::to_owned)
}

/// Whether a path leads through the toolkit's `stubs`, whose libraries are for linking only and always fail.
pub(super) fn is_stubs(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "stubs")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with empty files.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        root
    }

    fn relative(root: &Path, folders: &[PathBuf]) -> Vec<String> {
        let part = |folder: &PathBuf| folder.strip_prefix(root).unwrap().display().to_string();
        folders.iter().map(part).collect()
    }

    const PACKAGES: &str = "lib/python3.12/site-packages/nvidia";

    #[test]
    fn the_variable_names_folders_environments_and_site_packages() {
        let files = ["plain/libnvrtc.so.13", "stubs/libcuda.so"].map(str::to_owned);
        let packages = ["cublas", "cu13"].map(|name| format!("env/{PACKAGES}/{name}/lib/lib.so"));
        let files: Vec<&str> = files.iter().chain(&packages).map(String::as_str).collect();
        let root = tree(&files);
        let list = ["plain", "env", "env/lib/python3.12/site-packages", "stubs", "absent"];
        let list = std::env::join_paths(list.map(|name| root.path().join(name))).unwrap();
        let places = places(&Variables { cuda_libs: Some(list), ..Variables::default() });
        let cu13 = format!("env/{PACKAGES}/cu13/lib");
        let cublas = format!("env/{PACKAGES}/cublas/lib");
        let site = "env/lib/python3.12/site-packages";
        let expected = ["plain", "env", &cu13, &cublas, site, &cu13, &cublas];
        assert_eq!(relative(root.path(), places[0].folders()), expected);
        assert!(matches!(places[1], Place::Loader { .. }));
    }

    #[test]
    fn an_empty_part_of_a_list_is_not_the_current_folder() {
        let folders = |list: &str| folders_in(OsStr::new(list)).collect::<Vec<_>>();
        assert_eq!(folders(":/a::b:"), [Path::new("/a"), Path::new("b")]);
        assert!(folders(":").is_empty());
    }

    #[test]
    fn environments_are_tried_in_the_order_of_their_variables() {
        let root = tree(&[
            &format!("venv/{PACKAGES}/cu13/lib/libnvrtc.so.13"),
            "conda/lib/libnvrtc.so.12",
            "other/bin/python3",
        ]);
        let at = |name: &str| Some(root.path().join(name).into_os_string());
        let variables = Variables {
            virtual_env: at("venv"),
            conda_prefix: at("conda"),
            path: at("other/bin"),
            ..Variables::default()
        };
        let found = places(&variables);
        let python = found[2..5].iter().map(|place| relative(root.path(), place.folders()));
        let expected =
            [vec![format!("venv/{PACKAGES}/cu13/lib")], vec!["conda/lib".to_owned()], vec![]];
        assert_eq!(python.collect::<Vec<_>>(), expected);
        assert!(found[4].to_string().contains("other (python3), which has no packages of NVIDIA"));
        // The same environment twice is one place.
        let variables =
            Variables { path: at("venv/bin"), virtual_env: at("venv"), ..Variables::default() };
        std::fs::create_dir(root.path().join("venv/bin")).unwrap();
        std::fs::write(root.path().join("venv/bin/python3"), "").unwrap();
        assert_eq!(places(&variables).len(), 4);
    }

    #[test]
    fn each_place_says_where_it_is() {
        let unset = places(&Variables::default());
        assert_eq!(unset[0].to_string(), "FOREBAY_CUDA_LIBS, which is not set");
        assert_eq!(unset[1].to_string(), "the loader's folders (LD_LIBRARY_PATH is not set)");
        let set = Variables { cuda_libs: Some("/absent".into()), ..Variables::default() };
        assert_eq!(
            places(&set)[0].to_string(),
            "FOREBAY_CUDA_LIBS, which names no folder that exists"
        );
    }
}
