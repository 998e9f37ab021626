//! One virtual trainer: waits for a microbatch, notes it, thinks.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use forebay_client::{Microbatch, Microbatches, Rank};

use crate::Run;
use crate::check::mark;
use crate::report::StageTimes;

/// A rank of a copy of the job.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(crate) run: Arc<Run>,
    pub(crate) copy: u32,
    pub(crate) rank: Rank,
    pub(crate) stream: Microbatches,
}

/// What trainers received, in sum.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) microbatches: u64,
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    /// In microseconds, one entry a microbatch.
    pub(crate) waits: Vec<u32>,
    /// When the first one came, of the trainer for which that took longest.
    pub(crate) first: Duration,
    /// Of what was received, whatever the order.
    pub(crate) checksum: u64,
    /// Sums over images, in microseconds.
    pub(crate) server: StageTimes,
}

impl Trainer {
    /// Reads the stream to its end; with what is wrong if it does not come to it.
    pub(crate) async fn train(mut self) -> Result<Received, (Received, String)> {
        let mut received = Received::default();
        while let Some(next) = self.stream.next().await {
            let microbatch = match next {
                Ok(microbatch) => microbatch,
                Err(error) => {
                    let Self { copy, rank: Rank { rank, .. }, .. } = self;
                    return Err((received, format!("job {copy}, rank {rank}: {error}")));
                }
            };
            if received.microbatches == 0 {
                received.first = self.run.start.elapsed();
            }
            received.note(&microbatch);
            self.run.bar.inc(microbatch.records.len() as u64);
            if let Some(coverage) = &self.run.coverage {
                let mut coverage = coverage.lock().unwrap_or_else(PoisonError::into_inner);
                coverage.note(self.copy, &microbatch);
            }
            if !self.run.think.is_zero() {
                tokio::time::sleep(self.run.think).await;
            }
        }
        Ok(received)
    }
}

impl Received {
    fn note(&mut self, microbatch: &Microbatch) {
        self.microbatches += 1;
        self.images += microbatch.records.len() as u64;
        self.bytes += microbatch.pixels.len() as u64;
        self.waits.push(u32::try_from(microbatch.wait.as_micros()).unwrap_or(u32::MAX));
        self.checksum = self.checksum.wrapping_add(mark(microbatch));
        self.server.add(&StageTimes::of(&microbatch.timings));
    }

    /// Adds what another trainer received.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.microbatches += other.microbatches;
        self.images += other.images;
        self.bytes += other.bytes;
        self.waits.append(&mut other.waits);
        self.first = self.first.max(other.first);
        self.checksum = self.checksum.wrapping_add(other.checksum);
        self.server.add(&other.server);
    }
}
