//! Ranks that are asked to stop end after the same step, also where a device reports its steps late.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/microbatches.rs"]
mod microbatches;

use std::collections::VecDeque;

use forebay_trainer::{
    Backend, Batch, ClipGrad, Cursor, Error, Flow, Graph, MicroStep, Optimizer, ProcessGroup,
    TrainConfig, TrainState, UpdateReport, load_latest_checkpoint, save_checkpoint, train,
};
use microbatches::{backend, batches, run_metadata, train_config};

/// A backend that withholds the reports of its newest steps, as a GPU does.
struct Late {
    inner: Box<dyn Backend>,
    withheld: usize,
    reports: VecDeque<UpdateReport>,
}

impl Backend for Late {
    fn graph(&self) -> &Graph {
        self.inner.graph()
    }

    fn group(&mut self) -> &mut ProcessGroup {
        self.inner.group()
    }

    fn join(&mut self, group: ProcessGroup) -> Result<(), Error> {
        self.inner.join(group)
    }

    fn forward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        self.inner.forward(batch, micro)
    }

    fn backward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        self.inner.backward(batch, micro)
    }

    fn update(
        &mut self,
        optimizer: &Optimizer,
        clip: Option<ClipGrad>,
        lr: f64,
        decay: Option<f64>,
    ) -> Result<(), Error> {
        self.inner.update(optimizer, clip, lr, decay)?;
        while let Some(report) = self.inner.poll_report(true)? {
            self.reports.push_back(report);
        }
        Ok(())
    }

    fn poll_report(&mut self, flush: bool) -> Result<Option<UpdateReport>, Error> {
        let kept = if flush { 0 } else { self.withheld };
        Ok(if self.reports.len() > kept { self.reports.pop_front() } else { None })
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        self.inner.logits(batch)
    }

    fn swap_ema(&mut self) -> Result<(), Error> {
        self.inner.swap_ema()
    }

    fn state(&self) -> Result<TrainState, Error> {
        self.inner.state()
    }

    fn load(&mut self, state: &TrainState) -> Result<(), String> {
        self.inner.load(state)
    }
}

/// Trains as one rank, of which `asked` is asked to stop when its second step is reported. Returns the updates whose
/// steps were reported, where training ended, and the state that the last step was reported with.
fn train_rank(
    group: ProcessGroup,
    config: &TrainConfig,
    (asked, withheld): (Option<u32>, usize),
    from: Option<(TrainState, Cursor)>,
) -> (Vec<u64>, Cursor, TrainState) {
    let rank = group.rank();
    let mut late = Late { inner: backend("resnet20"), withheld, reports: VecDeque::new() };
    late.join(group).unwrap();
    let start = from.as_ref().map_or(Cursor::default(), |from| from.1);
    if let Some((state, _)) = from {
        late.load(&state).unwrap();
    }
    let (mut updates, mut state) = (Vec::new(), None);
    let end = train(
        &mut late,
        config,
        start,
        batches(config, start, rank),
        |_| false,
        |late: &mut Late, next, report| {
            updates.push(next.epoch * config.steps_per_epoch + next.step);
            if updates.len() == 2 && asked == Some(rank.rank) {
                late.group().stop_request().ask();
            }
            if report.stops {
                state = Some(late.state()?);
            }
            Ok::<_, Error>(Flow::Continue(()))
        },
    );
    (updates, end.unwrap(), state.unwrap_or_else(|| late.state().unwrap()))
}

#[test]
fn all_ranks_end_after_the_same_step_with_its_state_whichever_was_asked() {
    let config = train_config(2);
    let (_, _, whole) = train_rank(ProcessGroup::single(), &config, (None, 0), None);
    for (world, asked, withheld) in [(1, 0, 0), (1, 0, 2), (2, 0, 0), (2, 1, 0), (2, 1, 1)] {
        let ended: Vec<_> = std::thread::scope(|scope| {
            let start =
                |group| scope.spawn(|| train_rank(group, &config, (Some(asked), withheld), None));
            let threads: Vec<_> = ProcessGroup::threads(world).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let what = format!("rank {asked} of {world}, {withheld} steps late");
        // The third report is the first that tells of it, and the steps after it had begun.
        let last = 3 + withheld as u64;
        for (updates, end, state) in &ended {
            assert_eq!(*updates, (1..=last).collect::<Vec<_>>(), "{what}");
            assert_eq!(end.epoch * config.steps_per_epoch + end.step, last, "{what}");
            assert_eq!(state.updates, last, "{what}");
        }
        let (_, end, state) = ended.into_iter().next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_checkpoint(folder.path(), &state, &run_metadata(config, end, &state)).unwrap();
        let loaded = load_latest_checkpoint(folder.path()).unwrap().unwrap();
        let from = Some((loaded.state, loaded.run.cursor));
        let (_, _, resumed) = train_rank(ProcessGroup::single(), &config, (None, 0), from);
        assert!(resumed == whole, "{what}");
    }
}

#[test]
fn a_request_is_answered_alike_on_all_ranks() {
    for asked in [None, Some(0), Some(2)] {
        std::thread::scope(|scope| {
            for mut group in ProcessGroup::threads(3) {
                scope.spawn(move || {
                    if asked == Some(group.rank().rank) {
                        group.stop_request().ask();
                    }
                    assert_eq!(group.agree_to_stop().unwrap(), asked.is_some());
                });
            }
        });
    }
    assert!(!ProcessGroup::single().agree_to_stop().unwrap());
}
