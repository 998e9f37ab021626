//! The backend's numbers by timm's names and in timm's layout, to the GPU and back.

use std::ops::Range;

use forebay::gpu::{DeviceError, Gpu, Lane, Pinned};

use super::{Cuda, Number, Pass};
use crate::backend::{Array, State, Tensors};
use crate::model::{Parameter, Tensor};

/// Copies bytes to the lane's memory.
pub(super) fn put(device: &Gpu, lane: &Lane, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
    let mut host = device.pinned(bytes.len())?;
    host.copy_from_slice(bytes);
    lane.upload(&mut host, 0..bytes.len(), at)?;
    host.wait()
}

fn put_floats(
    device: &Gpu,
    lane: &Lane,
    part: &Range<usize>,
    floats: &[f32],
) -> Result<(), DeviceError> {
    let bytes: Vec<u8> = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
    put(device, lane, part.start, &bytes)
}

/// Place of each number of a parameter in its stored form: convolutions are stored with their inputs last.
fn places(parameter: &Parameter) -> impl Iterator<Item = usize> + '_ {
    let numbers: usize = parameter.shape.iter().product();
    let (inputs, taps) = match parameter.shape[..] {
        [_, inputs, height, width] => (inputs, height * width),
        _ => (1, 1),
    };
    (0..numbers).map(move |i| {
        let (output, input, tap) = (i / (inputs * taps), i / taps % inputs, i % taps);
        (output * taps + tap) * inputs + input
    })
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// To bf16, to the nearest, ties to even.
pub fn bf16(float: f32) -> u16 {
    let bits = float.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    #[expect(clippy::cast_possible_truncation, reason = "the upper half")]
    let upper = if float.is_nan() { (bits >> 16) | 0x40 } else { rounded >> 16 } as u16;
    upper
}

impl Cuda {
    fn bytes(&self, part: &Range<usize>) -> Result<Pinned, DeviceError> {
        let mut host = self.setting.device.pinned(part.len())?;
        self.lane.download(part.start, &mut host, 0..part.len())?;
        host.wait()?;
        Ok(host)
    }

    fn get(&self, part: &Range<usize>) -> Result<Vec<f32>, DeviceError> {
        Ok(floats(&self.bytes(part)?))
    }

    fn read(&self, numbers: &[f32], index: usize) -> Vec<f32> {
        let stored = &numbers[self.layout.places[index].clone()];
        places(&self.training.graph.parameters[index]).map(|i| stored[i]).collect()
    }

