//! One stream: its request, its progress, and which side waits for the other.

use std::ops::Add;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_proto::v1;

use super::lock::lock;
use crate::address::PeerAddress;
use crate::source::{MicrobatchName, Source};

/// The request of a stream: who sent it, and for which job.
#[derive(Debug)]
pub(crate) struct StreamRequestInfo {
    pub(crate) method: &'static str,
    pub(crate) identity: Arc<str>,
    pub(crate) peer: PeerAddress,
    pub(crate) dataset: String,
    /// A name that the server knows, or `custom`. It is a label of metrics, so clients must not be able
    /// to create more of them.
    pub(crate) recipe: String,
}

impl StreamRequestInfo {
    /// Describes a job that the source has opened: its recipe, unless given as TOML, has a known name.
    pub(crate) fn new(
        method: &'static str,
        identity: &Arc<str>,
        peer: PeerAddress,
        source: &dyn Source,
        job: Option<&v1::Job>,
    ) -> Self {
        let named = job.map(|job| job.dataset.clone()).filter(|name| !name.is_empty());
        let recipe =
            job.and_then(|job| job.recipe.as_ref()).filter(|recipe| recipe.toml.is_empty());
        Self {
            method,
            identity: Arc::clone(identity),
            peer,
            dataset: named.or_else(|| source.datasets().into_iter().next()).unwrap_or_default(),
            recipe: recipe.map_or_else(|| "custom".into(), |recipe| recipe.name.clone()),
        }
    }
}

/// The side of a stream that waits for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitingSide {
    /// The reader has taken everything and waits for a microbatch to be computed.
    Reader,
    /// The server has a microbatch and waits for the reader, or the network, to take it.
    Server,
}

impl WaitingSide {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Server => "server",
        }
    }
}

/// Time that each side has waited for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitTimes {
    pub(crate) reader: Duration,
    pub(crate) server: Duration,
}

impl Add for WaitTimes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { reader: self.reader + other.reader, server: self.server + other.server }
    }
}

/// The statistics of an open stream.
#[derive(Debug)]
pub(super) struct StreamStats {
    pub(super) info: StreamRequestInfo,
    pub(super) opened: Instant,
    progress: Mutex<Progress>,
}

/// The progress of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The microbatch that was sent last.
    pub(super) last: Option<MicrobatchName>,
    pub(super) microbatches: u64,
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) waiting: WaitingSide,
    /// Start of the current wait.
    since: Instant,
    /// Waits that are over.
    past: WaitTimes,
}

impl Progress {
    /// All waits, including the current one.
    pub(super) fn waits(&self) -> WaitTimes {
        let current = self.since.elapsed();
        match self.waiting {
            WaitingSide::Reader => WaitTimes { reader: self.past.reader + current, ..self.past },
            WaitingSide::Server => WaitTimes { server: self.past.server + current, ..self.past },
        }
    }
}

impl StreamStats {
    pub(super) fn new(info: StreamRequestInfo) -> Self {
        let opened = Instant::now();
        let progress = Progress {
            last: None,
            microbatches: 0,
            samples: 0,
            bytes: 0,
            waiting: WaitingSide::Reader,
            since: opened,
            past: WaitTimes::default(),
        };
        Self { info, opened, progress: Mutex::new(progress) }
    }

    pub(super) fn set_waiting(&self, side: WaitingSide) {
        let mut progress = lock(&self.progress);
        progress.past = progress.waits();
        progress.since = Instant::now();
        progress.waiting = side;
    }

    pub(super) fn add_sent(&self, samples: usize, bytes: usize, name: MicrobatchName) {
        let mut progress = lock(&self.progress);
        progress.last = Some(name);
        progress.microbatches += 1;
        progress.samples += samples as u64;
        progress.bytes += bytes as u64;
    }

    pub(super) fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    /// The waits that count for the server's figures. A Fetch always waits for its one microbatch, so
    /// it would make every server look like the bottleneck.
    pub(super) fn counted_waits(&self) -> WaitTimes {
        if self.info.method == "Stream" { self.progress().waits() } else { WaitTimes::default() }
    }
}
