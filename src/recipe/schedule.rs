//! Values of a recipe that change with the epoch.
//!
//! ```toml
//! image_size = 128                       # until epoch 59
//!
//! [[schedule]]
//! from_epoch = 60
//! image_size = 160
//! crop.scale = [0.25, 1.0]
//!
//! [[schedule]]
//! from_epoch = 60                        # the magnitude of RandAugment rises until epoch 100
//! until_epoch = 100
//! randaugment.magnitude = 9
//! ```

use std::borrow::Cow;

use super::error::RecipeError;
use super::fields::{Crop, Recipe};
use super::phase::Phase;
use super::validate::{invalid, limits};

impl Phase {
    fn is_empty(&self) -> bool {
        let Self { from_epoch, until_epoch, .. } = *self;
        *self == Self { from_epoch, until_epoch, ..Self::default() }
    }

    /// The epoch from which on the values are those of the phase.
    fn reached(&self) -> u64 {
        self.until_epoch.unwrap_or(self.from_epoch)
    }

    /// How much of the way to its values an epoch from `from_epoch` on has behind it.
    fn progress(&self, epoch: u64) -> f64 {
        if epoch >= self.reached() {
            return 1.0;
        }
        (epoch - self.from_epoch) as f64 / (self.reached() - self.from_epoch) as f64
    }

    fn apply(&self, recipe: &mut Recipe, epoch: u64) {
        let progress = self.progress(epoch);
        let change = |value: &mut f64, to: Option<f64>| {
            if let Some(to) = to {
                *value = if progress < 1.0 { *value + (to - *value) * progress } else { to };
            }
        };
        recipe.image_size = self.image_size.unwrap_or(recipe.image_size);
        if let (Some(to), Some(scale)) = (self.crop.scale, recipe.crop.scale_mut()) {
            for (value, to) in scale.iter_mut().zip(to) {
                change(value, Some(to));
            }
        }
        if let (Some(to), Some(resize)) = (self.crop.resize, recipe.crop.resize_mut()) {
            *resize = to;
        }
        change(&mut recipe.randaugment.magnitude, self.randaugment.magnitude);
        change(&mut recipe.mix.probability, self.mix.probability);
        change(&mut recipe.mix.mixup, self.mix.mixup);
        change(&mut recipe.mix.cutmix, self.mix.cutmix);
    }
}

impl Crop {
    const fn scale_mut(&mut self) -> Option<&mut [f64; 2]> {
        match self {
            Self::RandomResized { scale, .. }
            | Self::KeepRatioCenter { scale, .. }
            | Self::KeepRatioRandom { scale, .. } => Some(scale),
            Self::SimpleRandom { .. }
            | Self::Center { .. }
            | Self::Squash { .. }
            | Self::Border { .. } => None,
        }
    }

    const fn resize_mut(&mut self) -> Option<&mut u32> {
        match self {
            Self::SimpleRandom { resize, .. }
            | Self::Center { resize, .. }
            | Self::Squash { resize, .. }
            | Self::Border { resize, .. } => Some(resize),
            Self::RandomResized { .. }
            | Self::KeepRatioCenter { .. }
            | Self::KeepRatioRandom { .. } => None,
        }
    }
}

