//! Recipes: everything that decides pixels and targets, as data.
//!
//! A recipe is a preset (`a1`, `a2`, `a3`, `eval`) or TOML, which may start from a preset with
//! `base = "a2"`, followed by changes such as `batch = 32` or `crop.scale = [0.35, 1.0]`. However it is
//! written, it has one canonical form, one line `key = value` for each field, sorted. The digest of that
//! text identifies the recipe.
//!
//! ```
//! use forebay::recipe::{Crop, RecipeSpec};
//!
//! let mine = r#"
//!     base = "a2"
//!     image_size = 160
//!     crop.scale = [0.35, 1.0]
//! "#;
//! let recipe = RecipeSpec::from_toml("mine.toml", mine).with_changes(["batch = 256".into()]).resolve()?;
//! assert_eq!((recipe.image_size, recipe.batch), (160, 256));
//! assert!(matches!(recipe.crop, Crop::RandomResized { scale: [0.35, 1.0], .. }));
//!
//! // The digest depends on the values and not on how they are written.
//! let canonical = RecipeSpec::from_toml("canonical", recipe.canonical()).resolve()?;
//! assert_eq!(canonical.digest(), recipe.digest());
//! # Ok::<(), forebay::recipe::RecipeError>(())
//! ```

mod auto_augment;
mod canonical;
mod color;
mod error;
mod fields;
mod phase;
mod schedule;
mod spec;
mod validate;

pub use auto_augment::{
    AugMix, AutoAugment, AutoPolicy, Noise, Rand, RandSet, TorchPolicy, Torchvision,
};
pub use canonical::difference;
pub use color::Color;
pub use error::RecipeError;
pub use fields::{
    Crop, Filter, Mix, MixMode, RandAugment, Recipe, RecordOrder, SEMANTICS, Sampling,
};
pub use phase::{CropChange, MixChange, Phase, RandAugmentChange};
pub use spec::{PRESETS, RecipeSource, RecipeSpec};
pub use validate::limits;
