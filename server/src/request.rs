//! Validation of requests: a [`StreamSpec`] can be served without further checks.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use forebay::Error;
use forebay_proto::v1::{
    self, DescribeRequest, DescribeResponse, ExplainRequest, FetchRequest, Layout, MixedBy,
    StreamRequest,
};

use crate::admission::{Limits, StreamLimits};
use crate::source::{MicrobatchName, OpenJob, PixelFormat, Source};
use crate::status::Refusal;

/// Largest window of a stream in microbatches, however small they are.
const MAX_WINDOW: usize = 1024;

/// The microbatches that a call of Stream or Fetch sends.
pub(crate) struct StreamSpec {
    pub(crate) job: Arc<dyn OpenJob>,
    pub(crate) format: PixelFormat,
    pub(crate) names: Names,
    /// The call wants one microbatch and not the others of its step, so that computing their repeats
    /// in advance would be wasted.
    pub(crate) isolated: bool,
    /// Largest window of the stream in microbatches, at least 1.
    pub(crate) max_window: usize,
    pub(crate) microbatch_bytes: u64,
    /// Where the client can lease the microbatches.
    pub(crate) leases: Option<v1::LeaseOptions>,
}

impl StreamSpec {
    /// Dataset, recipe and seed, which distinguish jobs.
    pub(crate) fn job_name(&self) -> String {
        let (facts, seed) = (self.job.facts(), self.names.seed);
        format!("{:x} {:x} {seed}", facts.dataset_digest, facts.recipe_digest)
    }
}

/// Opens a job and compares it with what the client expects.
///
/// # Errors
/// When the job is missing or cannot be opened, or a digest is not the expected one.
pub(crate) fn job(source: &dyn Source, job: Option<&v1::Job>) -> Result<Arc<dyn OpenJob>, Refusal> {
    let requested =
        job.ok_or_else(|| Refusal::invalid("job", "missing (expected a dataset and a recipe)"))?;
    let job = source.open(requested)?;
    let facts = job.facts();
    let (dataset, recipe) = (&requested.dataset_digest, &requested.recipe_digest);
    check_digest("dataset", "job.dataset_digest", dataset, &facts.dataset_digest, || {
        format!("{} records of {} classes", facts.records, job.classes().len())
    })?;
    check_digest("recipe", "job.recipe_digest", recipe, &facts.recipe_digest, || {
        facts.recipe_toml.clone()
    })?;
    Ok(job)
}

/// Compares a digest with the one that the client expects, if it expects one.
fn check_digest(
    what: &'static str,
    field: &'static str,
    expected: &Bytes,
    found: &Bytes,
    form: impl Fn() -> String,
) -> Result<(), Refusal> {
    match expected.len() {
        0 => Ok(()),
        32 if expected == found => Ok(()),
        32 => Err(Refusal::Mismatch {
            what,
            expected: format!("{expected:x}"),
            found: format!("{found:x}"),
            form: form(),
        }),
        length => Err(Refusal::invalid(field, format!("{length} bytes (expected 0 or 32)"))),
    }
}