impl Recipe {
    /// The recipe as it is in an epoch, without a schedule.
    pub fn at(&self, epoch: u64) -> Cow<'_, Self> {
        if self.schedule.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut recipe = Self { schedule: Vec::new(), ..self.clone() };
        let begun = self.schedule.iter().take_while(|phase| phase.from_epoch <= epoch);
        for phase in begun {
            phase.apply(&mut recipe, epoch);
        }
        Cow::Owned(recipe)
    }

    /// The epochs at which `image_size` changes, and its new values.
    pub fn image_sizes(&self) -> Vec<(u64, u32)> {
        let sizes = self.schedule.iter().map(|phase| phase.from_epoch);
        let mut sizes: Vec<(u64, u32)> =
            sizes.map(|epoch| (epoch, self.at(epoch).image_size)).collect();
        let mut before = self.image_size;
        sizes.retain(|(_, size)| std::mem::replace(&mut before, *size) != *size);
        sizes
    }

    /// The largest image size of all epochs.
    pub fn largest_image_size(&self) -> u32 {
        let sizes = self.image_sizes().into_iter().map(|(_, size)| size);
        sizes.fold(self.image_size, u32::max)
    }

    /// Whether samples can be mixed in any epoch.
    pub fn mixes(&self) -> bool {
        self.mix.enabled() || self.corners().any(|epoch| self.at(epoch).mix.enabled())
    }

    /// The first and last epochs of all pieces that the values of the schedule consist of. Numbers move in
    /// equal steps between them, so that what holds for an interval of values and in these holds in all.
    fn corners(&self) -> impl Iterator<Item = u64> {
        self.schedule.iter().flat_map(|phase| {
            let (from, reached) = (phase.from_epoch, phase.reached());
            [from.saturating_sub(1), from, reached.saturating_sub(1), reached]
        })
    }

    /// Checks the schedule, and the recipe as each phase leaves it.
    ///
    /// # Errors
    /// [`RecipeError::Value`] with the first field whose value is invalid.
    pub(super) fn validate_schedule(&self) -> Result<(), RecipeError> {
        if self.schedule.len() > limits::PHASES {
            let expected = format!("expected at most {}", limits::PHASES);
            return invalid("schedule", format!("of {} phases", self.schedule.len()), expected);
        }
        let mut previous = 0;
        for phase in &self.schedule {
            self.validate_phase(phase, previous)?;
            previous = phase.from_epoch;
        }
        for epoch in self.corners() {
            self.at(epoch).validate().map_err(|error| match error {
                RecipeError::Value { field, value, expected } => {
                    let expected = format!("{expected} (in epoch {epoch} of the schedule)");
                    RecipeError::Value { field, value, expected }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    fn validate_phase(&self, phase: &Phase, previous: u64) -> Result<(), RecipeError> {
        let Phase { from_epoch, until_epoch, .. } = *phase;
        if from_epoch == 0 || from_epoch < previous {
            let expected = format!(
                "expected at least {}: put phases in the order of their epochs, \
                 and what is from epoch 0 on outside of the schedule",
                previous.max(1)
            );
            return invalid("schedule.from_epoch", from_epoch, expected);
        }
        if let Some(until) = until_epoch {
            if until <= from_epoch {
                let expected = format!("expected more than from_epoch = {from_epoch}");
                return invalid("schedule.until_epoch", until, expected);
            }
            if phase.image_size.or(phase.crop.resize).is_some() {
                let expected = "expected none with image_size and crop.resize, which cannot move in \
                     equal steps: write a phase for each of their values";
                return invalid("schedule.until_epoch", until, expected);
            }
        }
        if phase.is_empty() {
            let expected = "expected at least one of image_size, crop.scale, crop.resize, \
                 randaugment.magnitude, mix.probability, mix.mixup and mix.cutmix";
            return invalid("schedule", format!("from_epoch = {from_epoch} alone"), expected);
        }
        let mut crop = self.crop;
        if let Some(scale) = phase.crop.scale.filter(|_| crop.scale_mut().is_none()) {
            let expected = "expected none, because crop.kind has no scale";
            return invalid("schedule.crop.scale", format!("{scale:?}"), expected);
        }
        if let Some(resize) = phase.crop.resize.filter(|_| crop.resize_mut().is_none()) {
            let expected = "expected none, because crop.kind has no resize";
            return invalid("schedule.crop.resize", resize, expected);
        }
        if let Some(magnitude) = phase.randaugment.magnitude.filter(|_| self.randaugment.ops == 0) {
            let expected = "expected none, because the recipe has no randaugment, whose magnitude it is: \
                 auto_augment has its own";
            return invalid("schedule.randaugment.magnitude", magnitude, expected);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::recipe::{Crop, Recipe, RecipeError, RecipeSpec, difference};

    fn with(schedule: &str) -> Result<Recipe, RecipeError> {
        RecipeSpec::from_toml("mine", format!("base = \"a2\"\n{schedule}")).resolve()
    }

    const PROGRESSIVE: &str = "
        [[schedule]]
        from_epoch = 10
        image_size = 256
        crop.scale = [0.25, 1]

        [[schedule]]
        from_epoch = 20
        until_epoch = 30
        randaugment.magnitude = 9
        mix.mixup = 0.2

        [[schedule]]
        from_epoch = 40
        image_size = 192
        mix.probability = 0
    ";

    #[test]
    fn phases_hold_from_their_epoch_on_and_numbers_move_in_equal_steps() {
        let recipe = with(PROGRESSIVE).unwrap();
        let values = |epoch| {
            let Recipe { image_size, crop, randaugment, mix, .. } = recipe.at(epoch).into_owned();
            let Crop::RandomResized { scale: [low, _], .. } = crop else { panic!("{crop:?}") };
            (image_size, low, randaugment.magnitude, mix.mixup, mix.probability)
        };
        assert_eq!(values(0), (224, 0.08, 7.0, 0.1, 1.0));
        assert_eq!(values(9), values(0));
        assert_eq!(values(10), (256, 0.25, 7.0, 0.1, 1.0));
        assert_eq!(values(20), values(10));
        assert_eq!(values(25), (256, 0.25, 8.0, 0.1 + (0.2 - 0.1) * 0.5, 1.0));
        assert_eq!(values(30), (256, 0.25, 9.0, 0.2, 1.0));
        assert_eq!(values(1000), (192, 0.25, 9.0, 0.2, 0.0));
        assert_eq!(recipe.image_sizes(), [(10, 256), (40, 192)]);
        assert_eq!(recipe.largest_image_size(), 256);
        assert!(recipe.mixes() && !recipe.at(40).mix.enabled());
    }

    #[test]
    fn a_schedule_is_a_part_of_the_canonical_form_only_if_there_is_one() {
        let (plain, recipe) = (with("").unwrap(), with(PROGRESSIVE).unwrap());
        assert!(!plain.canonical().contains("schedule"));
        let [(field, before, after)] = &difference(&plain, &recipe)[..] else {
            panic!("one field")
        };
        assert_eq!((field.as_str(), before.as_str()), ("schedule", ""));
        assert_eq!(
            after,
            "[{ crop.scale = [0.25, 1.0], from_epoch = 10, image_size = 256 }, \
             { from_epoch = 20, mix.mixup = 0.2, randaugment.magnitude = 9.0, until_epoch = 30 }, \
             { from_epoch = 40, image_size = 192, mix.probability = 0.0 }]"
        );
        let again = RecipeSpec::from_toml("canonical", recipe.canonical()).resolve().unwrap();
        assert_eq!((again.digest(), &again), (recipe.digest(), &recipe));
        assert_ne!(plain.digest(), recipe.digest());
        let set = RecipeSpec::preset("a2").with_changes([format!("schedule = {after}")]);
        assert_eq!(set.resolve().unwrap(), recipe);
    }

    #[test]
    fn a_recipe_without_a_schedule_is_the_same_in_every_epoch() {
        let plain = with("").unwrap();
        assert!(matches!(plain.at(7), std::borrow::Cow::Borrowed(same) if same == &plain));
        assert!(plain.image_sizes().is_empty());
    }

    #[test]
    fn invalid_phases_are_refused_with_their_field_value_and_epoch() {
        for (phase, message) in [
            (
                "from_epoch = 0\nimage_size = 8",
                "schedule.from_epoch: invalid value 0: expected at least 1",
            ),
            (
                "from_epoch = 5",
                "schedule: invalid value from_epoch = 5 alone: expected at least one of",
            ),
            (
                "from_epoch = 5\nuntil_epoch = 5\nmix.mixup = 1",
                "schedule.until_epoch: invalid value 5: expected more",
            ),
            (
                "from_epoch = 5\nuntil_epoch = 9\nimage_size = 8",
                "schedule.until_epoch: invalid value 9: expected none",
            ),
            ("from_epoch = 5\ncrop.resize = 300", "schedule.crop.resize: invalid value 300"),
            (
                "from_epoch = 5\ncrop.scale = [0.5, 0.2]",
                "crop.scale: invalid value [0.5, 0.2]: expected [low, high] with 0 < low <= high <= 1 \
                 (in epoch 5 of the schedule)",
            ),
            ("from_epoch = 5\nmix.mixup = -1", "recipe field mix.mixup: invalid value -1"),
            ("from_epoch = 5\nbatch = 8", "unknown field `batch`"),
        ] {
            let error = with(&format!("[[schedule]]\n{phase}")).unwrap_err().to_string();
            assert!(error.contains(message), "{phase}: {error}");
        }
        let other =
            "auto_augment = \"v0\"\n[[schedule]]\nfrom_epoch = 5\nrandaugment.magnitude = 9";
        let error = with(other).unwrap_err().to_string();
        assert!(error.contains("schedule.randaugment.magnitude: invalid value 9"), "{error}");
        let backward = "[[schedule]]\nfrom_epoch = 5\nimage_size = 8\n[[schedule]]\nfrom_epoch = 4\nimage_size = 9";
        let error = with(backward).unwrap_err().to_string();
        assert!(
            error.contains("schedule.from_epoch: invalid value 4: expected at least 5"),
            "{error}"
        );
        let many = "[[schedule]]\nfrom_epoch = 5\nimage_size = 8\n".repeat(17);
        let error = with(&many).unwrap_err().to_string();
        assert!(
            error.contains("schedule: invalid value of 17 phases: expected at most 16"),
            "{error}"
        );
    }
}
