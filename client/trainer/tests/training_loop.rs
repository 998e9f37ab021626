//! Training on generated images: resume, threads, checkpoints, and what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "fixtures/microbatches.rs"]
mod microbatches;

use std::path::Path;

use bytes::Bytes;
use forebay_trainer::testing::stepwise_f32;
use forebay_trainer::{
    AdamW, Backend, Batch, ClipGrad, ClipMode, Cursor, Error, Flow, Lamb, LossScaler, MicroStep,
    Optimizer, Pixels, ProcessGroup, Rank, Sgd, StateDict, StepReport, Tensor, TrainConfig,
    TrainState, broadcast_checkpoint, latest_checkpoint, load_checkpoint, load_latest_checkpoint,
    read_model, remove_old_checkpoints, save_checkpoint, train, write_model,
};
use microbatches::{
    SAMPLES, SIDE, backend, backend_config, batch, batches, run_metadata, train_config,
};

/// Trains from a cursor, for at most `max_steps` steps.
fn train_steps<B: Backend + ?Sized>(
    cpu: &mut B,
    config: &TrainConfig,
    from: Cursor,
    max_steps: usize,
) -> Result<(Cursor, Vec<f64>), Error> {
    let mut losses = Vec::new();
    let after = |_: &mut B, _: Cursor, report: &StepReport| {
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
        let (_, losses) = train_steps(&mut *straight, &config, Cursor::default(), 99).unwrap();
        assert_eq!(losses.len(), 12);
        for stop in [1, 5, 11] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = backend(model);
            let (cursor, _) = train_steps(&mut *first, &config, Cursor::default(), stop).unwrap();
            let state = first.state().unwrap();
            let path =
                save_checkpoint(folder.path(), &state, &run_metadata(config, cursor, &state))
                    .unwrap();
            let (state, about) = load_checkpoint(&path).unwrap();
            let mut second = backend(model);
            second.load(&state).unwrap();
            let (_, rest) = train_steps(&mut *second, &config, about.cursor, 99).unwrap();
            assert_eq!(rest, losses[stop..], "{model} stopped after {stop}");
            assert!(
                second.state().unwrap() == straight.state().unwrap(),
                "{model} stopped after {stop}"
            );
        }
    }
}

/// Every optimizer, with and without a buffer, and every mode of clipping.
fn optimizers() -> Vec<TrainConfig> {
    let sgd = |momentum, nesterov| Optimizer::Sgd(Sgd { momentum, nesterov, weight_decay: 1e-4 });
    let with = |optimizer, clip: Option<(f64, ClipMode)>| {
        let mut config = train_config(2);
        config.schedule.lr = 0.01;
        let clip_grad = clip.map(|(value, mode)| ClipGrad { value, mode });
        TrainConfig { optimizer, clip_grad, ..config }
    };
    vec![
        with(sgd(0.9, true), Some((0.01, ClipMode::Value))),
        with(sgd(0.9, false), None),
        with(sgd(0.0, false), Some((0.5, ClipMode::Norm))),
        with(Optimizer::AdamW(AdamW::default()), Some((0.02, ClipMode::Agc))),
        with(Lamb::default().into(), Some((0.5, ClipMode::Norm))),
    ]
}

