//! The tests that need a GPU.

use forebay::gpu::Gpu;
use forebay_trainer::testing::compare_operations;
use forebay_trainer::{
    AdamW, Architecture, BUCKET_LEN, Backend, BackendConfig, Block, ClipGrad, ClipMode, ConvApi,
    ConvConfig, CudaBackend, CudaConfig, Cursor, Error, Flow, Graph, Lamb, LossScaler, Optimizer,
    Pixels, Precision, ProcessGroup, Rank, Sgd, Stem, StepReport, TrainConfig, TrainDevice,
    TrainState, initial_state, train,
};

use crate::microbatches::{SAMPLES, SIDE, batch, batches, made, settings};

/// A test on the device of this index.
pub(crate) type Test = fn(u32);

/// The reports of all steps and the final state.
pub(crate) type Trained = (Vec<StepReport>, TrainState);

/// Tests on one device.
pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_steady_step_allocates_no_memory", steady),
    ("mixing_on_the_trainer_gives_the_bits_of_mixing_on_the_server", mixed_here),
    ("each_operation_equals_the_cpu_except_for_rounding", layers),
    ("the_losses_of_ten_steps_of_resnet20_follow_the_cpu", losses_follow_the_cpu),
    ("in_f16_an_update_that_overflows_is_skipped_and_counted", overflow),
    ("a_resumed_training_in_f16_has_its_loss_scale", resume_in_f16),
    ("a_resumed_training_gives_the_bits_of_an_uninterrupted_one", resume),
    ("every_optimizer_resumes_with_its_state_and_skips_updates", optimizers),
    ("a_step_is_reported_while_the_next_one_runs", late),
    ("the_same_input_gives_the_same_bits", same),
    ("a_short_microbatch_gives_the_logits_of_its_samples", short),
    ("larger_microbatches_of_evaluation_change_no_bit_of_training", large_evaluation),
    ("the_model_ema_differs_from_the_model_and_swaps_back", average),
    ("the_error_for_a_nan_loss_names_its_step", diverged),
    ("channels_added_to_the_images_stay_zero_without_eps", added_channels),
];

/// Tests on two devices, of which the first is given.
pub(crate) const PAIRS: &[(&str, Test)] = &[
    ("two_ranks_of_one_microbatch_each_train_the_bits_of_one", two_ranks),
    ("two_ranks_of_two_microbatches_each_differ_by_rounding", two_ranks_of_two),
    ("buckets_change_no_bit", buckets),
];

pub(crate) fn graph(model: &str) -> Graph {
    Graph::new(&Architecture::named(model, 4).unwrap(), SIDE, SIDE)
}

pub(crate) fn backend_config(model: &str) -> BackendConfig {
    BackendConfig {
        train_graph: graph(model),
        batch: SAMPLES,
        eval_graph: graph(model),
        eval_batch: SAMPLES,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    }
}

pub(crate) fn gpu(device: u32, precision: Precision, rank: Rank, bucket_len: usize) -> CudaBackend {
    let device = Gpu::open(device).unwrap();
    let config = CudaConfig { rank, bucket_len, ..CudaConfig::new(device, precision) };
    let mut cuda = CudaBackend::new(config, backend_config("resnet20")).unwrap();
    cuda.load(&initial_state(&graph("resnet20"), 3)).unwrap();
    cuda
}

/// A backend of one rank in bf16, which captures graphs or not.
pub(crate) fn open(device: u32, graphs: bool) -> CudaBackend {
    let config = CudaConfig::new(Gpu::open(device).unwrap(), Precision::Bf16);
    let config = CudaConfig { graphs, ..config };
    let mut cuda = CudaBackend::new(config, backend_config("resnet20")).unwrap();
    cuda.load(&initial_state(&graph("resnet20"), 3)).unwrap();
    cuda
}

fn one(device: u32) -> CudaBackend {
    gpu(device, Precision::Bf16, Rank::SINGLE, BUCKET_LEN)
}

pub(crate) fn cpu() -> Box<dyn Backend> {
    let mut cpu = TrainDevice::Cpu.open(backend_config("resnet20"), Rank::SINGLE).unwrap();
    cpu.load(&initial_state(&graph("resnet20"), 3)).unwrap();
    cpu
}