    /// A parameter's numbers in timm's layout.
    pub fn parameter(&self, index: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.read(&self.get(&self.layout.parameters)?, index))
    }

    /// Its gradient.
    pub fn gradient(&self, index: usize) -> Result<Vec<f32>, DeviceError> {
        Ok(self.read(&self.get(&self.layout.gradients)?, index))
    }

    /// The running means, then variances, of a norm.
    pub fn running(&self, norm: usize) -> Result<Vec<f32>, DeviceError> {
        let running = self.get(&self.layout.running)?;
        Ok(running[self.layout.running_places[norm].clone()].to_vec())
    }

    /// The logits of the last forward pass.
    pub fn last_logits(&mut self, samples: usize) -> Result<&[f32], DeviceError> {
        self.download_logits(samples)?;
        Ok(&self.logits)
    }

    pub(super) fn download_logits(&mut self, samples: usize) -> Result<(), DeviceError> {
        let bytes = samples * self.training.graph.classes * 4;
        self.lane.download(self.layout.logits.start, &mut self.host_logits, 0..bytes)?;
        self.host_logits.wait()?;
        let words = self.host_logits[..bytes].as_chunks::<4>().0.iter();
        self.logits.clear();
        self.logits.extend(words.map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }

    /// Sets the logits, which are f32.
    pub fn set_logits(&mut self, logits: &[f32]) -> Result<(), DeviceError> {
        put_floats(&self.setting.device, &self.lane, &self.layout.logits, logits)
    }

    /// What a tensor holds, between its first use and its last.
    pub fn values(&self, tensor: Tensor, pass: Pass) -> Result<Vec<f32>, DeviceError> {
        let plan = self.plan(pass.train);
        let numbers = plan.graph.tensors[tensor].numbers() * pass.samples;
        if tensor == plan.graph.logits() {
            let start = self.layout.logits.start;
            return self.get(&(start..start + numbers * 4));
        }
        self.stored(plan.values[tensor].start, numbers)
    }

    /// A tensor's gradient, between its first use and its last.
    pub fn slopes(&self, tensor: Tensor, samples: usize) -> Result<Vec<f32>, DeviceError> {
        let place = self.training.gradients[tensor].as_ref().expect("planned");
        self.stored(place.start, self.training.graph.tensors[tensor].numbers() * samples)
    }

    /// What a norm keeps for its way back: mean, 1 / deviation, factor and shift of each channel.
    pub fn saved(&self, norm: usize) -> Result<Vec<f32>, DeviceError> {
        let place = &self.layout.running_places[norm];
        let start = self.layout.saved.start;
        self.get(&(start + 8 * place.start..start + 8 * place.end))
    }

    /// Sets the gradient of the logits.
    pub fn set_logits_gradient(&mut self, slope: &[f32]) -> Result<(), DeviceError> {
        let bytes: Vec<u8> = match self.setting.number {
            Number::Bf16 => slope.iter().flat_map(|&s| bf16(s).to_le_bytes()).collect(),
            Number::F32 => slope.iter().flat_map(|s| s.to_le_bytes()).collect(),
        };
        let place = self.training.gradients[self.training.graph.logits()].as_ref();
        let start = place.expect("planned").start * self.setting.number.bytes();
        put(&self.setting.device, &self.lane, self.layout.arena.start + start, &bytes)
    }

    /// Numbers of the arena.
    fn stored(&self, start: usize, numbers: usize) -> Result<Vec<f32>, DeviceError> {
        let (number, arena) = (self.setting.number, self.layout.arena.start);
        let start = arena + start * number.bytes();
        let bytes = self.bytes(&(start..start + numbers * number.bytes()))?;
        Ok(match number {
            Number::Bf16 => {
                let halves = bytes.as_chunks::<2>().0.iter();
                halves.map(|h| f32::from_bits(u32::from(u16::from_le_bytes(*h)) << 16)).collect()
            }
            Number::F32 => floats(&bytes),
        })
    }

    /// Sets a parameter's gradient.
    pub fn set_gradient(&mut self, index: usize, gradient: &[f32]) -> Result<(), DeviceError> {
        let place = self.layout.places[index].clone();
        let mut stored = vec![0.0; place.len()];
        for (i, number) in places(&self.training.graph.parameters[index]).zip(gradient) {
            stored[i] = *number;
        }
        let start = self.layout.gradients.start;
        let part = start + place.start * 4..start + place.end * 4;
        put_floats(&self.setting.device, &self.lane, &part, &stored)
    }

    pub(super) fn to_state(&self) -> Result<State, DeviceError> {
        let l = &self.layout;
        let moments = |part: &Range<usize>| {
            if self.updates > 0 { self.tensors(part, None) } else { Ok(Tensors::new()) }
        };
        Ok(State {
            model: self.tensors(&l.parameters, Some(&l.running))?,
            updates: self.updates,
            passes: self.passes,
            means: moments(&l.means)?,
            squares: moments(&l.squares)?,
            average: if self.averaged {
                self.tensors(&l.average, Some(&l.average_running))?
            } else {
                Tensors::new()
            },
        })
    }

    fn tensors(
        &self,
        part: &Range<usize>,
        running: Option<&Range<usize>>,
    ) -> Result<Tensors, DeviceError> {
        let (graph, numbers) = (&self.training.graph, self.get(part)?);
        let parameters = graph.parameters.iter().enumerate();
        let named = parameters.map(|(i, p)| {
            let array = Array { shape: p.shape.clone(), values: self.read(&numbers, i) };
            (p.name.clone(), array)
        });
        let mut tensors: Tensors = named.collect();
        let Some(running) = running else { return Ok(tensors) };
        let numbers = self.get(running)?;
        for (norm, place) in graph.norms.iter().zip(&self.layout.running_places) {
            let parts = numbers[place.clone()].chunks_exact(norm.channels);
            for (values, name) in parts.zip(["running_mean", "running_var"]) {
                let array = Array { shape: vec![norm.channels], values: values.to_vec() };
                tensors.insert(format!("{}.{name}", norm.name), array);
            }
        }
        Ok(tensors)
    }

    pub(super) fn take_state(&mut self, state: &State) -> Result<(), String> {
        state.check(&self.training.graph)?;
        let put = || {
            let l = &self.layout;
            self.launch().clear(&l.gradients)?;
            self.upload(&state.model, &l.parameters, Some(&l.running))?;
            for (tensors, part) in [(&state.means, &l.means), (&state.squares, &l.squares)] {
                if tensors.is_empty() {
                    self.launch().clear(part)?;
                } else {
                    self.upload(tensors, part, None)?;
                }
            }
            if !state.average.is_empty() {
                self.upload(&state.average, &l.average, Some(&l.average_running))?;
            }
            self.launch().copy_parameters()
        };
        put().map_err(|error| error.to_string())?;
        self.averaged = !state.average.is_empty();
        (self.updates, self.passes) = (state.updates, state.passes);
        self.losses.clear();
        self.untold.clear();
        Ok(())
    }

    fn upload(
        &self,
        tensors: &Tensors,
        part: &Range<usize>,
        running: Option<&Range<usize>>,
    ) -> Result<(), DeviceError> {
        let (graph, l, device) = (&self.training.graph, &self.layout, &self.setting.device);
        let mut numbers = vec![0.0; l.numbers];
        for (parameter, place) in graph.parameters.iter().zip(&l.places) {
            let to = &mut numbers[place.clone()];
            for (i, number) in places(parameter).zip(&tensors[&parameter.name].values) {
                to[i] = *number;
            }
        }
        put_floats(device, &self.lane, part, &numbers)?;
        let Some(running) = running else { return Ok(()) };
        let mut numbers = vec![0.0; l.running_numbers];
        for (norm, place) in graph.norms.iter().zip(&l.running_places) {
            let parts = numbers[place.clone()].chunks_exact_mut(norm.channels);
            for (to, name) in parts.zip(["running_mean", "running_var"]) {
                to.copy_from_slice(&tensors[&format!("{}.{name}", norm.name)].values);
            }
        }
        put_floats(device, &self.lane, running, &numbers)
    }
}