#[test]
fn every_optimizer_resumes_with_its_state_to_the_bit() {
    for config in optimizers() {
        let mut straight = backend("resnet20");
        let (_, losses) = train_steps(&mut *straight, &config, Cursor::default(), 5).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut first = backend("resnet20");
        let (cursor, _) = train_steps(&mut *first, &config, Cursor::default(), 3).unwrap();
        let state = first.state().unwrap();
        let path = save_checkpoint(folder.path(), &state, &run_metadata(config, cursor, &state));
        let path = path.unwrap();
        let (loaded, about) = load_checkpoint(&path).unwrap();
        assert!(loaded == state && about.config == config);
        let kept = [&state.exp_avg, &state.exp_avg_sq, &state.momentum_buffer];
        let kept = kept.map(|tensors| !tensors.is_empty());
        let expected = match config.optimizer {
            Optimizer::Sgd(sgd) => [false, false, sgd.momentum > 0.0],
            Optimizer::AdamW(_) | Optimizer::Lamb(_) => [true, true, false],
        };
        assert_eq!(kept, expected);
        // Rank 0 sends what it loaded to a rank that has nothing yet.
        let sent = std::thread::scope(|scope| {
            let ranks = ProcessGroup::threads(2).into_iter().map(|mut group| {
                let (loaded, mut about) = (&loaded, about.clone());
                scope.spawn(move || {
                    let mut state = if group.is_primary() {
                        loaded.clone()
                    } else {
                        backend("resnet20").state().unwrap()
                    };
                    broadcast_checkpoint(&mut group, &mut state, &mut about).unwrap();
                    group.finish().unwrap();
                    state
                })
            });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        });
        let mut second = backend("resnet20");
        second.load(&sent[1]).unwrap();
        let (_, rest) = train_steps(&mut *second, &config, about.cursor, 2).unwrap();
        assert_eq!(rest, losses[3..], "{:?}", config.optimizer);
        assert!(second.state().unwrap() == straight.state().unwrap(), "{:?}", config.optimizer);
    }
}

#[test]
fn a_change_of_the_optimizer_drops_the_state_of_the_other() {
    let optimizers = optimizers();
    let (sgd, adamw) = (&optimizers[0], &optimizers[3]);
    let mut cpu = backend("resnet20");
    train_steps(&mut *cpu, sgd, Cursor::default(), 2).unwrap();
    let model = TrainState { momentum_buffer: StateDict::new(), ..cpu.state().unwrap() };
    let from = Cursor { epoch: 0, step: 2 };
    train_steps(&mut *cpu, adamw, from, 1).unwrap();
    let mut fresh = backend("resnet20");
    fresh.load(&model).unwrap();
    train_steps(&mut *fresh, adamw, from, 1).unwrap();
    assert!(cpu.state().unwrap() == fresh.state().unwrap());
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let config = train_config(2);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut cpu = backend("resnet20");
            train_steps(&mut *cpu, &config, Cursor::default(), 3).unwrap();
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
        let mut cpu = stepwise_f32(backend_config("resnet20"));
        cpu.load(&backend("resnet20").state().unwrap()).unwrap();
        for index in which {
            let loss = &config.loss;
            let micro = MicroStep { drop_path: None, loss, weight: 0.5, last: *index == 1 };
            let batch = batch(0, 0, *index);
            cpu.forward(&batch, &micro).unwrap();
            cpu.backward(&batch, &micro).unwrap();
        }
        let count = cpu.graph().parameters.len();
        (0..count).flat_map(|i| cpu.gradient(i)).collect()
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
    let (_, losses) = train_steps(&mut *cpu, &config, Cursor::default(), 99).unwrap();
    let last = losses.iter().rev().take(6).sum::<f64>() / 6.0;
    // Predicting a probability of 0.1 for each of ten classes gives 0.325.
    assert!(last < 0.25, "{last}");
}

#[test]
fn swapping_the_moving_average_twice_restores_the_model() {
    let config = train_config(2);
    let mut cpu = backend("resnet20");
    train_steps(&mut *cpu, &config, Cursor::default(), 4).unwrap();
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
    let error = train_steps(&mut *cpu, &config, Cursor::default(), 1).unwrap_err();
    assert!(matches!(error, Error::Diverged { epoch: 0, step: 0, .. }), "{error}");
    assert!(error.to_string().contains("--lr"), "{error}");
}