/// Trains at most `max` steps from a cursor, and pauses after each of them or only at the end.
pub(crate) fn train_steps<B: Backend + ?Sized>(
    backend: &mut B,
    training: &TrainConfig,
    from: Cursor,
    max: usize,
    pauses: bool,
) -> Result<(Cursor, Trained), Error> {
    let (rank, mut reports) = (backend.group().rank(), Vec::new());
    let cursor = train(
        backend,
        training,
        from,
        batches(training, from, rank),
        |_| pauses,
        |_, _, report| {
            reports.push(*report);
            Ok::<Flow, Error>(if reports.len() < max {
                Flow::Continue(())
            } else {
                Flow::Break(())
            })
        },
    )?;
    Ok((cursor, (reports, backend.state()?)))
}

fn whole<B: Backend + ?Sized>(backend: &mut B, training: &TrainConfig) -> Trained {
    train_steps(backend, training, Cursor::default(), 99, false).unwrap().1
}

pub(crate) fn numbers(reports: &[StepReport]) -> Vec<(u64, u64)> {
    reports.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect()
}

fn layers(device: u32) {
    let narrow = |block, layers: &[usize], channels: &[usize]| {
        let (layers, channels) = (layers.to_vec(), channels.to_vec());
        let net = Architecture { stem: Stem::ImageNet, block, layers, channels, classes: 10 };
        Graph::new(&net, 37, 45)
    };
    let nets = [
        graph("resnet20"),
        narrow(Block::Basic, &[2, 1], &[64, 24]),
        narrow(Block::Bottleneck, &[1, 2], &[8, 16]),
    ];
    let precisions = [Precision::F32, Precision::Bf16, Precision::F16];
    for (net, precision) in nets.iter().flat_map(|net| precisions.map(|number| (net, number))) {
        for api in [ConvApi::Graph, ConvApi::Legacy] {
            let conv = ConvConfig { api, ..ConvConfig::default() };
            let setting = CudaConfig::new(Gpu::open(device).unwrap(), precision);
            let setting = CudaConfig { conv, ..setting };
            let checks = compare_operations(&setting, net, 3).unwrap();
            assert!(checks.len() > 5 * net.ops.len(), "{} comparisons", checks.len());
            let wrong: Vec<_> = checks.iter().filter(|check| check.excess > 0.0).collect();
            assert!(wrong.is_empty(), "{precision:?}, {api:?}: {wrong:#?}");
        }
    }
}

fn losses_follow_the_cpu(device: u32) {
    let training = settings(2, 5);
    let (wanted, _) = whole(&mut *cpu(), &training);
    assert_eq!(wanted.len(), 10);
    assert!(wanted[9].loss < 0.9 * wanted[0].loss, "the loss does not fall: {wanted:?}");
    for (number, limit) in
        [(Precision::F32, 1e-3), (Precision::Bf16, 0.02), (Precision::F16, 0.005)]
    {
        let (found, _) = whole(&mut gpu(device, number, Rank::SINGLE, BUCKET_LEN), &training);
        for (step, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let off = (found.loss - wanted.loss).abs() / wanted.loss;
            assert!(off <= limit, "{number:?}, step {step}: {off:.4} apart, {limit} allowed");
        }
    }
}

/// Until the scale is small enough, updates change nothing but the scale; then training goes on as if it had begun there.
fn overflow(device: u32) {
    let training = settings(1, 12);
    let backend = gpu(device, Precision::F16, Rank::SINGLE, BUCKET_LEN);
    let begin = backend.state().unwrap();
    assert_eq!(begin.loss_scaler, Some(LossScaler::default()));
    let mut backend = with_large_scale(backend);
    let (mut scale, mut skipped) = (f64::from(1 << 24), 0);
    for step in 0..12 {
        let from = Cursor { epoch: 0, step };
        let (_, (reports, state)) = train_steps(&mut backend, &training, from, 1, true).unwrap();
        let report = reports[0].loss_scale.unwrap();
        if report.skipped {
            (scale, skipped) = (scale / 2.0, skipped + 1);
            assert!(!reports[0].grad_norm.is_finite() && reports[0].loss.is_finite());
            let changed = |name: &str| state.model[name] != begin.model[name];
            assert!(!begin.model.keys().any(|name| !name.contains("running") && changed(name)));
            assert!(state.exp_avg.values().all(|m| m.values.iter().all(|m| *m == 0.0)));
        }
        assert_eq!((report.loss_scale, report.skipped_updates), (scale, skipped), "step {step}");
        assert_eq!(state.updates, step + 1);
        let scaler = state.loss_scaler.unwrap();
        assert_eq!((f64::from(scaler.scale), scaler.skipped), (scale, skipped));
        if !report.skipped {
            // The moments are corrected as in a first update: the direction is the sign of the gradient.
            assert!(skipped > 0 && scaler.growth == 1, "{scaler:?}");
            assert!(state.model["fc.weight"] != begin.model["fc.weight"]);
            return;
        }
    }
    panic!("every update was skipped");
}

