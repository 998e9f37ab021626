//! Microbatches of the sample data, as a server sends them.

use std::sync::LazyLock;

use bytes::Bytes;
use forebay::mix::Mixer;
use forebay::plan::{MixKind, MixSample};
use forebay::{MixedBy, Pipeline, PipelineConfig, Rect};
use forebay_client::Mix;
use forebay_tests::world::{recipe, request};
use forebay_trainer::{Batch, Cursor, Error, MicrobatchName, Pixels, Rank, TrainConfig};

/// Height and width of the images.
pub(crate) const SIDE: usize = 16;
/// Samples of a microbatch.
pub(crate) const SAMPLES: usize = 6;

static PIPELINE: LazyLock<Pipeline> =
    LazyLock::new(|| Pipeline::with_mixer(&Mixer::Cpu, PipelineConfig::default()).unwrap());

/// Two epochs with all features of training.
pub(crate) fn settings(microbatches: u32, steps: u64) -> TrainConfig {
    let mut training = TrainConfig::preset("a3", 0.1, steps, microbatches).unwrap();
    training.schedule.epochs = 2;
    training.schedule.warmup_epochs = 0;
    training.schedule.lr = 0.05;
    training.schedule.on_updates = true;
    training.drop_path = 0.2;
    training.model_ema_decay = Some(0.9);
    training
}

/// A mixed microbatch of a step.
pub(crate) fn batch(training: &TrainConfig, cursor: Cursor, index: u32) -> Batch {
    made(training, cursor, index, true)
}

/// A microbatch of a step, mixed or with the plan to mix it.
pub(crate) fn made(training: &TrainConfig, cursor: Cursor, index: u32, mixed: bool) -> Batch {
    let microbatches = training.microbatches;
    let samples = SAMPLES * microbatches as usize;
    let set = [
        format!("batch = {samples}"),
        format!("microbatches = {microbatches}"),
        format!("image_size = {SIDE}"),
        "repeats = 1".to_owned(),
    ];
    let recipe = recipe("a3", &set.each_ref().map(String::as_str));
    // The dataset is too small for several steps per epoch: each step is the first one of another epoch.
    let epoch = cursor.epoch * training.steps_per_epoch + cursor.step;
    let mut request = request(&recipe, epoch, 0, index);
    request.format.mixed_by = if mixed { MixedBy::Server } else { MixedBy::Trainer };
    let made = PIPELINE.make(request).unwrap();
    let bytes = Bytes::copy_from_slice(&made.payload);
    let pixels = if mixed {
        Pixels::Bytes(bytes)
    } else {
        Pixels::Unmixed(bytes, made.plan.samples.iter().map(client_mix).collect())
    };
    Batch {
        name: MicrobatchName { seed: 0, epoch: cursor.epoch, step: cursor.step, index },
        size: (SIDE, SIDE),
        pixels,
        label_a: made.label_a,
        label_b: made.label_b,
        lambda: made.lambda,
    }
}

/// The form in which a client receives the plan of a sample.
fn client_mix(sample: &MixSample) -> Mix {
    match sample.kind {
        MixKind::None => Mix::Keep,
        MixKind::Mixup => {
            Mix::MixUp { lambda: sample.weights[0], partner_lambda: sample.weights[1] }
        }
        MixKind::Cutmix(Rect { top, left, height, width }) => {
            Mix::CutMix { top, left, height, width }
        }
    }
}

/// The microbatches of a rank, from a cursor.
pub(crate) fn batches(
    training: &TrainConfig,
    from: Cursor,
    rank: Rank,
) -> impl Iterator<Item = Result<Batch, Error>> + use<> {
    let training = *training;
    let (steps, microbatches) = (training.steps_per_epoch, training.microbatches);
    let at = move |update: u64| Cursor { epoch: update / steps, step: update % steps };
    let indices = move || (rank.rank..microbatches).step_by(rank.world as usize);
    (from.epoch * steps + from.step..)
        .flat_map(move |u| indices().map(move |i| Ok(batch(&training, at(u), i))))
}