/// Validates a call of Stream.
///
/// # Errors
/// When the job is refused, or a field is invalid or out of range.
pub(crate) fn stream(
    source: &dyn Source,
    limits: &Limits,
    stream_limits: StreamLimits,
    request: &StreamRequest,
) -> Result<StreamSpec, Refusal> {
    let job = job(source, request.job.as_ref())?;
    let format = pixel_format(request.dtype, request.layout, request.mixed_by)?;
    if !(1..=limits.max_steps).contains(&request.steps) {
        let what = format!("{} (expected 1 to {})", request.steps, limits.max_steps);
        return Err(Refusal::invalid("steps", what));
    }
    let indices = selection(job.facts(), limits, &request.microbatches)?;
    step_in_range(job.facts(), request.step)?;
    job.check(format)?;
    // If an epoch is one short step that has none of the selection, `Names` would never return.
    let smallest = indices.iter().copied().min().unwrap_or(0);
    in_range("microbatch", smallest.into(), job.microbatches(0).into())?;
    let selected = count_selected(&*job, request.step, &indices);
    if request.skip > 0 && request.skip as usize >= selected {
        let (skip, step) = (request.skip, request.step);
        let what = format!(
            "{skip} (step {step} has {selected} of the selected microbatches, and at least one must be left)"
        );
        return Err(Refusal::invalid("skip", what));
    }
    let epochs = request.steps / job.facts().steps_per_epoch + 1;
    if request.epoch.checked_add(epochs).is_none() {
        return Err(Refusal::invalid(
            "epoch",
            format!("{} (expected at most {})", request.epoch, u64::MAX - epochs),
        ));
    }
    let mut names = Names {
        job: Arc::clone(&job),
        seed: request.job.as_ref().map_or(0, |job| job.seed),
        epoch: request.epoch,
        step: request.step,
        steps: request.steps,
        indices,
        at: 0,
    };
    names.by_ref().take(request.skip as usize).for_each(drop);
    let window_bytes = match request.window_bytes {
        0 => stream_limits.window_bytes,
        requested => requested.min(stream_limits.window_bytes),
    };
    let microbatch_bytes = microbatch_bytes(job.facts(), format);
    let max_window = usize::try_from(window_bytes / microbatch_bytes).unwrap_or(MAX_WINDOW);
    let max_window = max_window.clamp(1, MAX_WINDOW);
    let leases = request.leases.clone();
    Ok(StreamSpec { job, format, names, isolated: false, max_window, microbatch_bytes, leases })
}

/// Validates a call of Fetch.
///
/// # Errors
/// When the job is refused, or a field is invalid or out of range.
pub(crate) fn fetch(source: &dyn Source, request: &FetchRequest) -> Result<StreamSpec, Refusal> {
    let job = job(source, request.job.as_ref())?;
    let format = pixel_format(request.dtype, request.layout, request.mixed_by)?;
    microbatch_in_range(&*job, request.step, request.microbatch)?;
    job.check(format)?;
    let names = Names {
        job: Arc::clone(&job),
        seed: request.job.as_ref().map_or(0, |job| job.seed),
        epoch: request.epoch,
        step: request.step,
        steps: 1,
        indices: vec![request.microbatch],
        at: 0,
    };
    let microbatch_bytes = microbatch_bytes(job.facts(), format);
    let leases = request.leases.clone();
    Ok(StreamSpec { job, format, names, isolated: true, max_window: 1, microbatch_bytes, leases })
}

/// Validates a call of Describe: the first class that it wants.
///
/// # Errors
/// When there is no such class.
pub(crate) fn first_class(job: &dyn OpenJob, request: &DescribeRequest) -> Result<usize, Refusal> {
    let classes = job.classes().len() as u64;
    in_range("class", request.first_class, classes.max(1))?;
    Ok(usize::try_from(request.first_class).unwrap_or_default())
}

/// Validates a call of Explain.
///
/// # Errors
/// When the job is refused, or the name is out of range.
pub(crate) fn explain(
    source: &dyn Source,
    request: &ExplainRequest,
) -> Result<(Arc<dyn OpenJob>, MicrobatchName), Refusal> {
    let job = job(source, request.job.as_ref())?;
    microbatch_in_range(&*job, request.step, request.microbatch)?;
    let seed = request.job.as_ref().map_or(0, |job| job.seed);
    let (epoch, step, index) = (request.epoch, request.step, request.microbatch);
    Ok((job, MicrobatchName { seed, epoch, step, index }))
}

