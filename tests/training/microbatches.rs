//! Microbatches of the sample data, as a server would send them.

use std::sync::LazyLock;

use bytes::Bytes;
use forebay::Pipeline;
use forebay::mix::Mixer;
use forebay::pipeline::Settings;
use forebay_client::Rank;
use forebay_tests::world::{recipe, request};
use forebay_trainer::backend::{Batch, Pixels};
use forebay_trainer::train::{Cursor, Training};
use forebay_trainer::{Error, preset};

/// Height and width.
pub(crate) const SIDE: usize = 16;
/// Of a microbatch.
pub(crate) const SAMPLES: usize = 6;

static PIPELINE: LazyLock<Pipeline> =
    LazyLock::new(|| Pipeline::on(&Mixer::Cpu, Settings::default()).unwrap());

/// Two epochs of so many steps, with all that training can do.
pub(crate) fn settings(microbatches: u32, steps: u64) -> Training {
    let mut training = preset::training("a3", 0.1, steps, microbatches).unwrap();
    training.schedule.epochs = 2;
    training.schedule.warmup_epochs = 0;
    training.schedule.rate = 0.05;
    training.schedule.by_update = true;
    training.drop_path = 0.2;
    training.average = Some(0.9);
    training
}

/// A microbatch of a step of so many.
pub(crate) fn batch(training: &Training, cursor: Cursor, index: u32) -> Batch {
    let microbatches = training.microbatches;
    let samples = SAMPLES * microbatches as usize;
    let set = [
        format!("batch = {samples}"),
        format!("microbatches = {microbatches}"),
        format!("image_size = {SIDE}"),
        "repeats = 1".to_owned(),
    ];
    let recipe = recipe("a3", &set.each_ref().map(String::as_str));
    // There are too few pictures for a step of an epoch: each step is the first of an epoch of its own.
    let epoch = cursor.epoch * training.steps + cursor.step;
    let made = PIPELINE.make(request(&recipe, epoch, 0, index)).unwrap();
    Batch {
        epoch: cursor.epoch,
        step: cursor.step,
        index,
        size: (SIDE, SIDE),
        pixels: Pixels::Bytes(Bytes::copy_from_slice(&made.payload)),
        label_a: made.label_a,
        label_b: made.label_b,
        lambda: made.lambda,
    }
}

/// Those of a rank, from a cursor on.
pub(crate) fn batches(
    training: &Training,
    from: Cursor,
    rank: Rank,
) -> impl Iterator<Item = Result<Batch, Error>> + use<> {
    let training = *training;
    let (steps, microbatches) = (training.steps, training.microbatches);
    let at = move |update: u64| Cursor { epoch: update / steps, step: update % steps };
    let indices = move || (rank.rank..microbatches).step_by(rank.world as usize);
    (from.epoch * steps + from.step..)
        .flat_map(move |u| indices().map(move |i| Ok(batch(&training, at(u), i))))
}