#[test]
fn a_model_that_has_diverged_is_neither_saved_nor_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = small_state(1);
    let path = save(folder.path(), &state);
    for broken in [f32::NAN, f32::INFINITY] {
        state.updates = 2;
        for (of, tensors) in [("model", 0), ("exp_avg", 1), ("exp_avg_sq", 2), ("model_ema", 3)] {
            let mut state = state.clone();
            let all =
                [&mut state.model, &mut state.exp_avg, &mut state.exp_avg_sq, &mut state.model_ema];
            let Some(tensor) = all.into_iter().nth(tensors).unwrap().values_mut().next() else {
                continue;
            };
            tensor.values[0] = broken;
            let run = run_metadata(train_config(2), Cursor::default(), &state);
            let error = save_checkpoint(folder.path(), &state, &run).unwrap_err();
            assert!(matches!(error, Error::NotFinite { updates: 2, .. }), "{of}: {error}");
        }
    }
    assert_eq!(latest_checkpoint(folder.path()).unwrap(), Some(path));

    let file = folder.path().join("broken.safetensors");
    state.model.values_mut().next().unwrap().values[0] = f32::NAN;
    write_model(&file, &state.model, 0).unwrap();
    let error = read_model(&file).unwrap_err().to_string();
    assert!(error.contains("broken.safetensors") && error.contains("NaN"), "{error}");
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
        &mut *cpu,
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
        &mut *cpu,
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
        assert!(matches!(error, Error::Corrupt { .. }), "{length}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    std::fs::remove_file(&model).unwrap();
    assert!(matches!(load_checkpoint(&path).unwrap_err(), Error::Read { .. }));
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
    let error = before.check_resumable(&now, &path).unwrap_err().to_string();
    assert!(error.contains("config.schedule.lr is 0.005") && error.len() < 300, "{error}");
    now = before.clone();
    now.config.optimizer = Optimizer::Sgd(Sgd::default());
    let error = before.check_resumable(&now, &path).unwrap_err().to_string();
    assert!(error.contains("optimizer is \"lamb\", but this run's is \"sgd\""), "{error}");
}

#[test]
fn the_newest_complete_checkpoint_is_found_and_old_ones_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(latest_checkpoint(folder.path()).unwrap(), None);
    assert!(load_latest_checkpoint(folder.path()).unwrap().is_none());
    for updates in [2, 4, 100_000_000] {
        save(folder.path(), &small_state(updates));
    }
    // A killed trainer leaves a folder that was not renamed.
    std::fs::create_dir(folder.path().join(".step-abc")).unwrap();
    std::fs::create_dir(folder.path().join("step-00000099")).unwrap();
    let latest = latest_checkpoint(folder.path()).unwrap().unwrap();
    assert!(latest.ends_with("step-100000000"), "{}", latest.display());
    assert!(!folder.path().join("step-00000002").exists());
    assert!(folder.path().join("step-00000004").exists());
}

/// A state with every kind of tensor, of few values.
fn small_state(updates: u64) -> TrainState {
    let tensors = |names: [&str; 2], value: f32| -> StateDict {
        let tensor =
            |name: &str| (name.to_owned(), Tensor { shape: vec![2], values: vec![value, 0.5] });
        names.into_iter().map(tensor).collect()
    };
    let value = updates as f32;
    TrainState {
        model: tensors(["bn1.running_mean", "fc.bias"], value),
        model_ema: tensors(["bn1.running_mean", "fc.bias"], value + 1.0),
        exp_avg: tensors(["fc.bias", "fc.weight"], value + 2.0),
        exp_avg_sq: tensors(["fc.bias", "fc.weight"], value + 3.0),
        momentum_buffer: StateDict::new(),
        updates,
        batches_tracked: 2 * updates,
        loss_scaler: Some(LossScaler { scale: 1024.0, growth: 17, skipped: updates / 2 }),
    }
}

fn save(folder: &Path, state: &TrainState) -> std::path::PathBuf {
    let cursor = Cursor { epoch: 0, step: state.updates };
    let run = run_metadata(train_config(2), cursor, state);
    let path = save_checkpoint(folder, state, &run).unwrap();
    remove_old_checkpoints(folder, state.updates, 2, |_| false).unwrap();
    path
}

/// The files of a checkpoint.
const FILES: [&str; 4] =
    ["model.safetensors", "model_ema.safetensors", "optimizer.safetensors", "run.json"];

/// The older of two checkpoints is used, and the error names the file that is wrong with the newer one.
fn falls_back(folder: &Path, file: &Path, how: &str) {
    let loaded = load_latest_checkpoint(folder).unwrap().unwrap();
    assert!(loaded.path.ends_with("step-00000003"), "{how}");
    assert!(loaded.state == small_state(3) && loaded.run.cursor.step == 3, "{how}");
    let [error] = &loaded.unusable[..] else { panic!("{how}: {:?}", loaded.unusable) };
    assert!(error.to_string().contains(file.to_str().unwrap()), "{how}: {error}");
}