/// The pixel format of a request; unspecified fields have the defaults.
fn pixel_format(dtype: i32, layout: i32, mixed_by: i32) -> Result<PixelFormat, Refusal> {
    let unknown = |field, value: i32| {
        move |_| Refusal::invalid(field, format!("{value} (expected a value of the .proto's enum)"))
    };
    let wire_dtype = v1::DType::try_from(dtype).map_err(unknown("dtype", dtype))?;
    let wire_layout = Layout::try_from(layout).map_err(unknown("layout", layout))?;
    let wire_mixed_by = MixedBy::try_from(mixed_by).map_err(unknown("mixed_by", mixed_by))?;
    Ok(PixelFormat {
        dtype: wire_dtype.specified().unwrap_or_default(),
        layout: wire_layout.specified().unwrap_or_default(),
        mixed_by: wire_mixed_by.specified().unwrap_or_default(),
    })
}

/// The requested microbatches of each step, in the requested order.
fn selection(
    facts: &DescribeResponse,
    limits: &Limits,
    requested: &[u32],
) -> Result<Vec<u32>, Refusal> {
    if requested.is_empty() {
        return Ok((0..facts.microbatches).collect());
    }
    if requested.len() > limits.max_selection {
        let what = format!("{} entries (at most {})", requested.len(), limits.max_selection);
        return Err(Refusal::invalid("microbatches", what));
    }
    let mut seen = BTreeSet::new();
    for &index in requested {
        in_range("microbatch", index.into(), facts.microbatches.into())?;
        if !seen.insert(index) {
            return Err(Refusal::invalid(
                "microbatches",
                format!("{index} is listed twice (expected once)"),
            ));
        }
    }
    Ok(requested.to_vec())
}

/// The number of a selection's microbatches that a step has.
fn count_selected(job: &dyn OpenJob, step: u64, indices: &[u32]) -> usize {
    let microbatches = job.microbatches(step);
    indices.iter().filter(|index| **index < microbatches).count()
}

fn step_in_range(facts: &DescribeResponse, step: u64) -> Result<(), Refusal> {
    in_range("step", step, facts.steps_per_epoch)
}

fn microbatch_in_range(job: &dyn OpenJob, step: u64, index: u32) -> Result<(), Refusal> {
    step_in_range(job.facts(), step)?;
    in_range("microbatch", index.into(), job.microbatches(step).into())
}

fn in_range(what: &'static str, got: u64, limit: u64) -> Result<(), Refusal> {
    if got < limit { Ok(()) } else { Err(Error::OutOfRange { what, got, limit }.into()) }
}

/// Bytes of a largest microbatch, at least 1.
fn microbatch_bytes(facts: &DescribeResponse, format: PixelFormat) -> u64 {
    let samples = u64::from(facts.batch).min(facts.samples_per_epoch);
    let samples = samples.div_ceil(facts.microbatches.max(1).into());
    let sides = facts.image_sizes.iter().map(|from| from.image_size);
    let side = u64::from(sides.fold(facts.image_size, u32::max));
    let pixel = 3 * format.dtype.bytes() as u64;
    let payload = samples.saturating_mul(side * side).saturating_mul(pixel);
    forebay::microbatch_bytes(samples, payload).max(1)
}

/// The names that a call requests, in order.
pub(crate) struct Names {
    job: Arc<dyn OpenJob>,
    seed: u64,
    epoch: u64,
    step: u64,
    /// Steps left, including the current one.
    steps: u64,
    indices: Vec<u32>,
    /// Position of the next one in `indices`.
    at: usize,
}

impl Iterator for Names {
    type Item = MicrobatchName;

    fn next(&mut self) -> Option<MicrobatchName> {
        while self.steps > 0 {
            let microbatches = self.job.microbatches(self.step);
            while let Some(&index) = self.indices.get(self.at) {
                self.at += 1;
                if index < microbatches {
                    return Some(MicrobatchName {
                        seed: self.seed,
                        epoch: self.epoch,
                        step: self.step,
                        index,
                    });
                }
            }
            self.at = 0;
            self.steps -= 1;
            self.step += 1;
            if self.step >= self.job.facts().steps_per_epoch {
                self.step = 0;
                self.epoch += 1;
            }
        }
        None
    }
}
