//! Everything that training changes, as named tensors: what a checkpoint holds.

use std::collections::BTreeMap;

use crate::loss_scaler::LossScaler;
use crate::model::Graph;
use crate::optimizer::StateKind;

/// Tensors by timm's parameter names, in timm's layout.
pub type StateDict = BTreeMap<String, Tensor>;

/// A tensor on the host, in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Values; as many as the product of the dimensions.
    pub values: Vec<f32>,
}

impl Tensor {
    /// Whether no value is NaN or infinite.
    pub(crate) fn is_finite(&self) -> bool {
        self.values.iter().all(|value| value.is_finite())
    }
}

/// Everything that training changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainState {
    /// Parameters and running statistics.
    pub model: StateDict,
    /// Optimizer updates so far.
    pub updates: u64,
    /// Training microbatches so far: batch norm's `num_batches_tracked`.
    pub batches_tracked: u64,
    /// First moment of each parameter's gradient; empty before the first update.
    pub exp_avg: StateDict,
    /// Second moment of each parameter's gradient; empty before the first update.
    pub exp_avg_sq: StateDict,
    /// Momentum buffer of each parameter, which SGD has instead of moments; empty before the first update.
    pub momentum_buffer: StateDict,
    /// Exponential moving average of the model; empty if none is kept.
    pub model_ema: StateDict,
    /// The loss scale, where training is in f16.
    pub loss_scaler: Option<LossScaler>,
}

impl TrainState {
    /// The name of the first tensor with a value that is NaN or infinite.
    pub(crate) fn not_finite(&self) -> Option<&str> {
        let all =
            [&self.model, &self.exp_avg, &self.exp_avg_sq, &self.momentum_buffer, &self.model_ema];
        all.into_iter().flatten().find(|(_, tensor)| !tensor.is_finite()).map(|(name, _)| &**name)
    }

    /// What the optimizer keeps.
    pub(crate) fn state_kind(&self) -> StateKind {
        match (self.exp_avg.is_empty(), self.momentum_buffer.is_empty()) {
            (false, _) => StateKind::Moments,
            (true, false) => StateKind::Momentum,
            (true, true) => StateKind::Empty,
        }
    }

    /// The tensors that the backends keep where first moments or momentum buffers are, and where second moments are.
    pub(crate) fn optimizer_tensors(&self) -> [&StateDict; 2] {
        match self.state_kind() {
            StateKind::Momentum => [&self.momentum_buffer, &self.exp_avg_sq],
            StateKind::Moments | StateKind::Empty => [&self.exp_avg, &self.exp_avg_sq],
        }
    }

    /// Sets the optimizer's tensors, of which `read` reads the first or the second kind from a backend.
    pub(crate) fn read_optimizer<E>(
        &mut self,
        kind: StateKind,
        mut read: impl FnMut(usize) -> Result<StateDict, E>,
    ) -> Result<(), E> {
        match kind {
            StateKind::Empty => {}
            StateKind::Moments => (self.exp_avg, self.exp_avg_sq) = (read(0)?, read(1)?),
            StateKind::Momentum => self.momentum_buffer = read(0)?,
        }
        Ok(())
    }

    /// Checks that the tensors are those of a network; the message names the first that is not.
    pub(crate) fn check(&self, graph: &Graph) -> Result<(), String> {
        check_tensors(graph, &self.model, true)?;
        if self.exp_avg.is_empty() != self.exp_avg_sq.is_empty() {
            return Err("it has only one of exp_avg and exp_avg_sq".to_owned());
        }
        for (tensors, with_statistics) in [
            (&self.exp_avg, false),
            (&self.exp_avg_sq, false),
            (&self.momentum_buffer, false),
            (&self.model_ema, true),
        ] {
            if !tensors.is_empty() {
                check_tensors(graph, tensors, with_statistics)?;
            }
        }
        Ok(())
    }
}

/// Checks for a missing tensor, a wrong shape, and an unknown tensor.
fn check_tensors(graph: &Graph, tensors: &StateDict, with_statistics: bool) -> Result<(), String> {
    let parameters = graph.parameters.iter().map(|p| (p.name.clone(), p.shape.clone()));
    let statistics = graph.norms.iter().filter(|_| with_statistics).flat_map(|norm| {
        ["running_mean", "running_var"]
            .map(|name| (format!("{}.{name}", norm.name), vec![norm.channels]))
    });
    let expected: BTreeMap<String, Vec<usize>> = parameters.chain(statistics).collect();
    for (name, shape) in &expected {
        let Some(tensor) = tensors.get(name) else {
            return Err(format!(
                "tensor {name} is missing: the file is of another model; check --model"
            ));
        };
        if tensor.shape != *shape {
            return Err(format!(
                "tensor {name} has shape {:?}, expected {shape:?}: check --model and the dataset's classes",
                tensor.shape
            ));
        }
    }
    let unknown = tensors.keys().find(|name| !expected.contains_key(*name));
    unknown.map_or(Ok(()), |name| {
        Err(format!("unknown tensor {name}: the file is of another model; check --model"))
    })
}
