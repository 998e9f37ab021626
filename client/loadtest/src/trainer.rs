//! A virtual trainer: waits for a microbatch, records it, and pretends to compute.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_client::{Client, Cursor, End, Microbatches, Rank};

use crate::gate::Gate;
use crate::plan::Pace;
use crate::received::Received;
use crate::state::RunState;
use crate::sync::locked;

/// A time after which no test runs any more, and which clocks can represent.
const NEVER: Duration = Duration::from_hours(100 * 366 * 24);

/// A rank of a copy of the job in a phase.
#[derive(Debug)]
pub(crate) struct Trainer {
    pub(crate) run: Arc<RunState>,
    pub(crate) client: Client,
    pub(crate) gate: Arc<Gate>,
    pub(crate) copy: u32,
    pub(crate) rank: Rank,
    /// The first step of the phase, counted from the run's first.
    pub(crate) at: u64,
    /// Number among all trainers of the phase.
    pub(crate) number: u32,
    /// Number of trainers of the phase.
    pub(crate) total: u32,
}

impl Trainer {
    /// Reads until the phase ends. Returns what was received, and the violation that ended it early.
    pub(crate) async fn train(mut self) -> Result<Received, (Received, String)> {
        let run = Arc::clone(&self.run);
        let mut received = Received::default();
        run.telemetry.enter(self.number);
        let result = tokio::select! {
            biased;
            result = self.read(&mut received) => result,
            () = run.interrupt.wait_for_steps() => {
                self.gate.leave_unfinished(self.at);
                Ok(())
            }
        };
        run.telemetry.leave(self.number);
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
        let mut reconnects = run.reconnects();
        while self.gate.enter(self.at, &run.interrupt).await {
            if reconnects != run.reconnects() {
                reconnects = run.reconnects();
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

    /// Opens a stream on new connections, from the next step on.
    async fn open(&self) -> Result<Microbatches, String> {
        let run = &self.run;
        let from = run.from.after(self.at, run.description.steps_per_epoch);
        let end = End::Steps(self.gate.steps_from(self.at));
        let stream = self.client.stream(&run.job, from, end, self.rank).await;
        stream.map_err(|error| error.to_string())
    }

    /// Waits for a microbatch as the pace says, records it, and computes.
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
        let requested = due.unwrap_or_else(Instant::now);
        let microbatch = match stream.next().await {
            Some(Ok(microbatch)) => microbatch,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the stream ended early".into()),
        };
        let wait = requested.elapsed();
        if received.microbatches == 0 {
            received.first = self.gate.begin().elapsed();
        }
        received.record(&microbatch);
        let images = microbatch.records.len() as u64;
        run.telemetry.record(self.number, wait, images);
        run.bar.inc(images);
        if let Some(coverage) = &run.coverage {
            locked(coverage).record(self.copy, &microbatch);
        }
        drop(microbatch);
        if let Pace::Step(step) = run.pace {
            tokio::time::sleep(step.of(self.number, received.microbatches)).await;
        }
        Ok(())
    }

    /// The time at which a microbatch is due, if the pace is a rate. Trainers take turns.
    fn due(&self, microbatch: u64) -> Option<Instant> {
        let Pace::Rate(images_per_s) = self.run.pace else { return None };
        let description = &self.run.description;
        let images = f64::from(description.batch) / f64::from(description.microbatches);
        let turn = microbatch as f64 * f64::from(self.total) + f64::from(self.number);
        let after = Duration::try_from_secs_f64(turn * images / images_per_s);
        Some(self.gate.begin() + after.unwrap_or(NEVER).min(NEVER))
    }
}

/// Reads the whole job slowly, one microbatch per interval, until dropped. Returns the violation that
/// ended it.
pub(crate) async fn read_slowly(run: Arc<RunState>, client: Client, every: Duration) -> String {
    let end = End::Steps(u32::MAX.into());
    let mut stream = match client.stream(&run.job, run.from, end, Rank::SINGLE).await {
        Ok(stream) => stream,
        Err(error) => return format!("slow reader: {error}"),
    };
    loop {
        match stream.next().await {
            Some(Ok(microbatch)) => {
                if let Some(coverage) = &run.coverage {
                    locked(coverage).record_slow(&microbatch);
                }
            }
            Some(Err(error)) => return format!("slow reader: {error}"),
            None => return "slow reader: the stream ended early".into(),
        }
        tokio::time::sleep(every).await;
    }
}
