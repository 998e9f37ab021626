//! The color operations of a recipe.

use serde::{Deserialize, Deserializer, Serialize};

/// Color operations, after the flips and RandAugment: timm's `color_jitter`, `grayscale_prob` and
/// `gaussian_blur_prob`. Not a part of the canonical form unless they are set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Color {
    /// The most that factors of brightness, contrast and saturation differ from 1, and the hue from its
    /// own, in parts of the circle. Written as one number (for the first three), three or four.
    #[serde(deserialize_with = "jitter", skip_serializing_if = "is_still")]
    pub jitter: [f64; 4],
    /// Probability of the jitter.
    #[serde(skip_serializing_if = "is_one")]
    pub probability: f64,
    /// Probability that the picture becomes gray.
    #[serde(skip_serializing_if = "is_zero")]
    pub grayscale: f64,
    /// Probability of a Gaussian blur of 23 x 23 pixels, with a standard deviation from 0.1 to 2.
    #[serde(skip_serializing_if = "is_zero")]
    pub blur: f64,
}

impl Default for Color {
    fn default() -> Self {
        Self { jitter: [0.0; 4], probability: 1.0, grayscale: 0.0, blur: 0.0 }
    }
}

impl Color {
    /// Whether nothing is done.
    pub(super) fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// timm's forms: a number, which is not of the hue, or three or four numbers.
fn jitter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 4], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected color.jitter as a number, or as three or four numbers")]
    enum Forms {
        One(f64),
        Three([f64; 3]),
        Four([f64; 4]),
    }
    Ok(match Forms::deserialize(deserializer)? {
        Forms::One(most) => [most, most, most, 0.0],
        Forms::Three([brightness, contrast, saturation]) => [brightness, contrast, saturation, 0.0],
        Forms::Four(jitter) => jitter,
    })
}

fn is_still(jitter: &[f64; 4]) -> bool {
    jitter.iter().all(|most| *most == 0.0)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(value: &f64) -> bool {
    value.to_bits() == 1.0_f64.to_bits()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Recipe, RecipeError, RecipeSpec};

    fn with(changes: &[&str]) -> Result<Recipe, RecipeError> {
        let changes = changes.iter().map(|change| (*change).to_owned());
        RecipeSpec::preset("a2").with_changes(changes).resolve()
    }

    #[test]
    fn jitter_has_the_forms_of_timm_and_one_canonical_form() {
        for (written, jitter) in [
            ("0.4", [0.4, 0.4, 0.4, 0.0]),
            ("1", [1.0, 1.0, 1.0, 0.0]),
            ("[0.1, 0.2, 0.3]", [0.1, 0.2, 0.3, 0.0]),
            ("[0, 0.2, 1, 0.1]", [0.0, 0.2, 1.0, 0.1]),
        ] {
            let recipe = with(&[&format!("color.jitter = {written}")]).unwrap();
            let line = format!("color.jitter = {jitter:?}\n");
            assert!(recipe.canonical().contains(&line), "{written}");
            let again = RecipeSpec::from_toml("canonical", recipe.canonical()).resolve().unwrap();
            assert_eq!(again, recipe);
        }
    }

    #[test]
    fn color_is_in_the_canonical_form_only_if_it_is_set() {
        let same =
            with(&["color.jitter = 0", "color.probability = 1", "color.blur = 0.0"]).unwrap();
        assert_eq!(same.digest(), with(&[]).unwrap().digest());
        assert!(!same.canonical().contains("color"), "{}", same.canonical());
        assert_ne!(with(&["color.grayscale = 0.2"]).unwrap().digest(), same.digest());
    }

    #[test]
    fn invalid_color_is_refused_with_its_field_and_value() {
        for (change, message) in [
            ("color.jitter = -1", "recipe field color.jitter: invalid value -1"),
            (
                "color.jitter = [0, 0, 0, 0.6]",
                "recipe field color.jitter: invalid value [0.0, 0.0, 0.0, 0.6]",
            ),
            ("color.jitter = [0.1, 0.2]", "expected color.jitter as a number"),
            ("color.probability = 2", "recipe field color.probability: invalid value 2"),
            ("color.grayscale = nan", "recipe field color.grayscale: invalid value NaN"),
            ("color.blur = 1.5", "recipe field color.blur: invalid value 1.5"),
        ] {
            let error = with(&[change]).unwrap_err().to_string();
            assert!(error.contains(message), "{change}: {error}");
        }
        let error = with(&["image_size = 11", "color.blur = 0.1"]).unwrap_err().to_string();
        assert!(
            error.contains(
                "color.blur: invalid value 0.1: expected 0 for pictures of fewer than 12"
            )
        );
    }
}
