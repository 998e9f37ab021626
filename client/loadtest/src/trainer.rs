//! One virtual trainer: waits for a microbatch, notes it, computes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, End, Microbatch, Microbatches, Rank};

use crate::check::mark;
use crate::plan::{Gate, Pace};
use crate::report::StageTimes;
use crate::{Run, locked};

/// A rank of a copy of the job, for a phase.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(crate) run: Arc<Run>,
    pub(crate) client: Client,
    pub(crate) gate: Arc<Gate>,
    pub(crate) copy: u32,
    pub(crate) rank: Rank,
    /// The first step of the phase, counted from the run's first.
    pub(crate) at: u64,
    /// Among all trainers of the phase, and how many these are.
    pub(crate) number: u32,
    pub(crate) of: u32,
}

/// What trainers received, in sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) microbatches: u64,
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    /// When the first one came, of the trainer for which that took longest.
    pub(crate) first: Duration,
    /// Of what was received, whatever the order.
    pub(crate) checksum: u64,
    /// Sums over images, in microseconds.
    pub(crate) server: StageTimes,
}

impl Trainer {
    /// Reads until the phase ends; with what is wrong if it does not come to that.
    pub(crate) async fn train(mut self) -> Result<Received, (Received, String)> {
        let run = Arc::clone(&self.run);
        let mut received = Received::default();
        run.live.enter(self.number);
        let result = self.read(&mut received).await;
        run.live.leave(self.number);
        match result {
            Ok(()) => Ok(received),
            Err(error) => {
                self.gate.abandon();
                let Self { copy, rank: Rank { rank, .. }, .. } = self;
                Err((received, format!("job {copy}, rank {rank}: {error}")))
            }
        }
    }

    async fn read(&mut self, received: &mut Received) -> Result<(), String> {
        let run = Arc::clone(&self.run);
        let description = &run.description;
        let indices =
            self.rank.microbatches(description.microbatches).map_err(|error| error.to_string())?;
        let mut stream = None;
        let mut storms = run.storms();
        while self.gate.enter(self.at, &run.interrupt).await {
            if storms != run.storms() {
                storms = run.storms();
                stream = None;
            }
            let open = match stream.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let open = stream.insert(open);
            let Cursor { step, .. } = run.from.after(self.at, description.steps_per_epoch);
            for index in &indices {
                if description.samples(step, *index) > 0 {
                    self.microbatch(open, received).await?;
                }
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A stream of its own connections, from the next step on.
    async fn open(&self) -> Result<Microbatches, String> {
        let run = &self.run;
        let from = run.from.after(self.at, run.description.steps_per_epoch);
        let end = End::Steps(self.gate.steps_from(self.at));
        let stream = self.client.stream(&run.job, from, end, self.rank).await;
        stream.map_err(|error| error.to_string())
    }

    /// Waits for a microbatch as its pace says, notes it, and computes.
    async fn microbatch(
        &self,
        stream: &mut Microbatches,
        received: &mut Received,
    ) -> Result<(), String> {
        let run = &self.run;
        let due = self.due(received.microbatches);
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let asked = due.unwrap_or_else(Instant::now);
        let microbatch = match stream.next().await {
            Some(Ok(microbatch)) => microbatch,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the stream ended before its end".into()),
        };
        let wait = asked.elapsed();
        if received.microbatches == 0 {
            received.first = self.gate.begin().elapsed();
        }
        received.note(&microbatch);
        let images = microbatch.records.len() as u64;
        run.live.note(self.number, wait, images);
        run.bar.inc(images);
        if let Some(coverage) = &run.coverage {
            locked(coverage).note(self.copy, &microbatch);
        }
        drop(microbatch);
        if let Pace::Step(step) = run.pace {
            tokio::time::sleep(step.of(self.number, received.microbatches)).await;
        }
        Ok(())
    }

    /// When the microbatch of that number is to be asked for, where the clock decides. Trainers take
    /// turns.
    fn due(&self, microbatch: u64) -> Option<Instant> {
        let Pace::Rate(images_per_s) = self.run.pace else { return None };
        let description = &self.run.description;
        let images = f64::from(description.batch) / f64::from(description.microbatches);
        let turn = microbatch as f64 * f64::from(self.of) + f64::from(self.number);
        let after = Duration::try_from_secs_f64(turn * images / images_per_s);
        self.gate.begin().checked_add(after.unwrap_or(Duration::MAX))
    }
}

/// Reads slowly and for itself, until dropped: a microbatch each so often. Ends with what is wrong.
pub(crate) async fn read_slowly(run: Arc<Run>, client: Client, every: Duration) -> String {
    let end = End::Steps(u32::MAX.into());
    let mut stream = match client.stream(&run.job, run.from, end, Rank::SINGLE).await {
        Ok(stream) => stream,
        Err(error) => return format!("slow reader: {error}"),
    };
    loop {
        match stream.next().await {
            Some(Ok(microbatch)) => {
                if let Some(coverage) = &run.coverage {
                    locked(coverage).aside(&microbatch);
                }
            }
            Some(Err(error)) => return format!("slow reader: {error}"),
            None => return "slow reader: the stream ended before its end".into(),
        }
        tokio::time::sleep(every).await;
    }
}

impl Received {
    fn note(&mut self, microbatch: &Microbatch) {
        self.microbatches += 1;
        self.images += microbatch.records.len() as u64;
        self.bytes += microbatch.pixels.len() as u64;
        self.checksum = self.checksum.wrapping_add(mark(microbatch));
        self.server.add(&StageTimes::of(&microbatch.timings));
    }

    /// Adds what another trainer received.
    pub(crate) fn add(&mut self, other: &Self) {
        self.microbatches += other.microbatches;
        self.images += other.images;
        self.bytes += other.bytes;
        self.first = self.first.max(other.first);
        self.checksum = self.checksum.wrapping_add(other.checksum);
        self.server.add(&other.server);
    }
}
