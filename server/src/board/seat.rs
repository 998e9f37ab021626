//! One stream: what it reads, how far it is, who waits for whom.

use std::net::SocketAddr;
use std::ops::Add;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_proto::v1::Job;

use super::lock;
use crate::source::{Name, Source};

/// Who asked for what.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) identity: Arc<str>,
    pub(crate) address: SocketAddr,
    pub(crate) dataset: String,
    /// A name of the server's, or `custom`: metrics have it as a label, so clients cannot make more.
    pub(crate) recipe: String,
}

impl Asked {
    /// A job that the source has opened; a recipe's name without a TOML text is thus one it knows.
    pub(crate) fn new(
        method: &'static str,
        identity: &Arc<str>,
        address: SocketAddr,
        source: &dyn Source,
        job: Option<&Job>,
    ) -> Self {
        let named = job.map(|job| job.dataset.clone()).filter(|name| !name.is_empty());
        let recipe =
            job.and_then(|job| job.recipe.as_ref()).filter(|recipe| recipe.toml.is_empty());
        Self {
            method,
            identity: Arc::clone(identity),
            address,
            dataset: named.or_else(|| source.datasets().into_iter().next()).unwrap_or_default(),
            recipe: recipe.map_or_else(|| "custom".into(), |recipe| recipe.name.clone()),
        }
    }
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The reader has taken all there is, and waits for a microbatch to be made.
    Reader,
    /// The server has a microbatch and waits for the reader, or the network, to take it.
    Server,
}

/// How long each side waited for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) reader: Duration,
    pub(crate) server: Duration,
}

impl Add for Waits {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { reader: self.reader + other.reader, server: self.server + other.server }
    }
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) asked: Asked,
    pub(crate) since: Instant,
    progress: Mutex<Progress>,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) at: Option<Name>,
    pub(crate) microbatches: u64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    pub(crate) side: Side,
    /// Since when that side waits.
    since: Instant,
    waits: Waits,
}

impl Progress {
    /// With the wait that goes on.
    pub(crate) fn waits(&self) -> Waits {
        let going_on = self.since.elapsed();
        match self.side {
            Side::Reader => Waits { reader: self.waits.reader + going_on, ..self.waits },
            Side::Server => Waits { server: self.waits.server + going_on, ..self.waits },
        }
    }
}

impl Seat {
    pub(super) fn new(asked: Asked) -> Self {
        let since = Instant::now();
        let progress = Progress {
            at: None,
            microbatches: 0,
            samples: 0,
            bytes: 0,
            side: Side::Reader,
            since,
            waits: Waits::default(),
        };
        Self { asked, since, progress: Mutex::new(progress) }
    }

    pub(super) fn turn(&self, side: Side) {
        let mut progress = lock(&self.progress);
        progress.waits = progress.waits();
        progress.since = Instant::now();
        progress.side = side;
    }

    pub(super) fn sent(&self, samples: usize, bytes: usize, at: Name) {
        let mut progress = lock(&self.progress);
        progress.at = Some(at);
        progress.microbatches += 1;
        progress.samples += samples as u64;
        progress.bytes += bytes as u64;
    }

    pub(crate) fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    /// What counts for who waits for whom: not the call for a single microbatch, which always waits.
    pub(super) fn waits(&self) -> Waits {
        if self.asked.method == "Stream" { self.progress().waits() } else { Waits::default() }
    }
}
