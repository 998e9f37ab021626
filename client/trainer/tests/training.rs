//! Training on generated images: resume, threads, checkpoints, and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/microbatches.rs"]
mod microbatches;

use std::path::Path;

use bytes::Bytes;
use forebay_trainer::{
    Backend as _, Batch, CpuBackend, Cursor, Error, Flow, MicroStep, Pixels, Rank, StepReport,
    TrainConfig, TrainState, latest_checkpoint, load_checkpoint, read_model, save_checkpoint,
    train,
};
use microbatches::{SAMPLES, SIDE, backend, batch, batches, run_metadata, train_config};

/// Trains from a cursor, for at most `max_steps` steps.
fn train_steps(
    cpu: &mut CpuBackend<f32>,
    config: &TrainConfig,
    from: Cursor,
    max_steps: usize,
) -> Result<(Cursor, Vec<f64>), Error> {
    let mut losses = Vec::new();
    let after = |_: &mut CpuBackend<f32>, _: Cursor, report: &StepReport| {
        losses.push(report.loss);
        Ok(if losses.len() < max_steps { Flow::Continue(()) } else { Flow::Break(()) })
    };
    let cursor = train(cpu, config, from, batches(config, from, Rank::SINGLE), |_| true, after)?;
    Ok((cursor, losses))
}

#[test]
fn resumed_training_gives_the_bits_of_uninterrupted_training() {
    let config = train_config(2);
    for model in ["resnet20", "resnet18"] {
        let mut straight = backend(model);
        let (_, losses) = train_steps(&mut straight, &config, Cursor::default(), 99).unwrap();
        assert_eq!(losses.len(), 12);
        for stop in [1, 5, 11] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = backend(model);
            let (cursor, _) = train_steps(&mut first, &config, Cursor::default(), stop).unwrap();
            let state = first.state().unwrap();
            let path =
                save_checkpoint(folder.path(), &state, &run_metadata(config, cursor, &state))
                    .unwrap();
            let (state, about) = load_checkpoint(&path).unwrap();
            let mut second = backend(model);
            second.load(&state).unwrap();
            let (_, rest) = train_steps(&mut second, &config, about.cursor, 99).unwrap();
            assert_eq!(rest, losses[stop..], "{model} stopped after {stop}");
            assert!(
                second.state().unwrap() == straight.state().unwrap(),
                "{model} stopped after {stop}"
            );
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let config = train_config(2);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut cpu = backend("resnet20");
            train_steps(&mut cpu, &config, Cursor::default(), 3).unwrap();
            cpu.state().unwrap()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn two_microbatches_by_two_trainers_add_up_to_the_same_gradient() {
    let config = train_config(2);
    let gradients = |which: &[u32]| -> Vec<f64> {
        let mut cpu = backend("resnet20");
        for index in which {
            let loss = &config.loss;
            let micro = MicroStep { drop_path: None, loss, weight: 0.5, last: *index == 1 };
            let batch = batch(0, 0, *index);
            cpu.forward(&batch, &micro).unwrap();
            cpu.backward(&batch, &micro).unwrap();
        }
        let count = cpu.graph().parameters.len();
        (0..count).flat_map(|i| cpu.gradient(i)).map(f64::from).collect()
    };
    let (both, one, other) = (gradients(&[0, 1]), gradients(&[0]), gradients(&[1]));
    #[expect(clippy::cast_possible_truncation, reason = "sums as f32")]
    let sum: Vec<f64> = one.iter().zip(&other).map(|(a, b)| f64::from((a + b) as f32)).collect();
    assert!(sum == both, "each microbatch's gradient is added once, in order");
}

#[test]
fn training_learns() {
    let mut config = train_config(2);
    config.schedule.epochs = 50;
    config.schedule.lr = 0.05;
    config.drop_path = 0.0;
    let mut cpu = backend("resnet20");
    let (_, losses) = train_steps(&mut cpu, &config, Cursor::default(), 99).unwrap();
    let last = losses.iter().rev().take(6).sum::<f64>() / 6.0;
    // Predicting a probability of 0.1 for each of ten classes gives 0.325.
    assert!(last < 0.25, "{last}");
}

#[test]
fn swapping_the_moving_average_twice_restores_the_model() {
    let config = train_config(2);
    let mut cpu = backend("resnet20");
    train_steps(&mut cpu, &config, Cursor::default(), 4).unwrap();
    let logits = cpu.logits(&batch(9, 0, 0)).unwrap().to_vec();
    cpu.swap_ema().unwrap();
    assert_ne!(cpu.logits(&batch(9, 0, 0)).unwrap(), logits);
    cpu.swap_ema().unwrap();
    assert_eq!(cpu.logits(&batch(9, 0, 0)).unwrap(), logits);
}

#[test]
fn a_short_microbatch_gives_the_logits_of_its_samples() {
    let mut cpu = backend("resnet18");
    let whole = batch(0, 0, 0);
    let all = cpu.logits(&whole).unwrap().to_vec();
    let mut short = whole.clone();
    let Pixels::Bytes(pixels) = &whole.pixels else { unreachable!() };
    short.pixels = Pixels::Bytes(pixels.slice(..2 * SIDE * SIDE * 3));
    short.label_a.truncate(2);
    short.label_b.truncate(2);
    short.lambda.truncate(2);
    assert_eq!(cpu.logits(&short).unwrap(), &all[..20]);
}

#[test]
fn a_nan_loss_ends_training_with_advice() {
    let config = train_config(2);
    let mut cpu = backend("resnet20");
    let mut state = cpu.state().unwrap();
    state.model.get_mut("fc.bias").unwrap().values[3] = f32::NAN;
    cpu.load(&state).unwrap();
    let error = train_steps(&mut cpu, &config, Cursor::default(), 1).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 0, step: 0, .. }), "{error}");
    assert!(error.to_string().contains("--lr"), "{error}");
}

