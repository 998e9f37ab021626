//! Largest sizes of datasets and recipes, on which a client relies that sizes its memory by them.

/// Largest height and width of a sample, in pixels.
pub const IMAGE_SIZE: u32 = 4096;

/// Most samples per step.
pub const BATCH: u32 = 1 << 20;

/// Most microbatches per step.
pub const MICROBATCHES: u32 = 1024;

/// Most records of a dataset, so that the steps of a million epochs can be counted.
pub const RECORDS: u64 = 1 << 40;

/// Most classes of a dataset.
pub const CLASSES: u64 = 1 << 24;

/// The fields of a recipe that a description has, as a client or a trainer received them.
#[derive(Clone, Copy, Debug)]
pub struct RecipeFields<'a> {
    /// Samples of a step.
    pub batch: u32,
    /// Microbatches of a step.
    pub microbatches: u32,
    /// Height and width of a sample.
    pub image_size: u32,
    /// Label smoothing.
    pub smoothing: f64,
    /// Mean of each channel.
    pub mean: &'a [f64],
    /// Standard deviation of each channel.
    pub std: &'a [f64],
}

impl RecipeFields<'_> {
    /// What is wrong with the first field that no recipe has.
    pub fn problem(&self) -> Option<&'static str> {
        let Self { batch, microbatches, image_size, smoothing, mean, std } = *self;
        let all = |values: &[f64], [low, high]: [f64; 2]| {
            values.iter().all(|value| (low..=high).contains(value))
        };
        let checks = [
            ((1..=BATCH).contains(&batch), "batch must be 1 to 2^20"),
            ((1..=MICROBATCHES).contains(&microbatches), "microbatches must be 1 to 1024"),
            ((1..=IMAGE_SIZE).contains(&image_size), "image_size must be 1 to 4096"),
            (all(&[smoothing], [0.0, 1.0]), "smoothing must be 0 to 1"),
            (all(mean, [0.0, 1.0]), "each mean must be 0 to 1"),
            (all(std, [1e-6, 1e6]), "each std must be 10^-6 to 10^6"),
        ];
        checks.into_iter().find(|(is_valid, _)| !is_valid).map(|(_, problem)| problem)
    }
}