fn resume(device: u32) {
    resume_in(device, Precision::Bf16);
}

/// With a loss scale, which is halved in the first steps.
fn resume_in_f16(device: u32) {
    resume_in(device, Precision::F16);
}

/// A loss scale at which the gradients overflow, as after a long time in which it was doubled.
fn with_large_scale(mut cuda: CudaBackend) -> CudaBackend {
    let mut state = cuda.state().unwrap();
    if let Some(scaler) = &mut state.loss_scaler {
        scaler.scale = (1 << 24) as f32;
        cuda.load(&state).unwrap();
    }
    cuda
}

fn resume_in(device: u32, precision: Precision) {
    resume_with(device, precision, &settings(2, 2), &[1, 3]);
}

fn resume_with(device: u32, precision: Precision, training: &TrainConfig, stops: &[usize]) {
    let one = |device| with_large_scale(gpu(device, precision, Rank::SINGLE, BUCKET_LEN));
    let (reports, state) = whole(&mut one(device), training);
    let skipped = reports.iter().filter_map(|report| report.loss_scale).filter(|s| s.skipped);
    assert_eq!(skipped.count() > 0, precision == Precision::F16, "{reports:?}");
    for &stop in stops {
        let mut first = one(device);
        let (cursor, (_, middle)) =
            train_steps(&mut first, training, Cursor::default(), stop, true).unwrap();
        let mut second = one(device);
        second.load(&middle).unwrap();
        let (_, (rest, end)) = train_steps(&mut second, training, cursor, 99, false).unwrap();
        assert_eq!(numbers(&rest), numbers(&reports[stop..]), "stopped after {stop}");
        assert!(end == state, "stopped after {stop}");
    }
}

/// Each with another mode of clipping, and with a loss scale. The updates after a pause are captured anew.
fn optimizers(device: u32) {
    let sgd = |nesterov| Optimizer::Sgd(Sgd { nesterov, weight_decay: 1e-4, ..Sgd::default() });
    for (optimizer, mode, value) in [
        (sgd(true), ClipMode::Value, 0.01),
        (sgd(false), ClipMode::Norm, 0.5),
        (Optimizer::AdamW(AdamW::default()), ClipMode::Agc, 0.02),
    ] {
        let mut training = settings(1, 4);
        training.schedule.epochs = 1;
        (training.optimizer, training.clip_grad) = (optimizer, Some(ClipGrad { value, mode }));
        training.schedule.lr = 0.01;
        resume_with(device, Precision::F16, &training, &[3]);
    }
}

fn late(device: u32) {
    let (training, mut backend) = (settings(1, 2), one(device));
    let mut updates = Vec::new();
    let from = Cursor::default();
    train(
        &mut backend,
        &training,
        from,
        batches(&training, from, Rank::SINGLE),
        |at| at == Cursor { epoch: 1, step: 0 },
        |backend, cursor, report| {
            assert_eq!(cursor.epoch * 2 + cursor.step, report.epoch * 2 + report.step + 1);
            updates.push(backend.state().unwrap().updates);
            Ok::<Flow, Error>(Flow::Continue(()))
        },
    )
    .unwrap();
    // The steps of the first epoch are reported at the pause after it, those of the second at the end.
    assert_eq!(updates, [2, 2, 4, 4]);
}

fn same(device: u32) {
    let training = settings(1, 2);
    let (first, state) = whole(&mut one(device), &training);
    let (again, other) = whole(&mut one(device), &training);
    assert_eq!(numbers(&first), numbers(&again));
    assert!(state == other);
}

