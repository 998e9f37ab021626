//! Mixed batches, compared with an independent implementation that computes value by value.

use forebay::mix::{MixJob, Mixer, NormalizeTable, dense_target};
use forebay::plan::{MixKind, MixPlan, MixSample, cutmix_f32, cutmix_f64, mixup_f32, mixup_f64};
use forebay::recipe::RecipeSpec;
use forebay::{DType, Error, Layout, MixedBy, PixelFormat, Rect, Size};
use half::{bf16, f16};
use libtest_mimic::{Failed, Trial};

const DTYPES: [DType; 4] = [DType::U8, DType::F16, DType::Bf16, DType::F32];
const LAYOUTS: [Layout; 2] = [Layout::Nhwc, Layout::Nchw];

/// Height, width and samples: one pixel, odd sides, rows shorter than 16 bytes, with and without a partner, more
/// samples than a part of the device's memory holds, and the real size.
const SHAPES: [(u32, u32, usize); 9] = [
    (1, 1, 1),
    (1, 1, 2),
    (3, 2, 7),
    (16, 1, 4),
    (21, 33, 1),
    (21, 33, 2),
    (21, 33, 3),
    (48, 40, 6),
    (224, 224, 2),
];

pub(crate) fn trials(mixer: &Mixer) -> Vec<Trial> {
    let device = mixer.device();
    let mut trials = Vec::new();
    for (height, width, n) in SHAPES {
        for mode in ["batch", "pair", "elem", "none"] {
            let (name, mixer) = (format!("{device}/{height}x{width}/{n}/{mode}"), mixer.clone());
            let size = Size { height, width };
            trials.push(Trial::test(name, move || every_output(&mixer, size, n, mode)));
        }
    }
    let with = |name: &str, test: fn(&Mixer) -> Result<(), Failed>| {
        let mixer = mixer.clone();
        Trial::test(format!("{device}/{name}"), move || test(&mixer))
    };
    trials.push(with("unmixed_output_is_only_converted", unmixed));
    trials.push(with("dense_targets", dense_targets));
    trials.push(with("a_plan_that_does_not_fit_the_batch_is_refused", strange_plans));
    trials.push(with("weights_that_do_not_sum_to_one_are_refused", strange_weights));
    trials
}

/// Pseudo-random numbers.
fn noise(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u32::try_from(state >> 32).unwrap()
    }
}

pub(crate) fn pixels(n: usize, size: Size) -> Vec<u8> {
    let mut noise = noise(7);
    (0..n * size.rgb_bytes()).map(|_| noise().to_le_bytes()[3]).collect()
}

/// A plan for each mode of timm. Mode `elem` has samples of all kinds.
pub(crate) fn plan(mode: &str, n: usize, size: Size) -> MixPlan {
    let mut noise = noise(11 + n as u64);
    let mut draw = |single: bool| {
        let lambda = f64::from(noise()) / f64::from(u32::MAX);
        let center = (noise() % size.height, noise() % size.width);
        #[expect(clippy::cast_possible_truncation, reason = "timm stores f32")]
        match (noise() % 8, single) {
            (0, _) => MixSample::UNMIXED,
            (1..4, false) => mixup_f64(lambda),
            (1..4, true) => mixup_f32(lambda as f32),
            (_, false) => cutmix_f64(lambda, center, size),
            (_, true) => cutmix_f32(lambda as f32, center, size),
        }
    };
    let mut samples = match mode {
        "batch" => vec![draw(false); n],
        "pair" => (0..n.div_ceil(2)).map(|_| draw(true)).collect(),
        "elem" => (0..n).map(|_| draw(true)).collect(),
        _ => vec![MixSample::UNMIXED; n],
    };
    if mode == "pair" {
        let mirrored: Vec<_> = samples[..n / 2].iter().rev().copied().collect();
        samples.extend(mirrored);
    }
    MixPlan { samples }
}

pub(crate) fn normalize() -> NormalizeTable {
    NormalizeTable::new(&RecipeSpec::preset("a2").resolve().unwrap())
}

fn every_output(mixer: &Mixer, size: Size, n: usize, mode: &str) -> Result<(), Failed> {
    let (unmixed, plan, normalize) = (pixels(n, size), plan(mode, n, size), normalize());
    for dtype in DTYPES {
        for layout in LAYOUTS {
            let format = PixelFormat { dtype, layout, mixed_by: MixedBy::Server };
            let job = MixJob { size, plan: &plan, format, normalize: &normalize };
            same(&mixer.apply(&unmixed, &job)?, &expected(&unmixed, &job), &job)?;
        }
    }
    Ok(())
}

/// The first difference, as a place and not as a dump of bytes.
pub(crate) fn same(got: &[u8], expected: &[u8], job: &MixJob<'_>) -> Result<(), Failed> {
    if got.len() != expected.len() {
        return Err(format!("{} bytes, expected {}", got.len(), expected.len()).into());
    }
    match got.iter().zip(expected).position(|(got, expected)| got != expected) {
        None => Ok(()),
        Some(at) => {
            let (format, of) = (job.format, expected.len());
            Err(format!("{format:?}: {} at byte {at} of {of}, not {}", got[at], expected[at])
                .into())
        }
    }
}

