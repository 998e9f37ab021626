//! What is said about libraries: an error about those that are missing, and a table of all.

use std::fmt;

use super::library::{Library, MAJORS};
use super::places::{Place, VARIABLE, Variables, places};
use super::search::{Found, Loaded, Missing, find, loaded};

/// The libraries of CUDA, those that were found and those that are missing.
#[derive(Clone, Debug)]
pub struct LibraryTable {
    /// Each with whether the program needs it.
    rows: Vec<(Library, bool, Found)>,
    places: Vec<Place>,
}

impl LibraryTable {
    /// Looks for libraries. A program cannot do without those of `needed`.
    pub fn new(needed: &[Library], optional: &[Library]) -> Self {
        let both = [(needed, true), (optional, false)];
        let all =
            both.into_iter().flat_map(|(list, needed)| list.iter().map(move |it| (*it, needed)));
        let mut rows: Vec<_> =
            all.map(|(library, needed)| (library, needed, find(library))).collect();
        rows.sort_by_key(|(library, ..)| *library);
        Self { rows, places: places(&Variables::of_process()) }
    }

    /// Whether all libraries that the program needs were found.
    pub fn is_complete(&self) -> bool {
        self.rows.iter().all(|(_, needed, found)| found.is_ok() || !needed)
    }
}

impl fmt::Display for LibraryTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {:<12} {:<6} {:<22} path", "library", "version", "CUDA", "found by")?;
        for (library, needed, found) in &self.rows {
            let name = library.name();
            match found {
                Ok(loaded) => {
                    let version = loaded.version.as_ref();
                    let text = version.map_or("?", |version| version.text.as_str());
                    let cuda = version.and_then(|version| version.cuda);
                    let cuda = cuda.map_or_else(|| "-".to_owned(), |(major, _)| major.to_string());
                    let (origin, path) = (&loaded.origin, loaded.path.display());
                    writeln!(f, "{name:<12} {text:<12} {cuda:<6} {origin:<22} {path}")?;
                }
                Err(missing) => {
                    let need = if *needed { "" } else { ", only needed for several GPUs" };
                    writeln!(f, "{name:<12} missing{need}: {}", reason(missing))?;
                }
            }
        }
        let loaded: Vec<&Loaded> =
            self.rows.iter().filter_map(|(.., found)| found.as_ref().ok()).collect();
        for note in notes(&loaded) {
            writeln!(f, "note: {note}")?;
        }
        let missing: Vec<&Missing> =
            self.rows.iter().filter_map(|(.., found)| found.as_ref().err()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        writeln!(f, "looked in, in this order:")?;
        for place in &self.places {
            writeln!(f, "  {place}")?;
        }
        writeln!(f, "{}", advice(&missing))
    }
}

/// An error about missing libraries: their names, where they were looked for, and what to do.
pub(super) fn report(missing: &[Missing], places: &[Place]) -> String {
    let missing: Vec<&Missing> = missing.iter().collect();
    let line = |missing: &&Missing| format!("{}: {}", missing.library.name(), reason(missing));
    let lines: Vec<String> = missing.iter().map(line).collect();
    let places: Vec<String> = places.iter().map(ToString::to_string).collect();
    let (lines, places) = (lines.join("; "), places.join("; "));
    format!("{lines}; looked in {places}. {}", advice(&missing))
}

fn reason(missing: &Missing) -> String {
    missing.problem.clone().unwrap_or_else(|| {
        let names = missing.library.file_names(MAJORS[0]);
        format!("found no {}", names.join(" or "))
    })
}

/// What to do about missing libraries.
fn advice(missing: &[&Missing]) -> String {
    let mut parts = Vec::new();
    let driver = missing.iter().find(|missing| missing.library == Library::Driver);
    if let Some(driver) = driver {
        let remedy = match driver.problem {
            Some(_) => "install version 525 or newer",
            None => "install the driver, or give the container a GPU (--gpus all)",
        };
        parts.push(format!("libcuda is a part of the NVIDIA driver: {remedy}"));
    }
    let packages = |cuda| {
        let mut packages: Vec<&str> =
            missing.iter().filter_map(|missing| missing.library.package(cuda)).collect();
        packages.dedup();
        packages.join(" ")
    };
    let [newest, older] = MAJORS.map(packages);
    if !newest.is_empty() {
        let newest = format!("those of CUDA 13 with `pip install {newest}`");
        let older = format!("those of CUDA 12 with `pip install {older}`");
        let all = loaded();
        let driver = all.iter().find(|loaded| loaded.library == Library::Driver);
        let driver = driver.and_then(|driver| Some(driver.cuda()?.0));
        let install = match driver {
            Some(major) if major < MAJORS[0] => older,
            _ => format!("{newest} or {older}"),
        };
        parts.push(format!(
            "Install these libraries, {install}, or name the folders that have them in {VARIABLE} or LD_LIBRARY_PATH"
        ));
    }
    parts.join(". ")
}

/// What may surprise about the libraries that were found.
pub(super) fn notes(loaded: &[&Loaded]) -> Vec<String> {
    let mut notes: Vec<String> = loaded.iter().filter_map(|loaded| Some((loaded, loaded.instead_of.as_ref()?)))
        .map(|(loaded, other)| {
            format!(
                "{} is {}, because the loader finds it before {}: remove its folder from LD_LIBRARY_PATH to use the other",
                loaded.library.name(), loaded.path.display(), other.display()
            )
        })
        .collect();
    let toolkit = loaded.iter().filter(|loaded| loaded.library != Library::Driver);
    let majors: Vec<(&str, u32)> =
        toolkit.filter_map(|loaded| Some((loaded.library.name(), loaded.cuda()?.0))).collect();
    if majors.iter().any(|(_, major)| *major != majors[0].1) {
        let list: Vec<String> =
            majors.iter().map(|(name, major)| format!("{name} of CUDA {major}")).collect();
        notes.push(format!(
            "libraries of different versions of CUDA are mixed: {}",
            list.join(", ")
        ));
    }
    notes
}
