//! Jobs: a dataset, a recipe and a seed.

use std::path::Path;

use forebay_proto::types::{Cursor, Digest, file};
use forebay_proto::v1;

use crate::description::Description;
use crate::error::Error;

/// A recipe, by name or as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipeRef {
    /// A preset (a1, a2, a3, eval) or a recipe from the server's configuration.
    Name(String),
    /// A whole recipe as TOML.
    Toml(String),
}

impl RecipeRef {
    /// Parses the argument of `--recipe`: the path of a file if it ends in `.toml`, otherwise the
    /// name of a preset or of a recipe from the server's configuration.
    ///
    /// # Errors
    /// [`Error::Options`] if the file cannot be read.
    pub fn from_name_or_path(argument: &str) -> Result<Self, Error> {
        let path = Path::new(argument);
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml")) {
            return Ok(Self::Name(argument.to_owned()));
        }
        let toml = file::read_to_string(path, MAX_RECIPE).map_err(|error| {
            Error::Options(format!("cannot read the recipe {argument:?}: {error}; check the path"))
        })?;
        Ok(Self::Toml(toml))
    }
}

/// Largest file of a recipe, as the server's.
const MAX_RECIPE: u64 = 1 << 20;

/// Everything that determines the microbatches of a training run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Name of a dataset that the servers have; may be empty if they have only one.
    pub dataset: String,
    /// The recipe.
    pub recipe: RecipeRef,
    /// Changes to the recipe as TOML assignments, such as `batch = 32`, applied in order.
    pub set: Vec<String>,
    /// Seed of every random choice.
    pub seed: u64,
    /// The dataset's expected digest: a server with another one is excluded.
    pub dataset_digest: Option<Digest>,
    /// The recipe's expected digest: a server with another one is excluded.
    pub recipe_digest: Option<Digest>,
}

impl Job {
    /// A dataset with a recipe of that name, seed 0, no changes and no expected digests.
    pub fn new(dataset: impl Into<String>, recipe: impl Into<String>) -> Self {
        Self {
            dataset: dataset.into(),
            recipe: RecipeRef::Name(recipe.into()),
            set: Vec::new(),
            seed: 0,
            dataset_digest: None,
            recipe_digest: None,
        }
    }

    /// The job that a checkpoint belongs to, with its seed and its digests.
    #[must_use]
    pub fn resumed(self, state: &State) -> Self {
        Self {
            seed: state.seed,
            dataset_digest: Some(state.dataset_digest),
            recipe_digest: Some(state.recipe_digest),
            ..self
        }
    }

    /// The dataset in errors. A job of a server's only dataset needs no name.
    pub(crate) fn title(&self) -> &str {
        if self.dataset.is_empty() { "the dataset" } else { &self.dataset }
    }

    pub(crate) fn to_wire(&self) -> v1::Job {
        let (name, toml) = match self.recipe.clone() {
            RecipeRef::Name(name) => (name, String::new()),
            RecipeRef::Toml(toml) => (String::new(), toml),
        };
        let digest = |digest: Option<Digest>| {
            digest.map_or_else(Vec::new, |Digest(bytes)| bytes.to_vec()).into()
        };
        v1::Job {
            dataset: self.dataset.clone(),
            recipe: Some(v1::Recipe { name, toml, set: self.set.clone() }),
            seed: self.seed,
            dataset_digest: digest(self.dataset_digest),
            recipe_digest: digest(self.recipe_digest),
        }
    }
}

/// The state that a checkpoint stores to resume with the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct State {
    /// Digest of the dataset.
    pub dataset_digest: Digest,
    /// Digest of the recipe.
    pub recipe_digest: Digest,
    /// Seed of the job.
    pub seed: u64,
    /// Epoch of the next step.
    pub epoch: u64,
    /// The next step.
    pub step: u64,
}

impl State {
    /// The state of a job with this description and seed, to resume at `next`.
    pub fn new(description: &Description, seed: u64, next: Cursor) -> Self {
        Self {
            dataset_digest: description.dataset_digest,
            recipe_digest: description.recipe_digest,
            seed,
            epoch: next.epoch,
            step: next.step,
        }
    }

    /// The step to resume at.
    pub const fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, step: self.step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_argument_is_a_file_if_it_ends_in_toml_and_a_name_otherwise() {
        for name in ["a2", "ours", "recipes/a2"] {
            assert_eq!(RecipeRef::from_name_or_path(name).unwrap(), RecipeRef::Name(name.into()));
        }
        let path = std::env::temp_dir().join(format!("forebay-{}.toml", std::process::id()));
        std::fs::write(&path, "base = \"a2\"\n").unwrap();
        let recipe = RecipeRef::from_name_or_path(path.to_str().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(recipe.unwrap(), RecipeRef::Toml("base = \"a2\"\n".into()));
        let error = RecipeRef::from_name_or_path("absent.toml").unwrap_err().to_string();
        assert!(error.starts_with("cannot read the recipe \"absent.toml\": "), "{error}");
    }
}
