//! A microbatch is a pure function of its name, on any number of threads and in any order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use forebay::mix::{self, NormalizeTable};
use forebay::{
    DType, Error, Layout, MadeMicrobatch, MixedBy, PipelineConfig, PixelFormat, Request, Size,
    SubmitOptions, testing,
};

use forebay_tests::world::{WORLD, pipeline, recipe, request};

/// Everything that a trainer gets: pixels, records, labels and weights.
fn content(made: &MadeMicrobatch) -> (Vec<u8>, Vec<u64>, [Vec<u32>; 3]) {
    let lambda = made.lambda.iter().map(|value| value.to_bits()).collect();
    let targets = [made.label_a.clone(), made.label_b.clone(), lambda];
    (made.payload.to_vec(), made.records.clone(), targets)
}

#[test]
fn one_thread_and_eight_make_the_same_bytes() {
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
    let separate: Vec<_> = names
        .iter()
        .map(|&(epoch, step, index)| {
            content(&pipeline(2).make(request(&recipe, epoch, step, index)).unwrap())
        })
        .collect();
    // All of them at once, in one pipeline, the last first.
    let shared = pipeline(3);
    let (sender, receiver) = sync_channel(names.len());
    for (at, &(epoch, step, index)) in names.iter().enumerate().rev() {
        let sender = sender.clone();
        let request = request(&recipe, epoch, step, index);
        let done = move |made| sender.send((at, made)).unwrap();
        shared.submit(request, SubmitOptions::default(), done).unwrap();
    }
    for _ in names {
        let (at, made) = receiver.recv().unwrap();
        assert_eq!(content(&made.unwrap()), separate[at], "{:?}", names[at]);
    }
}

#[test]
fn a_schedule_makes_each_epoch_by_the_recipe_with_its_values() {
    let schedule = "schedule = [{ from_epoch = 2, image_size = 40, crop.scale = [0.5, 1.0], mix.probability = 0 }]";
    let (plain, scheduled) = (recipe("a2", &[]), recipe("a2", &[schedule]));
    let later =
        recipe("a2", &["image_size = 40", "crop.scale = [0.5, 1.0]", "mix.probability = 0"]);
    let pipeline = pipeline(2);
    for (epoch, same) in [(0, &plain), (1, &plain), (2, &later), (3, &later)] {
        let request_of = |recipe| request(recipe, epoch, 1, 3);
        let [made, expected] =
            [&scheduled, same].map(|recipe| pipeline.make(request_of(recipe)).unwrap());
        assert_eq!(made.shape, expected.shape, "epoch {epoch}");
        assert_eq!(content(&made), content(&expected), "epoch {epoch}");
        let [explained, expected] =
            [&scheduled, same].map(|recipe| forebay::explain(&request_of(recipe)).unwrap());
        assert_eq!(explained.recipe_digest, scheduled.digest());
        let text = |explanation: &forebay::Explanation| format!("{:?}", explanation.samples);
        assert_eq!(text(&explained), text(&expected), "epoch {epoch}");
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
    // 48 of 60 records, where the neighbor of the bad one may be shown twice.
    assert!(records.len() >= 47, "{}", records.len());
}

#[test]
fn repeated_augmentation_shows_a_record_in_neighboring_microbatches() {
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
        let format = PixelFormat { mixed_by: MixedBy::Trainer, ..PixelFormat::default() };
        let clean = pipeline.make(Request { format, ..request }).unwrap();
        assert_ne!(clean.payload[..], mixed.payload[..]);
        let mut pixels = clean.payload.to_vec();
        testing::mix(&mut pixels, Size::square(48), &clean.plan);
        assert_eq!(pixels, mixed.payload[..], "{mode}");
    }
}