fn mixed_here(device: u32) {
    let training = settings(1, 4);
    let run = |mixed: bool| {
        let mut backend = one(device);
        let source = (0..8).map(|step| {
            let cursor = Cursor { epoch: step / 4, step: step % 4 };
            Ok(made(&training, cursor, 0, mixed))
        });
        let mut reports = Vec::new();
        let after = |_: &mut CudaBackend, _: Cursor, report: &StepReport| {
            reports.push(*report);
            Ok::<Flow, Error>(Flow::Continue(()))
        };
        let begin = Cursor::default();
        train(&mut backend, &training, begin, source, |_| false, after).unwrap();
        (numbers(&reports), backend.state().unwrap())
    };
    let (here, there) = (run(false), run(true));
    assert_eq!(here.0, there.0);
    assert!(here.1 == there.1);
    let refused = cpu().logits(&made(&training, Cursor::default(), 0, false)).map(<[f32]>::to_vec);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("--mixed-by server"), "{refused}");
}

/// Device memory is allocated once, when the backend is opened. This counts host buffers for copies.
fn steady(device: u32) {
    let (training, mut backend) = (settings(2, 2), one(device));
    let mut pieces = Vec::new();
    let from = Cursor::default();
    let source = batches(&training, from, Rank::SINGLE);
    let after = |backend: &mut CudaBackend, _: Cursor, _: &StepReport| {
        pieces.push(backend.pinned_buffers());
        Ok::<Flow, Error>(Flow::Continue(()))
    };
    train(&mut backend, &training, from, source, |_| false, after).unwrap();
    // Two losses, two microbatches and a norm of two steps, one of which is in flight.
    // When they are allocated depends on what the GPU has done by then.
    assert!(pieces.len() == 4 && pieces.iter().all(|&count| count <= 10), "{pieces:?}");
}

/// With stochastic depth, whose mask is laid out for microbatches of training.
fn large_evaluation(device: u32) {
    let training = settings(1, 2);
    let run = |eval_batch: usize| {
        let config = CudaConfig::new(Gpu::open(device).unwrap(), Precision::Bf16);
        let sizes = BackendConfig { eval_batch, ..backend_config("resnet20") };
        let mut cuda = CudaBackend::new(config, sizes).unwrap();
        cuda.load(&initial_state(&graph("resnet20"), 3)).unwrap();
        let (reports, state) = whole(&mut cuda, &training);
        (numbers(&reports), state)
    };
    assert!(run(SAMPLES) == run(3 * SAMPLES), "training differs");
}

/// cuDNN may compute a sample otherwise among fewer samples, with another plan. Each operation may then differ as from
/// the CPU: in f32 by 2^-13 of the largest value, and the differences add up over the operations.
fn short(device: u32) {
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let mut backend = gpu(device, precision, Rank::SINGLE, BUCKET_LEN);
        let all = batch(&settings(1, 2), Cursor::default(), 0);
        let logits = backend.logits(&all).unwrap().to_vec();
        let mut few = all.clone();
        let Pixels::Bytes(bytes) = &all.pixels else { unreachable!() };
        few.pixels = Pixels::Bytes(bytes.slice(..3 * SIDE * SIDE * 3));
        for labels in [&mut few.label_a, &mut few.label_b] {
            labels.truncate(3);
        }
        few.lambda.truncate(3);
        let found = backend.logits(&few).unwrap();
        let max = logits.iter().fold(0.0_f32, |max, logit| max.max(logit.abs()));
        let operations = backend_config("resnet20").eval_graph.ops.len() as f32;
        let limit = match precision {
            Precision::F32 => operations * max / 8192.0,
            // One rounding of each operation can go the other way. They are independent, so their squares add up.
            Precision::F16 => operations.sqrt() * max / 1024.0,
            Precision::Bf16 => operations.sqrt() * max / 128.0,
        };
        let off = |rows: &[f32]| {
            let off = found.iter().zip(rows).map(|(found, wanted)| (found - wanted).abs());
            off.fold(0.0_f32, f32::max)
        };
        assert_eq!(found.len(), 3 * 4);
        assert!(off(&logits) <= limit, "{precision:?}: {} apart, {limit} allowed", off(&logits));
        // The logits of other samples are further away than that.
        assert!(
            off(&logits[4..]) > limit,
            "{precision:?}: other samples are {}",
            off(&logits[4..])
        );
    }
}

