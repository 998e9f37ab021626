//! Requests, checked once: what comes out of here can be served.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use forebay::Error;
use forebay_proto::header;
use forebay_proto::v1::{
    self, DType, DescribeResponse, ExplainRequest, FetchRequest, Layout, MixedBy, StreamRequest,
};

use crate::limits::Limits;
use crate::source::{Job, Name, Output, Source};
use crate::status::Refusal;

/// The most microbatches made ahead for one stream, however small they are.
const AHEAD_MOST: usize = 1024;

/// What a call of Stream or Fetch is to send.
pub(crate) struct Run {
    pub(crate) job: Arc<dyn Job>,
    pub(crate) output: Output,
    pub(crate) names: Names,
    /// One microbatch is wanted, and not the others of its step.
    pub(crate) alone: bool,
    /// Microbatches made ahead, at least 1.
    pub(crate) ahead: usize,
    /// Bytes of a microbatch.
    pub(crate) bytes: u64,
}

impl Run {
    /// What tells jobs apart: dataset, recipe and seed.
    pub(crate) fn job_name(&self) -> String {
        let (facts, seed) = (self.job.facts(), self.names.seed);
        format!("{:x} {:x} {seed}", facts.dataset_digest, facts.recipe_digest)
    }
}

/// Opens a job, if it is what the client expects.
pub(crate) fn job(source: &dyn Source, job: Option<&v1::Job>) -> Result<Arc<dyn Job>, Refusal> {
    let wanted = job.ok_or_else(|| Refusal::invalid("job", "is missing"))?;
    let job = source.open(wanted)?;
    let facts = job.facts();
    expect("dataset", "job.dataset_digest", &wanted.dataset_digest, &facts.dataset_digest, || {
        format!("{} records of {} classes", facts.records, facts.classes.len())
    })?;
    expect("recipe", "job.recipe_digest", &wanted.recipe_digest, &facts.recipe_digest, || {
        facts.recipe_toml.clone()
    })?;
    Ok(job)
}

/// Compares the digest that a client expects, if it does.
fn expect(
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
        length => Err(Refusal::invalid(field, format!("has {length} bytes, a digest has 32"))),
    }
}

