//! What the host does during a step: it waits for nothing and allocates nothing, and captured graphs change no bit.

use forebay_trainer::{Backend as _, CudaBackend, Cursor, MicroStep, Pixels, TrainConfig};

use crate::gpu::{Test, Trained, numbers, open, train_steps};
use crate::microbatches::{SAMPLES, SIDE, batch, settings};
use crate::standin::{counts, refuse_captures};

/// Tests on any GPU.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("captured_graphs_give_the_bits_of_single_launches", graphs),
    ("a_backend_may_be_dropped_while_the_gpu_works", dropped),
];

/// Tests that need the stand-in, which counts calls and refuses captures.
pub(crate) const STANDIN_TESTS: &[(&str, Test)] = &[
    ("a_step_does_not_wait_for_the_gpu_and_reuses_its_buffers", steps),
    ("without_captures_training_goes_on_by_single_launches", refused),
];

fn step(backend: &mut CudaBackend, training: &TrainConfig, step: u64) {
    let cursor = Cursor { epoch: 0, step };
    for index in 0..training.microbatches {
        let last = index + 1 == training.microbatches;
        let micro = MicroStep { drop_path: None, loss: &training.loss, weight: 0.5, last };
        let batch = batch(training, cursor, index);
        backend.forward(&batch, &micro).unwrap();
        backend.backward(&batch, &micro).unwrap();
    }
    backend.update(&training.optimizer, training.clip_grad, 0.01, Some(0.9)).unwrap();
}

/// From the first launch of a step to its last, the host only launches: also where nothing that was launched before has run
/// yet, as with the lazy schedule of the stand-in.
fn steps(device: u32) {
    let training = settings(2, 8);
    for (graphs, fused) in [(false, false), (true, false), (true, true)] {
        let mut backend =
            if fused { crate::fused::open(device, graphs) } else { open(device, graphs) };
        let (mut launches, mut allocations) = (Vec::new(), 0);
        for number in 0..8 {
            let before = counts().unwrap();
            step(&mut backend, &training, number);
            let after = counts().unwrap();
            assert_eq!(after.waits, before.waits, "step {number}, graphs: {graphs}");
            allocations += after.allocations - before.allocations;
            launches.push(after.launches - before.launches);
            backend.poll_report(false).unwrap();
        }
        // Buffers of the two steps that may be in flight: two microbatches, their losses and a norm each. When they are allocated
        // depends on what the GPU has done by then.
        assert!(allocations <= 10, "{allocations} allocations");
        // The first step also begins the moving average.
        let [first, last] = [launches[1], launches[7]];
        if graphs {
            // Of each microbatch the copies, the first kernels, the scalar and the losses; scalars and norm of the update.
            assert!(last < 25 && launches[0] > if fused { 200 } else { 300 }, "{launches:?}");
            assert_eq!(backend.captured_graphs(), 3);
        } else {
            assert_eq!((first, backend.captured_graphs()), (last, 0), "{launches:?}");
        }
    }
}

fn refused(device: u32) {
    let training = settings(2, 2);
    let run = |refuse: bool| {
        refuse_captures(refuse);
        let mut backend = open(device, true);
        let from = Cursor::default();
        let trained = train_steps(&mut backend, &training, from, 99, false).unwrap().1;
        refuse_captures(false);
        (trained, backend.captured_graphs())
    };
    let ((captured, some), (launched, none)) = (run(false), run(true));
    assert_eq!(numbers(&captured.0), numbers(&launched.0));
    assert!(captured.1 == launched.1, "the states differ");
    assert_eq!((some, none), (3, 0));
}

/// A step of one microbatch with fewer samples than the others, as at the end of an epoch.
fn short_step(backend: &mut CudaBackend, training: &TrainConfig, step: u64) {
    let mut batch = batch(training, Cursor { epoch: 0, step }, 0);
    let few = SAMPLES - 2;
    let Pixels::Bytes(bytes) = &batch.pixels else { unreachable!() };
    batch.pixels = Pixels::Bytes(bytes.slice(..few * SIDE * SIDE * 3));
    for labels in [&mut batch.label_a, &mut batch.label_b] {
        labels.truncate(few);
    }
    batch.lambda.truncate(few);
    let micro = MicroStep { drop_path: None, loss: &training.loss, weight: 1.0, last: true };
    backend.forward(&batch, &micro).unwrap();
    backend.backward(&batch, &micro).unwrap();
    backend.update(&training.optimizer, training.clip_grad, 0.01, Some(0.9)).unwrap();
    backend.poll_report(true).unwrap();
}

/// Trains two epochs, and then some steps with short microbatches.
fn graphs(device: u32) {
    let training = settings(2, 4);
    let run = |graphs: bool| -> (Trained, usize) {
        let mut backend = open(device, graphs);
        let from = Cursor::default();
        let trained = train_steps(&mut backend, &training, from, 99, false).unwrap().1;
        for number in 0..4 {
            short_step(&mut backend, &training, number);
        }
        ((trained.0, backend.state().unwrap()), backend.captured_graphs())
    };
    let (launched, none) = run(false);
    let (captured, some) = run(true);
    assert_eq!(numbers(&captured.0), numbers(&launched.0));
    assert!(captured.1 == launched.1, "the states differ");
    // Forward, backward and update; forward and backward of the short microbatch, without stochastic depth.
    assert_eq!((none, some), (0, 5));
}

/// Memory that kernels in flight read is freed after them: otherwise they fail, and with them what comes next.
fn dropped(device: u32) {
    let training = settings(2, 8);
    for number in 0..4 {
        let mut backend = open(device, false);
        let batch = batch(&training, Cursor { epoch: 0, step: number }, 0);
        let micro = MicroStep { drop_path: None, loss: &training.loss, weight: 1.0, last: true };
        backend.forward(&batch, &micro).unwrap();
        drop(backend);
    }
    let mut backend = open(device, false);
    step(&mut backend, &training, 0);
    assert!(backend.poll_report(true).unwrap().is_some());
}
