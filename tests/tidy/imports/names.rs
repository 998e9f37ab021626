//! From names to the files that define them.

use std::collections::BTreeSet;

use super::module::Module;

/// What a path leads to: a module, or something that a module defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Module(usize),
    ItemOf(usize),
}

/// Where a path that is written in module `from` leads. Re-exports are followed to the definition, so that
/// a file that imports through a facade depends on the file behind it. `None` is another crate.
pub(crate) fn resolve(modules: &[Module], from: usize, path: &[String]) -> Option<Target> {
    Resolver { modules, visited: BTreeSet::new() }.path(from, path)
}

struct Resolver<'a> {
    modules: &'a [Module],
    /// Names that are being followed: `use` can go round in a circle (`pub(crate) use kernel;`).
    visited: BTreeSet<(usize, String)>,
}

impl Resolver<'_> {
    fn path(&mut self, from: usize, path: &[String]) -> Option<Target> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(from),
            "super" => Target::Module(self.modules[from].parent?),
            name => self.name(from, name)?,
        };
        while let (Target::Module(module), Some((name, after))) = (at, rest.split_first()) {
            at = match name.as_str() {
                "super" => Target::Module(self.modules[module].parent?),
                name => self.name(module, name).unwrap_or(Target::ItemOf(module)),
            };
            rest = after;
        }
        Some(at)
    }

    /// A name in the scope of a module, if it is one of this crate.
    fn name(&mut self, module: usize, name: &str) -> Option<Target> {
        let scope = &self.modules[module];
        if let Some(&child) = scope.children.get(name) {
            return Some(Target::Module(child));
        }
        if !self.visited.insert((module, name.to_owned())) {
            return None;
        }
        let imports = scope.imports.iter();
        if let Some(import) = imports.clone().find(|import| import.name == name) {
            let target = self.path(module, &import.path);
            return target.or_else(|| self.defined(module, name));
        }
        self.defined(module, name).or_else(|| {
            imports.filter(|import| import.name == "*").find_map(|glob| {
                match self.path(module, &glob.path)? {
                    Target::Module(source) => self.name(source, name),
                    // The variants of an enum.
                    Target::ItemOf(_) => None,
                }
            })
        })
    }

    fn defined(&self, module: usize, name: &str) -> Option<Target> {
        self.modules[module].defined.contains(name).then_some(Target::ItemOf(module))
    }
}