/// A stream of which at most so many bytes are made ahead.
pub(crate) fn stream(
    source: &dyn Source,
    limits: &Limits,
    ahead_bytes: u64,
    request: &StreamRequest,
) -> Result<Run, Refusal> {
    let job = job(source, request.job.as_ref())?;
    let output = output(request.dtype, request.layout, request.mixed_by)?;
    if !(1..=limits.steps).contains(&request.steps) {
        let what = format!("{} is not in 1 to {}", request.steps, limits.steps);
        return Err(Refusal::invalid("steps", what));
    }
    let indices = selection(job.facts(), limits, &request.microbatches)?;
    step_in_range(job.facts(), request.step)?;
    // Where an epoch is one short step it may have none of the selection: names would go on forever.
    let least = indices.iter().copied().min().unwrap_or(0);
    in_range("microbatch", least.into(), job.microbatches(0).into())?;
    let there = microbatches_of(&*job, request.step, &indices);
    if request.skip > 0 && request.skip as usize >= there {
        let what = format!("{} leaves none of the {there} of step {}", request.skip, request.step);
        return Err(Refusal::invalid("skip", what));
    }
    let epochs = request.steps / job.facts().steps_per_epoch + 1;
    if request.epoch.checked_add(epochs).is_none() {
        return Err(Refusal::invalid("epoch", format!("{} is too large", request.epoch)));
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
    let credit = if request.credit_bytes == 0 { ahead_bytes } else { request.credit_bytes };
    let bytes = bytes(job.facts(), output);
    let ahead = ahead(bytes, credit.min(ahead_bytes));
    Ok(Run { job, output, names, alone: false, ahead, bytes })
}

pub(crate) fn fetch(source: &dyn Source, request: &FetchRequest) -> Result<Run, Refusal> {
    let job = job(source, request.job.as_ref())?;
    let output = output(request.dtype, request.layout, request.mixed_by)?;
    microbatch_in_range(&*job, request.step, request.microbatch)?;
    let names = Names {
        job: Arc::clone(&job),
        seed: request.job.as_ref().map_or(0, |job| job.seed),
        epoch: request.epoch,
        step: request.step,
        steps: 1,
        indices: vec![request.microbatch],
        at: 0,
    };
    let bytes = bytes(job.facts(), output);
    Ok(Run { job, output, names, alone: true, ahead: 1, bytes })
}

pub(crate) fn explain(
    source: &dyn Source,
    request: &ExplainRequest,
) -> Result<(Arc<dyn Job>, Name), Refusal> {
    let job = job(source, request.job.as_ref())?;
    microbatch_in_range(&*job, request.step, request.microbatch)?;
    let seed = request.job.as_ref().map_or(0, |job| job.seed);
    let name = Name { seed, epoch: request.epoch, step: request.step, index: request.microbatch };
    Ok((job, name))
}

fn output(dtype: i32, layout: i32, mixed_by: i32) -> Result<Output, Refusal> {
    let unknown =
        |field, got: i32| Refusal::invalid(field, format!("{got} is none that this server knows"));
    let dtype = match DType::try_from(dtype) {
        Ok(DType::DtypeUnspecified) => DType::DtypeU8,
        Ok(known) => known,
        Err(_) => return Err(unknown("dtype", dtype)),
    };
    let layout = match Layout::try_from(layout) {
        Ok(Layout::Unspecified) => Layout::Nhwc,
        Ok(known) => known,
        Err(_) => return Err(unknown("layout", layout)),
    };
    let mixed = match MixedBy::try_from(mixed_by) {
        Ok(MixedBy::Unspecified | MixedBy::Server) => true,
        Ok(MixedBy::Trainer) => false,
        Err(_) => return Err(unknown("mixed_by", mixed_by)),
    };
    Ok(Output { dtype, layout, mixed })
}

/// The microbatches of a step that are wanted, in the order wanted.
fn selection(
    facts: &DescribeResponse,
    limits: &Limits,
    wanted: &[u32],
) -> Result<Vec<u32>, Refusal> {
    if wanted.is_empty() {
        return Ok((0..facts.microbatches).collect());
    }
    if wanted.len() > limits.microbatches {
        let what = format!("lists {}, at most {} are taken", wanted.len(), limits.microbatches);
        return Err(Refusal::invalid("microbatches", what));
    }
    let mut seen = BTreeSet::new();
    for &index in wanted {
        in_range("microbatch", index.into(), facts.microbatches.into())?;
        if !seen.insert(index) {
            return Err(Refusal::invalid("microbatches", format!("lists {index} twice")));
        }
    }
    Ok(wanted.to_vec())
}

/// How many of a selection a step has.
fn microbatches_of(job: &dyn Job, step: u64, indices: &[u32]) -> usize {
    let microbatches = job.microbatches(step);
    indices.iter().filter(|index| **index < microbatches).count()
}

fn step_in_range(facts: &DescribeResponse, step: u64) -> Result<(), Refusal> {
    in_range("step", step, facts.steps_per_epoch)
}

fn microbatch_in_range(job: &dyn Job, step: u64, index: u32) -> Result<(), Refusal> {
    step_in_range(job.facts(), step)?;
    in_range("microbatch", index.into(), job.microbatches(step).into())
}

fn in_range(what: &'static str, got: u64, limit: u64) -> Result<(), Refusal> {
    if got < limit { Ok(()) } else { Err(Error::OutOfRange { what, got, limit }.into()) }
}

/// Bytes of a microbatch.
fn bytes(facts: &DescribeResponse, output: Output) -> u64 {
    let samples = facts.batch.div_ceil(facts.microbatches.max(1));
    let side = u64::from(facts.image_size);
    let value = header::dtype_bytes(output.dtype).expect("an output's dtype is specified");
    u64::from(samples).saturating_mul(side * side).saturating_mul(3 * value).max(1)
}

/// How many microbatches of so many bytes may be made and not yet sent.
fn ahead(bytes: u64, credit: u64) -> usize {
    usize::try_from(credit / bytes).map_or(AHEAD_MOST, |ahead| ahead.clamp(1, AHEAD_MOST))
}

/// The names that a call asks for, in order.
pub(crate) struct Names {
    job: Arc<dyn Job>,
    seed: u64,
    epoch: u64,
    step: u64,
    /// Steps left, with the current one.
    steps: u64,
    indices: Vec<u32>,
    /// Which of `indices` is next.
    at: usize,
}

impl Iterator for Names {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        while self.steps > 0 {
            let microbatches = self.job.microbatches(self.step);
            while let Some(&index) = self.indices.get(self.at) {
                self.at += 1;
                if index < microbatches {
                    return Some(Name {
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