/// Damages each file of the newer of two checkpoints in turn, and restores it.
fn for_each_file(damage: impl Fn(&Path, &Path, &[u8])) {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), &small_state(3));
    let newest = save(folder.path(), &small_state(7));
    for name in FILES {
        let path = newest.join(name);
        let whole = std::fs::read(&path).unwrap();
        damage(folder.path(), &path, &whole);
        std::fs::write(&path, whole).unwrap();
        let loaded = load_latest_checkpoint(folder.path()).unwrap().unwrap();
        assert!(loaded.state == small_state(7) && loaded.unusable.is_empty());
    }
}

#[test]
fn a_checkpoint_of_which_any_file_is_cut_or_missing_is_not_used_and_the_older_one_is() {
    for_each_file(|folder, path, whole| {
        for length in 0..whole.len() {
            std::fs::write(path, &whole[..length]).unwrap();
            falls_back(folder, path, &format!("{}, {length} bytes", path.display()));
        }
        std::fs::write(path, [whole, &[0]].concat()).unwrap();
        falls_back(folder, path, &format!("{}, a byte more", path.display()));
        std::fs::remove_file(path).unwrap();
        falls_back(folder, path, &format!("{}, missing", path.display()));
    });
}

#[test]
fn a_flipped_bit_in_any_file_of_a_checkpoint_is_noticed() {
    for_each_file(|folder, path, whole| {
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << (at % 8);
            // JSON has two forms of an exponent, which are the same number.
            if [flipped[at], whole[at]].iter().all(|byte| byte.eq_ignore_ascii_case(&b'e')) {
                continue;
            }
            std::fs::write(path, flipped).unwrap();
            falls_back(folder, path, &format!("{}, byte {at}", path.display()));
        }
    });
}

#[test]
fn a_model_that_is_loaded_by_itself_is_compared_with_its_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), &small_state(7)).join("model.safetensors");
    let mut flipped = std::fs::read(&path).unwrap();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert!(matches!(read_model(&path).unwrap_err(), Error::Corrupt { .. }));
}

#[test]
fn when_no_checkpoint_can_be_used_the_error_says_what_is_wrong_with_each() {
    let folder = tempfile::tempdir().unwrap();
    for (updates, name) in [(3, "run.json"), (7, "optimizer.safetensors")] {
        let path = save(folder.path(), &small_state(updates)).join(name);
        std::fs::write(path, "").unwrap();
    }
    let error = load_latest_checkpoint(folder.path()).unwrap_err().to_string();
    for part in
        ["step-00000003/run.json is damaged", "step-00000007/optimizer.safetensors is damaged"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_run_that_resumed_from_an_older_checkpoint_keeps_what_it_writes() {
    let folder = tempfile::tempdir().unwrap();
    for updates in [3, 50, 60] {
        save(folder.path(), &small_state(updates));
    }
    save(folder.path(), &small_state(3));
    for damaged in ["step-00000050", "step-00000060"] {
        std::fs::write(folder.path().join(damaged).join("run.json"), "").unwrap();
    }
    save(folder.path(), &small_state(4));
    let loaded = load_latest_checkpoint(folder.path()).unwrap().unwrap();
    assert!(loaded.path.ends_with("step-00000004") && loaded.unusable.len() == 2);
    assert!(folder.path().join("step-00000003").exists());
}

#[test]
fn an_old_checkpoint_that_cannot_be_removed_does_not_end_training() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("step-00000001"), "not a folder").unwrap();
    for updates in 2..5 {
        let path = save(folder.path(), &small_state(updates));
        assert_eq!(latest_checkpoint(folder.path()).unwrap(), Some(path));
    }
    assert!(!folder.path().join("step-00000002").exists());
}

#[test]
fn a_checkpoint_without_checksums_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(folder.path(), &small_state(7)).join("run.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let serde_json::Value::Object(mut json) = json else { unreachable!() };
    assert_eq!(json.remove("files").unwrap().as_object().unwrap().len(), 3);
    assert!(json.remove("xxh3").is_some());
    std::fs::write(&path, serde_json::to_vec_pretty(&json).unwrap()).unwrap();
    let loaded = load_latest_checkpoint(folder.path()).unwrap().unwrap();
    assert!(loaded.state == small_state(7) && loaded.unusable.is_empty());
}