#[test]
fn microbatches_that_do_not_fit_are_refused() {
    let graph = backend("resnet20").graph().clone();
    let problem = |change: fn(&mut Batch)| {
        let mut batch = batch(1, 2, 0);
        change(&mut batch);
        batch.check(&graph, SAMPLES).unwrap_err().to_string()
    };
    assert!(problem(|b| b.size = (32, 32)).contains("32x32, but the model was planned for 16x16"));
    assert!(problem(|b| b.size = (32, 32)).starts_with("epoch 1, step 2, microbatch 0"));
    assert!(problem(|b| b.label_a[0] = 10).contains("label 10"));
    assert!(problem(|b| b.lambda[0] = f32::NAN).contains("lambda"));
    assert!(problem(|b| b.label_a.push(0)).contains("7 samples"));
    assert!(problem(|b| b.pixels = Pixels::Bytes(Bytes::new())).contains("0 pixel values"));
    assert!(problem(|b| b.label_b.clear()).contains("0 second labels"));
}

#[test]
fn microbatches_out_of_order_are_refused() {
    let (config, mut cpu) = (train_config(2), backend("resnet20"));
    let wrong = std::iter::once(Ok::<_, Error>(batch(0, 1, 0)));
    let error = train(
        &mut cpu,
        &config,
        Cursor::default(),
        wrong,
        |_| true,
        |_, _, _| Ok(Flow::Continue(())),
    )
    .unwrap_err();
    assert!(error.to_string().contains("returned epoch 0, step 1"), "{error}");
    let none = std::iter::empty::<Result<Batch, Error>>();
    let error = train(
        &mut cpu,
        &config,
        Cursor::default(),
        none,
        |_| true,
        |_, _, _| Ok(Flow::Continue(())),
    )
    .unwrap_err();
    assert!(error.to_string().contains("ended before"), "{error}");
}

fn saved(folder: &Path) -> std::path::PathBuf {
    let state = backend("resnet20").state().unwrap();
    save_checkpoint(folder, &state, &run_metadata(train_config(2), Cursor::default(), &state))
        .unwrap()
}

#[test]
fn foreign_and_truncated_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let model = path.join("model.safetensors");
    let state = TrainState { model: read_model(&model).unwrap(), ..TrainState::default() };
    let error = backend("resnet32").load(&state).unwrap_err();
    assert!(error.contains("layer1.3") && error.contains("--model"), "{error}");
    let error = backend("resnet18").load(&state).unwrap_err();
    assert!(error.contains("has shape [16], expected [64]"), "{error}");

    let bytes = std::fs::read(&model).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(&model, &bytes[..length]).unwrap();
        let error = load_checkpoint(&path).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    std::fs::remove_file(&model).unwrap();
    assert!(matches!(load_checkpoint(&path).unwrap_err(), Error::File { .. }));
}

#[test]
fn a_run_with_other_settings_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let (_, before) = load_checkpoint(&path).unwrap();
    let mut now = before.clone();
    before.check_resumable(&now, &path).unwrap();
    now.recipe_digest = "other".to_owned();
    let error = before.check_resumable(&now, &path).unwrap_err().to_string();
    assert!(error.contains("recipe digest is \"r\"") && error.contains("\"other\""), "{error}");
    now = before.clone();
    now.config.schedule.lr *= 2.0;
    assert!(before.check_resumable(&now, &path).is_err());
}

#[test]
fn the_newest_complete_checkpoint_is_found_and_old_ones_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(latest_checkpoint(folder.path()).unwrap(), None);
    let mut state = backend("resnet20").state().unwrap();
    for updates in [2, 30, 4] {
        state.updates = updates;
        save_checkpoint(
            folder.path(),
            &state,
            &run_metadata(train_config(2), Cursor::default(), &state),
        )
        .unwrap();
    }
    // A killed trainer leaves a folder that was not renamed, or one without its last file.
    std::fs::create_dir(folder.path().join(".step-abc")).unwrap();
    std::fs::create_dir(folder.path().join("step-00000099")).unwrap();
    let latest = latest_checkpoint(folder.path()).unwrap().unwrap();
    assert!(latest.ends_with("step-00000030"), "{}", latest.display());
    assert!(!folder.path().join("step-00000002").exists());
}