/// Mixes and converts value by value.
pub(crate) fn expected(unmixed: &[u8], job: &MixJob<'_>) -> Vec<u8> {
    let MixJob { size, plan, format, normalize } = *job;
    let (n, pixels) = (plan.samples.len(), (size.height * size.width) as usize);
    let value = |i: usize, pixel: usize, channel: usize| {
        let [own, partner] = [i, n - 1 - i].map(|i| unmixed[(i * pixels + pixel) * 3 + channel]);
        let alone = 2 * i + 1 == n;
        let sample = plan.samples[i];
        match sample.kind {
            _ if alone || format.mixed_by == MixedBy::Trainer => own,
            MixKind::None => own,
            MixKind::Mixup => {
                let [a, b] = sample.weights;
                let sum = f32::from(own) * a + f32::from(partner) * b;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0..=255"
                )]
                let value = sum.round_ties_even() as u8;
                value
            }
            MixKind::Cutmix(cut) => {
                let (y, x) = (pixel / size.width as usize, pixel % size.width as usize);
                let within = |at: usize, from: u32, len: u32| {
                    (from as usize..(from + len) as usize).contains(&at)
                };
                let inside = within(y, cut.top, cut.height) && within(x, cut.left, cut.width);
                if inside { partner } else { own }
            }
        }
    };
    let mut out = Vec::new();
    for i in 0..n {
        for at in 0..pixels * 3 {
            let (pixel, channel) = match format.layout {
                Layout::Nhwc => (at / 3, at % 3),
                Layout::Nchw => (at % pixels, at / pixels),
            };
            let value = value(i, pixel, channel);
            let normal = normalize.channel(channel)[usize::from(value)];
            match format.dtype {
                DType::U8 => out.push(value),
                DType::F16 => out.extend(f16::from_f32(normal).to_le_bytes()),
                DType::Bf16 => out.extend(bf16::from_f32(normal).to_le_bytes()),
                DType::F32 => out.extend(normal.to_le_bytes()),
            }
        }
    }
    out
}

fn unmixed(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size { height: 21, width: 33 }, normalize());
    let (unmixed, plan) = (pixels(4, size), plan("elem", 4, size));
    for dtype in DTYPES {
        let format = PixelFormat { dtype, layout: Layout::Nhwc, mixed_by: MixedBy::Trainer };
        let job = MixJob { size, plan: &plan, format, normalize: &normalize };
        same(&mixer.apply(&unmixed, &job)?, &expected(&unmixed, &job), &job)?;
    }
    Ok(())
}

fn dense_targets(mixer: &Mixer) -> Result<(), Failed> {
    let mut noise = noise(3);
    for (n, classes) in [(1, 1), (1, 7), (3, 10), (2, 1000), (65, 101)] {
        let labels: Vec<[u32; 2]> =
            (0..n).map(|_| [noise() % classes, noise() % classes]).collect();
        let lambda: Vec<f64> = (0..n).map(|_| f64::from(noise()) / f64::from(u32::MAX)).collect();
        let classes = classes as usize;
        for smoothing in [0.0, 0.1] {
            let got = mixer.dense_targets(&labels, &lambda, smoothing, classes)?;
            let samples = labels.iter().zip(&lambda);
            let expected: Vec<f32> = samples
                .flat_map(|(&labels, &lambda)| dense_target(labels, lambda, smoothing, classes))
                .collect();
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            if bits(&got) != bits(&expected) {
                return Err(
                    format!("{n} samples of {classes} classes, smoothing {smoothing}").into()
                );
            }
        }
    }
    Ok(())
}

fn strange_plans(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size { height: 5, width: 4 }, normalize());
    let unmixed = pixels(2, size);
    for (top, left, height, width) in
        [(0, 0, 6, 1), (0, 0, 1, 5), (5, 0, 1, 1), (0, 4, 1, 1), (u32::MAX, 0, 2, 1)]
    {
        let cut = MixKind::Cutmix(Rect { top, left, height, width });
        let plan = MixPlan { samples: vec![MixSample::UNMIXED, MixSample::given(cut, [0.5; 2])] };
        let job =
            MixJob { size, plan: &plan, format: PixelFormat::default(), normalize: &normalize };
        match mixer.apply(&unmixed, &job) {
            Err(Error::Plan { what }) if what.contains("sample 1") => {}
            other => return Err(format!("{cut:?}: {other:?}").into()),
        }
    }
    let plan = MixPlan { samples: vec![MixSample::UNMIXED; 3] };
    let job = MixJob { size, plan: &plan, format: PixelFormat::default(), normalize: &normalize };
    let error = mixer.apply(&unmixed, &job).unwrap_err().to_string();
    assert!(error.contains("120 bytes, expected 180"), "{error}");
    Ok(())
}

fn strange_weights(mixer: &Mixer) -> Result<(), Failed> {
    let (size, normalize) = (Size { height: 16, width: 3 }, normalize());
    let unmixed = pixels(2, size);
    for weights in [[0.5, 0.6], [-0.5, 1.5], [f32::NAN, 0.0], [f32::INFINITY, 1.0], [0.0, 0.0]] {
        let strange = MixSample::given(MixKind::Mixup, weights);
        let plan = MixPlan { samples: vec![MixSample::UNMIXED, strange] };
        let job =
            MixJob { size, plan: &plan, format: PixelFormat::default(), normalize: &normalize };
        match mixer.apply(&unmixed, &job) {
            Err(Error::Plan { what }) if what.contains("sample 1: its weights") => {}
            other => return Err(format!("{weights:?}: {other:?}").into()),
        }
    }
    Ok(())
}
