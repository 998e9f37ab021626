//! Settings and jobs, as Python passes them: in dictionaries, with None for what keeps its default.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use forebay_client::{Digest, Job, Options, Prefetch, RecipeRef};
use pyo3::prelude::*;

use crate::error::options_error;

/// Settings of a client.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    endpoints: Vec<String>,
    dtype: String,
    layout: String,
    mixed_by: String,
    prefetch_bytes: Option<usize>,
    max_microbatch_bytes: Option<u64>,
    connections: Option<usize>,
    shared_memory: Option<String>,
    resolve_interval: Option<f64>,
    readmit_after: Option<f64>,
    connect_timeout: Option<f64>,
    keepalive_timeout: Option<f64>,
    idle_timeout: Option<f64>,
    microbatch_timeout: Option<f64>,
    give_up_after: Option<f64>,
    initial_backoff: Option<f64>,
    max_backoff: Option<f64>,
    hedge_quantile: Option<f64>,
    hedge_budget: Option<f64>,
    hedge_min_delay: Option<f64>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_name: Option<String>,
    token_file: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// When a name is unknown, or a number of seconds is none.
    pub(crate) fn options(self) -> PyResult<Options> {
        let mut options = Options::new(self.endpoints);
        options.format.dtype = parse("dtype", &self.dtype)?;
        options.format.layout = parse("layout", &self.layout)?;
        options.format.mixed_by = parse("mixed_by", &self.mixed_by)?;
        options.access.tls_ca = self.tls_ca;
        options.access.tls_cert = self.tls_cert;
        options.access.tls_key = self.tls_key;
        options.access.tls_name = self.tls_name;
        options.access.token_file = self.token_file;
        options.prefetch = self.prefetch_bytes.map_or(Prefetch::Auto, Prefetch::Bytes);
        set(&mut options.max_microbatch_bytes, self.max_microbatch_bytes);
        set(&mut options.connections, self.connections);
        let shared_memory = self.shared_memory.map(|mode| parse("shared_memory", &mode));
        set(&mut options.shared_memory, shared_memory.transpose()?);
        set(&mut options.hedge.quantile, self.hedge_quantile);
        set(&mut options.hedge.budget, self.hedge_budget);
        let (timeouts, retry) = (&mut options.timeouts, &mut options.retry);
        for (name, setting, given) in [
            ("resolve_interval", &mut options.resolve_interval, self.resolve_interval),
            ("readmit_after", &mut options.readmit_after, self.readmit_after),
            ("connect_timeout", &mut timeouts.connect, self.connect_timeout),
            ("keepalive_timeout", &mut timeouts.keepalive, self.keepalive_timeout),
            ("idle_timeout", &mut timeouts.idle, self.idle_timeout),
            ("microbatch_timeout", &mut timeouts.microbatch, self.microbatch_timeout),
            ("give_up_after", &mut retry.give_up_after, self.give_up_after),
            ("initial_backoff", &mut retry.initial_backoff, self.initial_backoff),
            ("max_backoff", &mut retry.max_backoff, self.max_backoff),
            ("hedge_min_delay", &mut options.hedge.min_delay, self.hedge_min_delay),
        ] {
            set(setting, given.map(|seconds| duration(name, seconds)).transpose()?);
        }
        Ok(options)
    }
}

fn set<T>(setting: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *setting = given;
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> PyResult<T> {
    text.parse().map_err(|error| options_error(format!("{name}: {error}")))
}

/// A hundred years: as long as a setting of the commands may be.
const MAX_SECONDS: f64 = 3_153_600_000.0;

fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(options_error(format!(
        "invalid {name} {seconds}: expected a number of seconds, from 0 to {MAX_SECONDS}"
    )))
}

/// A job.
#[derive(Debug, FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct JobSettings {
    dataset: String,
    recipe: String,
    set: Vec<String>,
    seed: u64,
    dataset_digest: Option<String>,
    recipe_digest: Option<String>,
}

impl JobSettings {
    /// # Errors
    /// When the file of the recipe cannot be read, or a digest is none.
    pub(crate) fn job(self) -> PyResult<Job> {
        let recipe = RecipeRef::from_name_or_path(&self.recipe);
        let recipe = recipe.map_err(|error| options_error(error.to_string()))?;
        let digest = |name, text: Option<String>| -> PyResult<Option<Digest>> {
            text.map(|text| parse(name, &text)).transpose()
        };
        Ok(Job {
            recipe,
            set: self.set,
            seed: self.seed,
            dataset_digest: digest("dataset_digest", self.dataset_digest)?,
            recipe_digest: digest("recipe_digest", self.recipe_digest)?,
            ..Job::new(self.dataset, "")
        })
    }
}