fn average(device: u32) {
    let mut backend = one(device);
    train_steps(&mut backend, &settings(1, 2), Cursor::default(), 2, true).unwrap();
    let images = batch(&settings(1, 2), Cursor { epoch: 9, step: 0 }, 0);
    let logits = backend.logits(&images).unwrap().to_vec();
    backend.swap_ema().unwrap();
    assert_ne!(backend.logits(&images).unwrap(), logits);
    backend.swap_ema().unwrap();
    assert_eq!(backend.logits(&images).unwrap(), logits);
}

fn diverged(device: u32) {
    let mut backend = one(device);
    let mut state = backend.state().unwrap();
    state.model.get_mut("fc.bias").unwrap().values[3] = f32::NAN;
    backend.load(&state).unwrap();
    let error =
        train_steps(&mut backend, &settings(1, 2), Cursor::default(), 99, false).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 0, step: 0, .. }), "{error}");
}

/// The backend stores images and weights of the first convolution with channels that are zeros. Without eps, LAMB would divide
/// zero by zero there, and the NaN would reach all logits.
fn added_channels(device: u32) {
    let (mut training, mut backend) = (settings(1, 2), one(device));
    let lamb =
        Lamb { eps: 0.0, weight_decay: training.optimizer.weight_decay(), ..Lamb::default() };
    (training.optimizer, training.drop_path) = (lamb.into(), 0.0);
    let mut state = backend.state().unwrap();
    // At its initial value, the last scale of a block is zero, and so are the gradients before it.
    for tensor in state.model.values_mut().filter(|tensor| tensor.shape.len() == 1) {
        tensor.values.iter_mut().filter(|value| **value == 0.0).for_each(|value| *value = 0.5);
    }
    backend.load(&state).unwrap();
    let (reports, end) = whole(&mut backend, &training);
    assert!(reports.iter().all(|report| report.loss.is_finite()), "{reports:?}");
    let [first, last] = [&state, &end].map(|state| &state.model["conv1.weight"].values);
    assert!(last.iter().all(|value| value.is_finite()));
    assert!(
        first.iter().zip(last).all(|(first, last)| first.to_bits() != last.to_bits()),
        "not all are trained"
    );
}

/// Trains with one thread and one GPU per rank, and checks that all ranks end with the same state.
fn world(
    device: u32,
    precision: Precision,
    training: &TrainConfig,
    world: u32,
    bucket: usize,
) -> Trained {
    let groups = ProcessGroup::threads(world).into_iter();
    let run = |group: ProcessGroup| {
        let rank = group.rank();
        let mut backend = gpu(device + rank.rank, precision, rank, bucket);
        backend.join(group).unwrap();
        let trained = whole(&mut backend, training);
        backend.group().finish().unwrap();
        trained
    };
    let mut all: Vec<Trained> = std::thread::scope(|scope| {
        let threads: Vec<_> = groups.map(|group| scope.spawn(move || run(group))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for other in &all[1..] {
        assert_eq!(numbers(&other.0), numbers(&all[0].0));
        assert!(other.1 == all[0].1, "ranks differ");
    }
    all.swap_remove(0)
}

fn two_ranks(device: u32) {
    let training = settings(2, 2);
    let (reports, state) = whole(&mut one(device), &training);
    let (found, other) = world(device, Precision::Bf16, &training, 2, BUCKET_LEN);
    assert_eq!(numbers(&found), numbers(&reports));
    assert!(state == other);
}

fn two_ranks_of_two(device: u32) {
    let training = settings(4, 2);
    let (reports, _) = whole(&mut gpu(device, Precision::F32, Rank::SINGLE, BUCKET_LEN), &training);
    let (found, _) = world(device, Precision::F32, &training, 2, BUCKET_LEN);
    for (step, (found, wanted)) in found.iter().zip(&reports).enumerate() {
        let off = (found.loss - wanted.loss).abs() / wanted.loss;
        // Four gradients are added in another order, which is a rounding that later steps amplify.
        assert!(off < 1e-3, "step {step}: {off:e}");
    }
    assert_eq!(found[0].loss.to_bits(), reports[0].loss.to_bits());
}

fn buckets(device: u32) {
    let training = settings(2, 2);
    let whole = world(device, Precision::Bf16, &training, 2, BUCKET_LEN);
    let parts = world(device, Precision::Bf16, &training, 2, 10_000);
    assert_eq!(numbers(&whole.0), numbers(&parts.0));
    assert!(whole.1 == parts.1);
}
