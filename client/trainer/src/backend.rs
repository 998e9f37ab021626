//! The interface between the training loop and a device.
//!
//! A backend runs the operations of a [`Graph`] in memory that is planned once. It owns parameters,
//! gradients, optimizer state and running statistics. The loop sees them only to save and load them.

pub(crate) mod conv_config;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod device;
pub(crate) mod precision;

use crate::Error;
use crate::batch::Batch;
use crate::drop_path::DropPath;
use crate::loss::Loss;
use crate::loss_scaler::LossScaler;
use crate::model::Graph;
use crate::optimizer::Optimizer;
use crate::optimizer::clip::ClipGrad;
use crate::process_group::ProcessGroup;
use crate::state::TrainState;

/// A device that trains one network.
///
/// Every rank must make the same sequence of calls.
pub trait Backend {
    /// The network in training.
    fn graph(&self) -> &Graph;

    /// The ranks that train together, of which this backend is one.
    fn group(&mut self) -> &mut ProcessGroup;

    /// Makes this backend one of several ranks. Before this call it trains by itself.
    ///
    /// # Errors
    /// When the devices of the ranks cannot connect to each other.
    fn join(&mut self, group: ProcessGroup) -> Result<(), Error>;

    /// Runs the network forward on a training microbatch, with batch statistics. The running statistics take in those
    /// of every rank's microbatch, in the order of ranks, before `backward` returns.
    ///
    /// # Errors
    /// When the microbatch does not fit the network, or the device or another rank fails.
    fn forward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error>;

    /// Computes the loss of the microbatch that went forward, runs the network backward and adds the
    /// parameters' gradients, times `micro.weight`, to those of the step.
    ///
    /// # Errors
    /// When the device or another rank fails.
    fn backward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error>;

    /// Clips the gradients of all ranks, updates the parameters by them and clears them. With
    /// `model_ema_decay`, also moves the average of the model. Leaves the same parameters on every rank.
    /// The state of another optimizer is dropped.
    ///
    /// # Errors
    /// When the device or another rank fails.
    fn update(
        &mut self,
        optimizer: &Optimizer,
        clip_grad: Option<ClipGrad>,
        lr: f64,
        model_ema_decay: Option<f64>,
    ) -> Result<(), Error>;

    /// Returns the report of the oldest update that was not reported yet, if it is ready.
    ///
    /// Without `flush`, a device may withhold the newest report until the next step runs, so that the
    /// loop never waits for the device. With `flush`, the report of every update is returned.
    ///
    /// # Errors
    /// When the device fails.
    fn poll_report(&mut self, flush: bool) -> Result<Option<UpdateReport>, Error>;

    /// Runs the network in evaluation, with running statistics. Returns one row of logits per sample.
    ///
    /// # Errors
    /// When the microbatch does not fit the network, or the device fails.
    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error>;

    /// Exchanges the model with its moving average: once to evaluate the average, once more to continue.
    ///
    /// # Errors
    /// When the device fails.
    fn swap_ema(&mut self) -> Result<(), Error>;

    /// Copies everything that training changes to the host.
    ///
    /// # Errors
    /// When the device fails.
    fn state(&self) -> Result<TrainState, Error>;

    /// Loads a state, or a model with the rest of the state empty.
    ///
    /// # Errors
    /// When names or shapes are not those of the network; the message says which.
    fn load(&mut self, state: &TrainState) -> Result<(), String>;
}

/// The networks that a backend runs, and how it normalizes images.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// The network in training.
    pub train_graph: Graph,
    /// Maximum number of samples of a microbatch in training.
    pub batch: usize,
    /// The network in evaluation, perhaps for images of another size.
    pub eval_graph: Graph,
    /// Maximum number of samples of a microbatch in evaluation.
    pub eval_batch: usize,
    /// Mean of R, G and B, 0 to 1.
    pub mean: [f64; 3],
    /// Standard deviation of R, G and B.
    pub std: [f64; 3],
}

/// The contribution of a microbatch to its step.
#[derive(Clone, Copy, Debug)]
pub struct MicroStep<'a> {
    /// Stochastic-depth mask of the microbatch.
    pub drop_path: Option<&'a DropPath>,
    /// Loss to minimize.
    pub loss: &'a Loss,
    /// Factor of the microbatch's gradient in the gradient of the step.
    pub weight: f64,
    /// Whether this is the rank's last microbatch of the step: its gradients can be sent to the other
    /// ranks while the backward pass still runs.
    pub last: bool,
}

/// The report of an update by one rank.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateReport {
    /// Loss of each of the rank's microbatches.
    pub losses: Vec<f64>,
    /// Norm of the gradient over all ranks, before clipping and without the loss scale.
    pub grad_norm: f64,
    /// The loss scale after the update, and whether the update was skipped, where training is in f16.
    pub loss_scaler: Option<(LossScaler, bool)>,
}

/// The normalized value of each byte: `(byte - 255 mean) / (255 std)` in f32, as timm's prefetcher
/// computes it.
#[expect(clippy::cast_possible_truncation, reason = "constants in f32, as torch holds them")]
pub(crate) fn normalization_table(mean: f64, std: f64) -> [f32; 256] {
    let (mean, std) = ((255.0 * mean) as f32, (255.0 * std) as f32);
    let bytes = std::array::from_fn(|byte| f32::from(u8::try_from(byte).expect("256 bytes")));
    bytes.map(|byte: f32| (byte - mean) / std)
}
