//! What changes from step to step. It is in the GPU's memory, where kernels read it, so that a captured launch can be
//! repeated with other values.

/// Factor of the gradient of the logits.
pub(super) const LOSS_SCALE: usize = 0;
/// The learning rate, and what follows it is stored with it.
pub(super) const LEARNING_RATE: usize = 1;
/// Corrections of both moments of LAMB and `AdamW`.
pub(super) const CORRECTIONS: usize = 2;
/// Weights of the moving average and of the model.
pub(super) const EMA_WEIGHTS: usize = 4;
/// Number of scalars.
pub(super) const COUNT: usize = 6;

/// The scalars of one update.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepScalars {
    pub(super) lr: f64,
    /// The number of this update, from 1.
    pub(super) update: u64,
    /// Weight of the old average; 0 replaces it by the model.
    pub(super) ema_decay: f64,
}
