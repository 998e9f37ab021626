//! A microbatch is a pure function of its name, independent of threads, order and pipeline.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use forebay::mix::{self, DType, Layout, Normalise, Output};
use forebay::pipeline::Asker;
use forebay::{Error, Microbatch, Request, Size, pipeline as forebay_pipeline};

use forebay_tests::world::{WORLD, pipeline, recipe, request};

/// All that a trainer gets of a microbatch: pixels, records, labels and mixing weights.
fn content(made: &Microbatch) -> (Vec<u8>, Vec<u64>, [Vec<u32>; 3]) {
    let lambda = made.lambda.iter().map(|value| value.to_bits()).collect();
    let targets = [made.label_a.clone(), made.label_b.clone(), lambda];
    (made.payload.to_vec(), made.records.clone(), targets)
}

#[test]
fn one_thread_and_eight_give_the_same_bytes() {
    for base in ["a1", "a2", "a3", "eval"] {
        let recipe = recipe(base, &[]);
        let (one, eight) = (pipeline(1), pipeline(8));
        for (epoch, step, index) in [(0, 0, 0), (0, 1, 3), (2, 2, 7)] {
            let request = request(&recipe, epoch, step, index);
            let a = one.make(request.clone()).unwrap();
            let b = eight.make(request).unwrap();
            assert_eq!(content(&a), content(&b), "{base} {epoch} {step} {index}");
        }
    }
}

#[test]
fn the_order_of_requests_does_not_matter() {
    let recipe = recipe("a2", &[]);
    let names = [(0, 0, 0), (1, 2, 5), (0, 1, 7), (0, 0, 4), (3, 0, 1)];
    let alone: Vec<_> = names
        .iter()
        .map(|&(epoch, step, index)| {
            content(&pipeline(2).make(request(&recipe, epoch, step, index)).unwrap())
        })
        .collect();
    // One pipeline gets all requests at once, the last one first.
    let shared = pipeline(3);
    let (sender, receiver) = sync_channel(names.len());
    for (at, &(epoch, step, index)) in names.iter().enumerate().rev() {
        let sender = sender.clone();
        let request = request(&recipe, epoch, step, index);
        let done = move |made| sender.send((at, made)).unwrap();
        shared.submit(request, Asker::default(), done).unwrap();
    }
    for _ in names {
        let (at, made) = receiver.recv().unwrap();
        assert_eq!(content(&made.unwrap()), alone[at], "{:?}", names[at]);
    }
}

#[test]
fn an_epoch_has_every_position_and_no_bad_record() {
    let recipe = recipe("a3", &[]);
    let pipeline = pipeline(2);
    let bad: Vec<u64> = WORLD.dataset.bad().map(|(id, _)| id).collect();
    let mut records = Vec::new();
    for step in 0..3 {
        for index in 0..8 {
            records.extend(pipeline.make(request(&recipe, 0, step, index)).unwrap().records);
        }
    }
    assert_eq!(records.len(), 48);
    assert!(records.iter().all(|record| !bad.contains(record)));
    records.sort_unstable();
    records.dedup();
    // 48 of the 60 records. The neighbor of the bad record may occur twice, because it replaces it.
    assert!(records.len() >= 47, "{}", records.len());
}

#[test]
fn repeated_augmentation_puts_a_record_in_neighboring_microbatches() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(2);
    let made: Vec<_> =
        (0..3).map(|index| pipeline.make(request(&recipe, 0, 0, index)).unwrap()).collect();
    assert_eq!(made[0].records[0], made[1].records[0]);
    assert_eq!(made[1].records[0], made[2].records[0]);
    assert_ne!(made[0].payload[..], made[1].payload[..]);
}

#[test]
fn evaluation_ends_with_a_short_microbatch() {
    let recipe = recipe("eval", &[]);
    let pipeline = pipeline(2);
    // 60 records in steps of 16: the last step has 12 in 8 microbatches.
    let counts: Vec<usize> = (0..8)
        .map(|index| pipeline.make(request(&recipe, 0, 3, index)).unwrap().records.len())
        .collect();
    assert_eq!(counts, [2, 2, 2, 2, 1, 1, 1, 1]);
}

