//! The names that each file uses of each other file, read from the source.
//!
//! A file uses another if it names something that the other defines. `mod child;` by itself is no use, and
//! neither is a re-export (`pub use child::Item;`): a facade depends on nothing, and who imports through it
//! depends on the file behind it. Code under `#[cfg(test)]` does not count.

mod lex;
mod module;
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use names::Target;

/// The uses between the files of one crate: `(user, used)` and the names that `user` takes from `used`.
pub(crate) type Uses = BTreeMap<(PathBuf, PathBuf), Vec<String>>;

/// The root files of all crates of a workspace: libraries, programs, tests, benches.
pub(crate) fn crates(workspace: &Path) -> Vec<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(workspace)
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the JSON of cargo metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let targets =
        packages.iter().flat_map(|package| package["targets"].as_array().expect("targets"));
    targets.map(|target| target["src_path"].as_str().expect("a path").into()).collect()
}

/// The uses between the files of the crate with this root file.
pub(crate) fn uses(root: &Path) -> Uses {
    let modules = module::of_crate(root);
    let mut uses = Uses::new();
    for (id, module) in modules.iter().enumerate() {
        let imports = module.imports.iter().filter_map(|import| {
            let used_here = !import.public || module.words.contains(&import.name);
            used_here.then_some(&import.path)
        });
        for path in imports.chain(&module.paths) {
            if let Some(Target::ItemOf(definition)) = names::resolve(&modules, id, path)
                && modules[definition].file != module.file
            {
                let files = (module.file.clone(), modules[definition].file.clone());
                uses.entry(files).or_default().push(path.join("::"));
            }
        }
    }
    uses
}
