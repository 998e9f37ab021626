//! Converts the backend's values to tensors with timm's names and layout, and back.

use std::ops::Range;

use forebay::gpu::{DeviceError, Pinned};
use half::f16;

use super::stem::IMAGE_CHANNELS;
use super::transfer::{upload, upload_f32s};
use super::{CudaBackend, PassConfig, Precision};
use crate::loss_scaler::LossScaler;
use crate::model::{Parameter, TensorId};
use crate::state::{StateDict, Tensor, TrainState};

/// For each value of a parameter in timm's layout, its index in the backend's layout, in which
/// convolutions have their input channels last, and `stored` of them.
fn layout(parameter: &Parameter, stored: usize) -> impl Iterator<Item = usize> + '_ {
    let numbers: usize = parameter.shape.iter().product();
    let (inputs, taps) = match parameter.shape[..] {
        [_, inputs, height, width] => (inputs, height * width),
        _ => (1, 1),
    };
    (0..numbers).map(move |i| {
        let (output, input, tap) = (i / (inputs * taps), i / taps % inputs, i % taps);
        (output * taps + tap) * stored + input
    })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Rounds to bf16, to nearest, ties to even.
pub(crate) fn to_bf16(float: f32) -> u16 {
    let bits = float.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
    let upper = if float.is_nan() { (bits >> 16) | 0x40 } else { rounded >> 16 } as u16;
    upper
}

impl CudaBackend {
    /// Starts from a loss scale, or from the default one. Only f16 has one that changes.
    pub(super) fn load_scaler(&self, scaler: Option<LossScaler>) -> Result<(), DeviceError> {
        let is_scaled = self.config.precision == Precision::F16;
        let scaler = is_scaled.then(|| {
            let skipped = self.updates.min(scaler.unwrap_or_default().skipped);
            LossScaler { skipped, ..scaler.unwrap_or_default() }
        });
        let bytes = LossScaler::to_bytes(scaler, self.updates);
        upload(&self.config.device, &self.lane, self.memory.scaler.start, &bytes)
    }

    fn scaler(&self) -> Result<Option<LossScaler>, DeviceError> {
        if self.config.precision != Precision::F16 {
            return Ok(None);
        }
        let bytes = self.bytes(&self.memory.scaler)?;
        Ok(Some(LossScaler::from_bytes(bytes[..].try_into().expect("its bytes")).0))
    }

    fn bytes(&self, range: &Range<usize>) -> Result<Pinned, DeviceError> {
        let mut host = self.config.device.pinned(range.len())?;
        self.lane.download(range.start, &mut host, 0..range.len())?;
        host.wait()?;
        Ok(host)
    }

    fn get(&self, range: &Range<usize>) -> Result<Vec<f32>, DeviceError> {
        Ok(floats(&self.bytes(range)?))
    }

    fn layout(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        layout(&self.training.graph.parameters[index], self.memory.input_channels[index][1])
    }

    fn read(&self, numbers: &[f32], index: usize) -> Vec<f32> {
        let stored = &numbers[self.memory.parameter_ranges[index].clone()];
        self.layout(index).map(|i| stored[i]).collect()
    }

