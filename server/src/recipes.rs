//! Recipes by name: the user's own, and the presets.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::bail;
use forebay::recipe::{PRESETS, Recipe, RecipeError, RecipeSpec};

/// Reads the user's recipes and checks that they are valid.
pub(crate) fn read(
    paths: BTreeMap<String, String>,
) -> anyhow::Result<BTreeMap<String, RecipeSpec>> {
    let mut recipes = BTreeMap::new();
    for (name, path) in paths {
        if PRESETS.iter().any(|(preset, _)| *preset == name) {
            bail!(
                "invalid recipe name {name:?} for {path}: it is the name of a preset; choose another one"
            );
        }
        let spec = RecipeSpec::from_toml(path.as_str(), RecipeSpec::read(Path::new(&path))?);
        spec.resolve()?;
        recipes.insert(name, spec);
    }
    Ok(recipes)
}

/// The recipe of a name.
pub(crate) fn by_name(own: &BTreeMap<String, RecipeSpec>, name: &str) -> RecipeSpec {
    own.get(name).cloned().unwrap_or_else(|| RecipeSpec::preset(name))
}

/// Resolves a recipe. The error for an unknown name lists the user's recipes too.
pub(crate) fn resolve(
    own: &BTreeMap<String, RecipeSpec>,
    spec: &RecipeSpec,
) -> Result<Recipe, RecipeError> {
    spec.resolve().map_err(|error| match error {
        RecipeError::Unknown { name, known } => {
            let known = std::iter::once(known).chain(own.keys().cloned());
            RecipeError::Unknown { name, known: known.collect::<Vec<_>>().join(", ") }
        }
        other => other,
    })
}