#[test]
fn a_trainer_that_mixes_by_the_plan_gets_the_same_pixels() {
    for mode in ["batch", "pair", "elem"] {
        let mode = format!("mix.mode = \"{mode}\"");
        let recipe = recipe("a1", &[&mode, "microbatches = 2"]);
        let pipeline = pipeline(2);
        let request = request(&recipe, 1, 0, 1);
        let mixed = pipeline.make(request.clone()).unwrap();
        let output = Output { mixed: false, ..Output::U8 };
        let clean = pipeline.make(Request { output, ..request }).unwrap();
        assert_ne!(clean.payload[..], mixed.payload[..]);
        let mut pixels = clean.payload.to_vec();
        mix::cpu::mix(&mut pixels, Size::square(48), &clean.plan);
        assert_eq!(pixels, mixed.payload[..], "{mode}");
    }
}

#[test]
fn every_dtype_and_layout_holds_the_mixed_u8_pixels() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(2);
    let request = request(&recipe, 0, 0, 0);
    let pixels = pipeline.make(request.clone()).unwrap().payload.to_vec();
    let normalise = Normalise::new(&recipe);
    for dtype in [DType::U8, DType::F16, DType::Bf16, DType::F32] {
        for layout in [Layout::Nhwc, Layout::Nchw] {
            let output = Output { dtype, layout, mixed: true };
            let made = pipeline.make(Request { output, ..request.clone() }).unwrap();
            let one = Size::square(48).rgb_bytes();
            let mut expected = vec![0; pixels.len() * dtype.bytes()];
            for (pixels, to) in pixels.chunks(one).zip(expected.chunks_mut(one * dtype.bytes())) {
                mix::convert(pixels, output, &normalise, to);
            }
            assert_eq!(made.payload[..], expected, "{dtype:?} {layout:?}");
            let sides = if layout == Layout::Nhwc { [2, 48, 48, 3] } else { [2, 3, 48, 48] };
            assert_eq!(made.shape, sides);
        }
    }
}

#[test]
fn names_outside_the_epoch_are_refused_with_the_limit() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(1);
    let step = pipeline.make(request(&recipe, 0, 3, 0)).unwrap_err();
    assert!(matches!(step, Error::OutOfRange { what: "step", got: 3, limit: 3 }), "{step}");
    let index = pipeline.make(request(&recipe, 0, 0, 8)).unwrap_err();
    assert!(matches!(index, Error::OutOfRange { what: "microbatch", .. }), "{index}");
    let request = request(&recipe, 0, 9, 0);
    assert!(forebay_pipeline::explain(&request).is_err());
}

#[test]
fn a_cancelled_request_is_not_computed() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(1);
    let (sender, receiver) = sync_channel(1);
    let gone = Asker { wanted: Arc::new(AtomicBool::new(false)), ..Asker::default() };
    let done = move |made| sender.send(made).unwrap();
    pipeline.submit(request(&recipe, 0, 0, 0), gone, done).unwrap();
    assert!(matches!(receiver.recv().unwrap(), Err(Error::Cancelled)));
}

#[test]
fn dropping_a_pipeline_ends_it_and_fails_all_pending_requests() {
    // The buffers have room for one microbatch, which is held below, so that the workers wait.
    let buffer_bytes = Size::square(48).rgb_bytes() * 2;
    let settings =
        forebay_pipeline::Settings { buffer_bytes, ..forebay_pipeline::Settings::default() };
    let pipeline = forebay::Pipeline::new(settings).unwrap();
    let recipe = recipe("a2", &[]);
    let held = pipeline.make(request(&recipe, 0, 0, 0)).unwrap();
    let (sender, receiver) = sync_channel(16);
    for index in 0..16 {
        let sender = sender.clone();
        let done = move |made: Result<Microbatch, Error>| sender.send(made.is_ok()).unwrap();
        // Each microbatch is requested twice.
        pipeline.submit(request(&recipe, 0, 1, index / 2), Asker::default(), done).unwrap();
    }
    drop(pipeline);
    drop(held);
    assert_eq!(receiver.try_iter().collect::<Vec<bool>>(), [false; 16]);
}

#[test]
fn the_error_for_a_microbatch_larger_than_all_buffers_names_the_flag() {
    let settings =
        forebay_pipeline::Settings { buffer_bytes: 1000, ..forebay_pipeline::Settings::default() };
    let pipeline = forebay::Pipeline::new(settings).unwrap();
    let error = pipeline.make(request(&recipe("a2", &[]), 0, 0, 0)).unwrap_err().to_string();
    assert!(error.contains("--buffer-bytes"), "{error}");
}