    /// The values of a parameter in timm's layout.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn parameter(&self, index: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.read(&self.get(&self.memory.parameters)?, index))
    }

    /// The gradient of a parameter in timm's layout.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn gradient(&self, index: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.read(&self.get(&self.memory.gradients)?, index))
    }

    /// The running means, then the running variances, of a batch norm.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn running(&self, norm: usize) -> Result<Vec<f32>, DeviceError> {
        let running = self.get(&self.memory.running)?;
        Ok(running[self.memory.running_ranges[norm].clone()].to_vec())
    }

    /// The logits of the last forward pass.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn last_logits(&mut self, samples: usize) -> Result<&[f32], DeviceError> {
        self.download_logits(samples)?;
        Ok(&self.logits)
    }

    pub(super) fn download_logits(&mut self, samples: usize) -> Result<(), DeviceError> {
        let bytes = samples * self.training.graph.classes * 4;
        self.lane.download(self.memory.logits.start, &mut self.logits_buffer, 0..bytes)?;
        self.logits_buffer.wait()?;
        let words = self.logits_buffer[..bytes].as_chunks::<4>().0.iter();
        self.logits.clear();
        self.logits.extend(words.map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }

    /// Sets the logits.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn set_logits(&mut self, logits: &[f32]) -> Result<(), DeviceError> {
        upload_f32s(&self.config.device, &self.lane, &self.memory.logits, logits)
    }

    /// The values of a tensor, valid between its first and its last use. Of the images, those of their three channels.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn values(&self, tensor: TensorId, pass: PassConfig) -> Result<Vec<f32>, DeviceError> {
        let plan = self.plan(pass.train);
        let numbers = plan.graph.tensors[tensor].elements() * pass.samples;
        if tensor == plan.graph.logits() {
            let start = self.memory.logits.start;
            return self.get(&(start..start + numbers * 4));
        }
        let values = self.stored(plan.values[tensor].start, numbers)?;
        if tensor > 0 {
            return Ok(values);
        }
        let pixels = values.chunks_exact(IMAGE_CHANNELS);
        Ok(pixels.flat_map(|pixel| pixel[..3].iter().copied()).collect())
    }

    /// The gradient of a tensor, valid between its first and its last use.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn gradient_of(&self, tensor: TensorId, samples: usize) -> Result<Vec<f32>, DeviceError> {
        let range = self.training.gradients[tensor].as_ref().expect("planned");
        self.stored(range.start, self.training.graph.tensors[tensor].elements() * samples)
    }

    /// Values that a batch norm keeps for backward: mean, 1 / standard deviation, factor and shift per channel.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn saved(&self, norm: usize) -> Result<Vec<f32>, DeviceError> {
        let range = &self.memory.running_ranges[norm];
        let start = self.memory.saved.start;
        self.get(&(start + 8 * range.start..start + 8 * range.end))
    }

    /// Sets the gradient of the logits.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn set_logits_gradient(&mut self, gradient: &[f32]) -> Result<(), DeviceError> {
        let bytes: Vec<u8> = match self.config.precision {
            Precision::Bf16 => gradient.iter().flat_map(|&s| to_bf16(s).to_le_bytes()).collect(),
            Precision::F16 => {
                gradient.iter().flat_map(|&s| f16::from_f32(s).to_le_bytes()).collect()
            }
            Precision::F32 => gradient.iter().flat_map(|s| s.to_le_bytes()).collect(),
        };
        let range = self.training.gradients[self.training.graph.logits()].as_ref();
        let start = range.expect("planned").start * self.config.precision.bytes();
        upload(&self.config.device, &self.lane, self.memory.arena.start + start, &bytes)
    }

    /// Values of the arena, converted to f32.
    fn stored(&self, start: usize, numbers: usize) -> Result<Vec<f32>, DeviceError> {
        let (precision, arena) = (self.config.precision, self.memory.arena.start);
        let start = arena + start * precision.bytes();
        let bytes = self.bytes(&(start..start + numbers * precision.bytes()))?;
        Ok(match precision {
            Precision::Bf16 => {
                let halves = bytes.as_chunks::<2>().0.iter();
                halves.map(|h| f32::from_bits(u32::from(u16::from_le_bytes(*h)) << 16)).collect()
            }
            Precision::F16 => {
                let halves = bytes.as_chunks::<2>().0.iter();
                halves.map(|h| f16::from_le_bytes(*h).to_f32()).collect()
            }
            Precision::F32 => floats(&bytes),
        })
    }

    /// Sets the gradient of a parameter.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn set_gradient(&mut self, index: usize, gradient: &[f32]) -> Result<(), DeviceError> {
        let range = self.memory.parameter_ranges[index].clone();
        let mut stored = vec![0.0; range.len()];
        for (i, number) in self.layout(index).zip(gradient) {
            stored[i] = *number;
        }
        let start = self.memory.gradients.start;
        let range = start + range.start * 4..start + range.end * 4;
        upload_f32s(&self.config.device, &self.lane, &range, &stored)
    }

    pub(super) fn to_state(&self) -> Result<TrainState, DeviceError> {
        let m = &self.memory;
        let mut state = TrainState {
            model: self.tensors(&m.parameters, Some(&m.running))?,
            updates: self.updates,
            batches_tracked: self.batches_tracked,
            loss_scaler: self.scaler()?,
            model_ema: if self.has_ema {
                self.tensors(&m.ema, Some(&m.ema_running))?
            } else {
                StateDict::new()
            },
            ..TrainState::default()
        };
        let moments = [&m.exp_avg, &m.exp_avg_sq];
        state.read_optimizer(self.state_kind, |which| self.tensors(moments[which], None))?;
        Ok(state)
    }

    fn tensors(
        &self,
        range: &Range<usize>,
        running: Option<&Range<usize>>,
    ) -> Result<StateDict, DeviceError> {
        let (graph, numbers) = (&self.training.graph, self.get(range)?);
        let parameters = graph.parameters.iter().enumerate();
        let named = parameters.map(|(i, p)| {
            let tensor = Tensor { shape: p.shape.clone(), values: self.read(&numbers, i) };
            (p.name.clone(), tensor)
        });
        let mut tensors: StateDict = named.collect();
        let Some(running) = running else { return Ok(tensors) };
        let numbers = self.get(running)?;
        for (norm, range) in graph.norms.iter().zip(&self.memory.running_ranges) {
            let parts = numbers[range.clone()].chunks_exact(norm.channels);
            for (values, name) in parts.zip(["running_mean", "running_var"]) {
                let tensor = Tensor { shape: vec![norm.channels], values: values.to_vec() };
                tensors.insert(format!("{}.{name}", norm.name), tensor);
            }
        }
        Ok(tensors)
    }

    pub(super) fn load_state(&mut self, state: &TrainState) -> Result<(), String> {
        state.check(&self.training.graph)?;
        let load = || {
            let m = &self.memory;
            self.launcher().clear(&m.gradients)?;
            self.upload_tensors(&state.model, &m.parameters, Some(&m.running))?;
            for (tensors, range) in
                state.optimizer_tensors().into_iter().zip([&m.exp_avg, &m.exp_avg_sq])
            {
                if tensors.is_empty() {
                    self.launcher().clear(range)?;
                } else {
                    self.upload_tensors(tensors, range, None)?;
                }
            }
            if !state.model_ema.is_empty() {
                self.upload_tensors(&state.model_ema, &m.ema, Some(&m.ema_running))?;
            }
            self.launcher().copy_parameters()
        };
        load().map_err(|error| error.to_string())?;
        self.has_ema = !state.model_ema.is_empty();
        self.state_kind = state.state_kind();
        (self.updates, self.batches_tracked) = (state.updates, state.batches_tracked);
        self.load_scaler(state.loss_scaler).map_err(|error| error.to_string())?;
        self.losses.clear();
        self.pending_reports.clear();
        Ok(())
    }

    fn upload_tensors(
        &self,
        tensors: &StateDict,
        range: &Range<usize>,
        running: Option<&Range<usize>>,
    ) -> Result<(), DeviceError> {
        let (graph, m, device) = (&self.training.graph, &self.memory, &self.config.device);
        let mut numbers = vec![0.0; m.parameters_len];
        for (index, (parameter, range)) in
            graph.parameters.iter().zip(&m.parameter_ranges).enumerate()
        {
            let to = &mut numbers[range.clone()];
            for (i, number) in self.layout(index).zip(&tensors[&parameter.name].values) {
                to[i] = *number;
            }
        }
        upload_f32s(device, &self.lane, range, &numbers)?;
        let Some(running) = running else { return Ok(()) };
        let mut numbers = vec![0.0; m.running_len];
        for (norm, range) in graph.norms.iter().zip(&m.running_ranges) {
            let parts = numbers[range.clone()].chunks_exact_mut(norm.channels);
            for (to, name) in parts.zip(["running_mean", "running_var"]) {
                to.copy_from_slice(&tensors[&format!("{}.{name}", norm.name)].values);
            }
        }
        upload_f32s(device, &self.lane, running, &numbers)
    }
}
