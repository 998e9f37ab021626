//! Training on made-up images: resume, threads, checkpoints, what is refused.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "made/microbatches.rs"]
mod microbatches;

use std::path::Path;

use bytes::Bytes;
use forebay_client::Rank;
use forebay_trainer::Error;
use forebay_trainer::backend::cpu::Cpu;
use forebay_trainer::backend::{Backend as _, Batch, Part, Pixels, State};
use forebay_trainer::checkpoint;
use forebay_trainer::train::{Cursor, Flow, Report, Training, train};
use microbatches::{SAMPLES, SIDE, backend, batch, batches, run, settings};

/// Trains from a cursor, at most so many steps.
fn go(
    cpu: &mut Cpu<f32>,
    training: &Training,
    from: Cursor,
    most: usize,
) -> Result<(Cursor, Vec<f64>), Error> {
    let mut losses = Vec::new();
    let after = |_: &mut Cpu<f32>, _: Cursor, report: &Report| {
        losses.push(report.loss);
        Ok(if losses.len() < most { Flow::Continue(()) } else { Flow::Break(()) })
    };
    let cursor =
        train(cpu, training, from, batches(training, from, Rank::SINGLE), |_| true, after)?;
    Ok((cursor, losses))
}

#[test]
fn a_resumed_training_gives_the_bits_of_one_without_a_stop() {
    let training = settings(2);
    for model in ["resnet20", "resnet18"] {
        let mut straight = backend(model);
        let (_, losses) = go(&mut straight, &training, Cursor::default(), 99).unwrap();
        assert_eq!(losses.len(), 12);
        for stop in [1, 5, 11] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = backend(model);
            let (cursor, _) = go(&mut first, &training, Cursor::default(), stop).unwrap();
            let state = first.state().unwrap();
            let path =
                checkpoint::save(folder.path(), &state, &run(training, cursor, &state)).unwrap();
            let (state, about) = checkpoint::load(&path).unwrap();
            let mut second = backend(model);
            second.load(&state).unwrap();
            let (_, rest) = go(&mut second, &training, about.cursor, 99).unwrap();
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
    let training = settings(2);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut cpu = backend("resnet20");
            go(&mut cpu, &training, Cursor::default(), 3).unwrap();
            cpu.state().unwrap()
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(5));
}

#[test]
fn two_microbatches_by_two_trainers_add_up_to_the_same_gradient() {
    let training = settings(2);
    let gradients = |which: &[u32]| -> Vec<f64> {
        let mut cpu = backend("resnet20");
        for index in which {
            let part = Part { drops: None, loss: &training.loss, share: 0.5, last: *index == 1 };
            cpu.accumulate(&batch(0, 0, *index), &part).unwrap();
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
    let mut training = settings(2);
    training.schedule.epochs = 50;
    training.schedule.rate = 0.05;
    training.drop_path = 0.0;
    let mut cpu = backend("resnet20");
    let (_, losses) = go(&mut cpu, &training, Cursor::default(), 99).unwrap();
    let last = losses.iter().rev().take(6).sum::<f64>() / 6.0;
    // One class of ten: the entropy of always saying a tenth is 0.325.
    assert!(last < 0.25, "{last}");
}

#[test]
fn the_moving_average_is_another_model_and_swaps_back() {
    let training = settings(2);
    let mut cpu = backend("resnet20");
    go(&mut cpu, &training, Cursor::default(), 4).unwrap();
    let logits = cpu.logits(&batch(9, 0, 0)).unwrap().to_vec();
    cpu.swap_average().unwrap();
    assert_ne!(cpu.logits(&batch(9, 0, 0)).unwrap(), logits);
    cpu.swap_average().unwrap();
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
fn a_loss_that_is_no_number_ends_with_advice() {
    let training = settings(2);
    let mut cpu = backend("resnet20");
    let mut state = cpu.state().unwrap();
    state.model.get_mut("fc.bias").unwrap().values[3] = f32::NAN;
    cpu.load(&state).unwrap();
    let error = go(&mut cpu, &training, Cursor::default(), 1).unwrap_err();
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
    assert!(problem(|b| b.size = (32, 32)).contains("32x32, the model was planned for 16x16"));
    assert!(problem(|b| b.size = (32, 32)).starts_with("epoch 1, step 2, microbatch 0"));
    assert!(problem(|b| b.label_a[0] = 10).contains("class 10"));
    assert!(problem(|b| b.lambda[0] = f32::NAN).contains("lambda"));
    assert!(problem(|b| b.label_a.push(0)).contains("7 samples"));
    assert!(problem(|b| b.pixels = Pixels::Bytes(Bytes::new())).contains("0 pixel values"));
    assert!(problem(|b| b.label_b.clear()).contains("targets of 0"));
}

#[test]
fn microbatches_out_of_order_are_refused() {
    let (training, mut cpu) = (settings(2), backend("resnet20"));
    let wrong = std::iter::once(Ok::<_, Error>(batch(0, 1, 0)));
    let error = train(
        &mut cpu,
        &training,
        Cursor::default(),
        wrong,
        |_| true,
        |_, _, _| Ok(Flow::Continue(())),
    )
    .unwrap_err();
    assert!(error.to_string().contains("gave epoch 0, step 1"), "{error}");
    let none = std::iter::empty::<Result<Batch, Error>>();
    let error = train(
        &mut cpu,
        &training,
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
    checkpoint::save(folder, &state, &run(settings(2), Cursor::default(), &state)).unwrap()
}

#[test]
fn checkpoints_of_another_model_and_cut_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let model = path.join("model.safetensors");
    let state = State { model: checkpoint::read_model(&model).unwrap(), ..State::default() };
    let error = backend("resnet32").load(&state).unwrap_err();
    assert!(error.contains("layer1.3") && error.contains("--model"), "{error}");
    let error = backend("resnet18").load(&state).unwrap_err();
    assert!(error.contains("has shape [16], the model's has [64]"), "{error}");

    let bytes = std::fs::read(&model).unwrap();
    for length in [0, 7, 100, bytes.len() - 1] {
        std::fs::write(&model, &bytes[..length]).unwrap();
        let error = checkpoint::load(&path).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{length}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    std::fs::remove_file(&model).unwrap();
    assert!(matches!(checkpoint::load(&path).unwrap_err(), Error::File { .. }));
}

#[test]
fn a_run_with_other_settings_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path());
    let (_, before) = checkpoint::load(&path).unwrap();
    let mut now = before.clone();
    before.resumable(&now, &path).unwrap();
    now.recipe_digest = "other".to_owned();
    let error = before.resumable(&now, &path).unwrap_err().to_string();
    assert!(error.contains("recipe digest is \"r\"") && error.contains("\"other\""), "{error}");
    now = before.clone();
    now.training.schedule.rate *= 2.0;
    assert!(before.resumable(&now, &path).is_err());
}

#[test]
fn the_newest_whole_checkpoint_is_found_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(checkpoint::latest(folder.path()).unwrap(), None);
    let mut state = backend("resnet20").state().unwrap();
    for updates in [2, 30, 4] {
        state.updates = updates;
        checkpoint::save(folder.path(), &state, &run(settings(2), Cursor::default(), &state))
            .unwrap();
    }
    // One that a kill cut short: the folder was not renamed, or lost its last file.
    std::fs::create_dir(folder.path().join(".step-abc")).unwrap();
    std::fs::create_dir(folder.path().join("step-00000099")).unwrap();
    let latest = checkpoint::latest(folder.path()).unwrap().unwrap();
    assert!(latest.ends_with("step-00000030"), "{}", latest.display());
    assert!(!folder.path().join("step-00000002").exists());
}
