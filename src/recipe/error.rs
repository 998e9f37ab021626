//! Errors of recipes.

use std::sync::Arc;

/// The reason why a recipe is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// No preset or configured recipe has the name.
    #[error("unknown recipe {name:?}: expected {known}, or the path of a file that ends in .toml")]
    Unknown {
        /// The name that was requested.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The text is not TOML, or not a recipe.
    #[error("{origin} is not a recipe: {message}")]
    Syntax {
        /// The file, or the assignment.
        origin: String,
        /// The message of the parser.
        message: String,
    },
    /// The text and the changes are longer than any recipe, or nest deeper.
    #[error(
        "the recipe has {parts} keys, values and changes: expected at most {limit}; send each field once"
    )]
    TooManyParts {
        /// Their number.
        parts: usize,
        /// The limit.
        limit: usize,
    },
    /// A field has an invalid value.
    #[error("recipe field {field}: invalid value {value}: {expected}")]
    Value {
        /// Dotted name of the field.
        field: &'static str,
        /// The value.
        value: String,
        /// The values that are accepted.
        expected: String,
    },
    /// The recipe's file cannot be read. The error of the operating system is part of the message and
    /// not the error's source, so that a report of the whole chain prints it once.
    #[error("cannot read the recipe {path}: {error}; check the path")]
    Read {
        /// The file.
        path: String,
        /// Error of the operating system.
        error: Arc<std::io::Error>,
    },
    /// The recipe's file is too large to be one.
    #[error("cannot read the recipe {path}: it has more than {limit} bytes")]
    TooLarge {
        /// The file.
        path: String,
        /// The limit.
        limit: u64,
    },
    /// A class whose weight the recipe has is not in the dataset.
    #[error(
        "recipe field sampling.weights: the dataset has no class {name:?} ({}); \
         \"forebay inspect\" lists the names of classes",
        near_names(.near, *.classes)
    )]
    UnknownClass {
        /// The name in the recipe.
        name: String,
        /// Classes with similar names.
        near: Vec<String>,
        /// The number of classes.
        classes: usize,
    },
    /// The weights leave no record of the dataset.
    #[error(
        "recipe field sampling.weights: every class of the dataset that has good records has the weight 0; \
         expected one above 0"
    )]
    NothingDrawn,
    /// A sampler that knows only the number of records cannot draw them by class.
    #[error(
        "the recipe has sampling fields, so its order depends on the classes of the dataset: \
         make the sampler with forebay::sampler"
    )]
    NeedsClasses,
    /// The dataset is smaller than one step.
    #[error(
        "an epoch of the dataset has {samples} samples, and a step of the recipe has {batch}; \
         use a smaller batch ({})",
        batch_that_fits(*.samples, *.microbatches)
    )]
    TooSmall {
        /// Samples per epoch.
        samples: u64,
        /// Samples per step.
        batch: u32,
        /// Microbatches per step.
        microbatches: u32,
    },
}

/// What the dataset has instead of a class.
fn near_names(near: &[String], classes: usize) -> String {
    if near.is_empty() {
        return format!("none of its {classes} classes has a similar name");
    }
    let near: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
    format!("similar: {}", near.join(", "))
}

/// The flags for the largest batch of a small dataset: of as many microbatches, each of pairs, if that is possible.
fn batch_that_fits(samples: u64, microbatches: u32) -> String {
    let pairs = 2 * u64::from(microbatches);
    match samples / pairs * pairs {
        0 => format!("--batch {} --microbatches 1", samples / 2 * 2),
        batch => format!("--batch {batch}"),
    }
}
