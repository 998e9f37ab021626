//! Microbatches that their names decide, and backends to train on them.

use bytes::Bytes;
use forebay_client::Rank;
use forebay_trainer::backend::cpu::Cpu;
use forebay_trainer::backend::{Backend as _, Batch, Pixels, State};
use forebay_trainer::checkpoint::Run;
use forebay_trainer::model::{Architecture, Graph};
use forebay_trainer::train::{Cursor, Training};
use forebay_trainer::{Error, init, preset};

/// Height and width.
pub(crate) const SIDE: usize = 16;
/// Of a microbatch.
pub(crate) const SAMPLES: usize = 6;
/// Of an epoch.
pub(crate) const STEPS: u64 = 3;

/// A microbatch that its name decides.
pub(crate) fn batch(epoch: u64, step: u64, index: u32) -> Batch {
    let mut state =
        (epoch << 32 | step << 16 | u64::from(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    let label_a: Vec<u32> = (0..SAMPLES).map(|_| u32::from(next()) % 10).collect();
    let label_b = label_a.iter().rev().copied().collect();
    // The class is in the brightness, so there is something to learn.
    let pixels: Vec<u8> = label_a
        .iter()
        .flat_map(|l| vec![l; SIDE * SIDE * 3])
        .map(|l| u8::try_from(*l).unwrap() * 20 + next() % 20)
        .collect();
    Batch {
        epoch,
        step,
        index,
        size: (SIDE, SIDE),
        pixels: Pixels::Bytes(Bytes::from(pixels)),
        label_a,
        label_b,
        lambda: vec![0.9; SAMPLES],
    }
}

/// Those of a rank, from a cursor on.
pub(crate) fn batches(
    training: &Training,
    from: Cursor,
    rank: Rank,
) -> impl Iterator<Item = Result<Batch, Error>> + use<> {
    let (steps, microbatches) = (training.steps, training.microbatches);
    let indices = move || (rank.rank..microbatches).step_by(rank.world as usize);
    (from.epoch * steps + from.step..)
        .flat_map(move |u| indices().map(move |i| Ok(batch(u / steps, u % steps, i))))
}

/// Four short epochs with all that training can do.
pub(crate) fn settings(microbatches: u32) -> Training {
    let mut training = preset::training("a1", 0.1, STEPS, microbatches).unwrap();
    training.schedule.epochs = 4;
    training.schedule.warmup_epochs = 1;
    training.drop_path = 0.3;
    training.average = Some(0.9);
    training
}

/// A network with its first weights.
pub(crate) fn backend(model: &str) -> Cpu<f32> {
    let graph = Graph::new(&Architecture::named(model, 10).unwrap(), SIDE, SIDE);
    let state = init::state(&graph, 3);
    let mut cpu = Cpu::new(
        graph.clone(),
        SAMPLES,
        graph,
        SAMPLES,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    );
    cpu.load(&state).unwrap();
    cpu
}

/// What a checkpoint says about such a run.
pub(crate) fn run(training: Training, cursor: Cursor, state: &State) -> Run {
    Run {
        model: "resnet20".to_owned(),
        classes: 10,
        image_size: SIDE,
        recipe_digest: "r".to_owned(),
        dataset_digest: "d".to_owned(),
        training,
        cursor,
        updates: state.updates,
        passes: state.passes,
    }
}