#[test]
fn every_dtype_and_layout_has_the_mixed_u8_pixels() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(2);
    let request = request(&recipe, 0, 0, 0);
    let pixels = pipeline.make(request.clone()).unwrap().payload.to_vec();
    let normalize = NormalizeTable::new(&recipe);
    for dtype in [DType::U8, DType::F16, DType::Bf16, DType::F32] {
        for layout in [Layout::Nhwc, Layout::Nchw] {
            let format = PixelFormat { dtype, layout, mixed_by: MixedBy::Server };
            let made = pipeline.make(Request { format, ..request.clone() }).unwrap();
            let one = Size::square(48).rgb_bytes();
            let mut expected = vec![0; pixels.len() * dtype.bytes()];
            for (pixels, to) in pixels.chunks(one).zip(expected.chunks_mut(one * dtype.bytes())) {
                mix::convert(pixels, format, &normalize, to);
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
    assert!(forebay::explain(&request).is_err());
}

#[test]
fn a_cancelled_request_is_not_computed() {
    let recipe = recipe("a2", &[]);
    let pipeline = pipeline(1);
    let (sender, receiver) = sync_channel(1);
    let cancelled =
        SubmitOptions { cancelled: Arc::new(AtomicBool::new(true)), ..SubmitOptions::default() };
    let done = move |made| sender.send(made).unwrap();
    pipeline.submit(request(&recipe, 0, 0, 0), cancelled, done).unwrap();
    assert!(matches!(receiver.recv().unwrap(), Err(Error::Cancelled)));
}

#[test]
fn dropping_a_pipeline_cancels_all_requests() {
    // There is room for one microbatch, which is held below, so the makers wait.
    let buffer_bytes = Size::square(48).rgb_bytes() * 2;
    let config = PipelineConfig { buffer_bytes, ..PipelineConfig::default() };
    let pipeline = forebay::Pipeline::new(config).unwrap();
    let recipe = recipe("a2", &[]);
    let held = pipeline.make(request(&recipe, 0, 0, 0)).unwrap();
    let (sender, receiver) = sync_channel(16);
    for index in 0..16 {
        let sender = sender.clone();
        let done = move |made: Result<MadeMicrobatch, Error>| sender.send(made.is_ok()).unwrap();
        // Each is requested twice.
        pipeline.submit(request(&recipe, 0, 1, index / 2), SubmitOptions::default(), done).unwrap();
    }
    drop(pipeline);
    drop(held);
    assert_eq!(receiver.try_iter().collect::<Vec<bool>>(), [false; 16]);
}

#[test]
fn a_microbatch_takes_a_buffer_of_its_payload_in_every_format() {
    let recipe = recipe("a2", &[]);
    for dtype in [DType::U8, DType::F16, DType::Bf16, DType::F32] {
        for layout in [Layout::Nhwc, Layout::Nchw] {
            let buffer_bytes = 2 * Size::square(48).rgb_bytes() * dtype.bytes();
            let config = PipelineConfig { buffer_bytes, ..PipelineConfig::default() };
            let pipeline = forebay::Pipeline::new(config).unwrap();
            let format = PixelFormat { dtype, layout, ..PixelFormat::default() };
            let made = pipeline.make(Request { format, ..request(&recipe, 0, 0, 0) }).unwrap();
            assert_eq!(made.payload.len(), buffer_bytes, "{format:?}");
            assert_eq!(pipeline.buffers().bytes_in_use(), buffer_bytes, "{format:?}");
        }
    }
}

#[test]
fn tiny_pictures_are_counted_with_what_they_have_besides_their_pixels() {
    let recipe = recipe("a2", &["image_size = 1"]);
    let need = forebay::microbatch_bytes(2, 2 * 3);
    assert!(need > 200);
    let with = |buffer_bytes| {
        // Without a cache, which would keep the microbatch.
        let config = PipelineConfig { buffer_bytes, cache_bytes: 0, ..PipelineConfig::default() };
        forebay::Pipeline::new(config).unwrap()
    };
    let pipeline = with(usize::try_from(need).unwrap());
    let made = pipeline.make(request(&recipe, 0, 0, 0)).unwrap();
    assert_eq!(made.payload.len(), 6);
    assert_eq!(pipeline.buffers().bytes_in_use() as u64, need);
    drop(made);
    assert_eq!(pipeline.buffers().bytes_in_use(), 0);
    let small = with(100);
    let refused = small.check(&WORLD.dataset, &recipe, PixelFormat::default(), 2).unwrap_err();
    assert!(matches!(refused, Error::BufferBudget { limit: 100, .. }), "{refused}");
    assert!(small.make(request(&recipe, 0, 0, 0)).is_err());
}

#[test]
fn the_error_for_a_microbatch_larger_than_all_buffers_says_what_to_do() {
    let config = PipelineConfig { buffer_bytes: 1000, ..PipelineConfig::default() };
    let pipeline = forebay::Pipeline::new(config).unwrap();
    let error = pipeline.make(request(&recipe("a2", &[]), 0, 0, 0)).unwrap_err().to_string();
    assert!(error.contains("--buffer-bytes"), "{error}");
}
