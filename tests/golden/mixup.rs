//! Suite 05: `FastCollateMixup` (u8, exact) and `Mixup` (float) of timm, with targets and boxes.

use std::path::Path;

use forebay::mix::{MixJob, Mixer, NormalizeTable};
use forebay::plan::{self, MixKind, MixPlan, MixSample};
use forebay::recipe::RecipeSpec;
use forebay::{PixelFormat, Rect, Size};
use forebay_tests::{json, mixers};
use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;
use serde_json::Value;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let suite = folder.join("05_mixup");
    if !suite.is_dir() {
        return Vec::new();
    }
    let bytes = std::fs::read(suite.join("mixup.safetensors")).expect("arrays of suite 05");
    let bytes: &'static [u8] = bytes.leak();
    let cases = json(&suite.join("cases.json"));
    let boxes = json(&suite.join("rand_bbox.json"));
    let cases = cases["cases"].as_array().expect("cases").clone();
    let mixes = mixers().into_iter().flat_map(move |mixer| {
        let trial = |case: &Value| {
            let (case, mixer) = (case.clone(), mixer.clone());
            let name = case["name"].as_str().expect("a name");
            let name = format!("05_mixup/{}/{name}", mixer.device());
            Trial::test(name, move || check_mix(&mixer, &case, bytes))
        };
        cases.iter().map(trial).collect::<Vec<_>>()
    });
    let boxes = boxes["cases"].as_array().expect("cases").clone().into_iter().enumerate();
    let boxes = boxes.map(|(i, case)| {
        Trial::test(format!("05_mixup/rand_bbox_{i:03}"), move || check_box(&case))
    });
    mixes.chain(boxes).collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().expect("a whole number")).expect("it fits")
}

fn center(params: &Value) -> (u32, u32) {
    (number(&params["cy"]), number(&params["cx"]))
}

/// yl, yh, xl, xh.
fn rect(corners: &Value) -> Rect {
    let [top, bottom, left, right] = [0, 1, 2, 3].map(|i| number(&corners[i]));
    Rect { top, left, height: bottom - top, width: right - left }
}

fn check_box(case: &Value) -> Result<(), Failed> {
    let size = Size { height: number(&case["h"]), width: number(&case["w"]) };
    let lambda = case["lam"].as_f64().expect("a number");
    #[expect(clippy::cast_possible_truncation, reason = "np.float32(lam)")]
    let single = plan::cutmix_f32(lambda as f32, center(case), size);
    let double = plan::cutmix_f64(lambda, center(case), size);
    for (sample, corners, kept) in
        [(double, "bbox_f64", "lam_corrected_f64"), (single, "bbox_f32", "lam_corrected_f32")]
    {
        let expected = rect(&case[corners]);
        let kept = case[kept].as_f64().expect("a number");
        if sample.kind != MixKind::Cutmix(expected) {
            return Err(format!("{corners}: {expected:?}, got {sample:?}").into());
        }
        if (sample.lambda - kept).abs() > 1e-7 {
            return Err(format!("{corners}: lambda {kept}, got {sample:?}").into());
        }
    }
    Ok(())
}

/// The plan of a case, from the random numbers that timm drew.
fn plan_of(case: &Value, n: usize, size: Size) -> Result<MixPlan, Failed> {
    let batch = case["mode"] == "batch";
    let params = case["params"].as_array().expect("params");
    let sample = |params: &Value| -> Result<MixSample, Failed> {
        let lambda = params["lam_in"].as_f64().expect("a number");
        // With a weight of 1 timm draws no box.
        let cutmix = params["use_cutmix"] == true && params["cy"].is_u64();
        #[expect(clippy::cast_possible_truncation, reason = "stored as f32")]
        let sample = match (batch, cutmix) {
            (true, false) => plan::mixup_f64(lambda),
            (false, false) => plan::mixup_f32(lambda as f32),
            (true, true) => plan::cutmix_f64(lambda, center(params), size),
            (false, true) => plan::cutmix_f32(lambda as f32, center(params), size),
        };
        if cutmix && sample.kind != MixKind::Cutmix(rect(&params["bbox_yl_yh_xl_xh"])) {
            return Err(format!("box of {params}: {sample:?}").into());
        }
        Ok(sample)
    };
    let mut samples = params.iter().map(sample).collect::<Result<Vec<_>, _>>()?;
    match case["mode"].as_str() {
        Some("batch") => samples = vec![samples[0]; n],
        Some("pair") => samples.extend(samples.clone().into_iter().rev()),
        _ => {}
    }
    Ok(MixPlan { samples })
}

fn check_mix(mixer: &Mixer, case: &Value, arrays: &[u8]) -> Result<(), Failed> {
    let arrays = SafeTensors::deserialize(arrays)?;
    let input = arrays.tensor(case["input"].as_str().expect("an input"))?;
    let [n, 3, height, width] = *input.shape() else {
        return Err("the input is not [n, 3, h, w]".into());
    };
    let size = Size { height: u32::try_from(height)?, width: u32::try_from(width)? };
    let plan = plan_of(case, n, size)?;
    let name = case["name"].as_str().expect("a name");
    let out = arrays.tensor(&format!("{name}.out"))?;

    let nhwc = to_nhwc(input.data(), n, height * width);
    if case["kind"] == "collate" {
        let normalize = NormalizeTable::new(&RecipeSpec::preset("a2").resolve()?);
        let job =
            MixJob { size, plan: &plan, format: PixelFormat::default(), normalize: &normalize };
        let mixed = mixer.apply(&nhwc, &job)?;
        if mixed != to_nhwc(out.data(), n, height * width) {
            return Err("mixed pixels differ".into());
        }
    } else {
        check_float(&nhwc, &floats(out.data()), size, &plan)?;
    }

    let labels = arrays.tensor("labels")?;
    let labels: Vec<u32> =
        labels.data().as_chunks::<8>().0.iter().map(|b| u32::from(b[0])).collect();
    let targets = floats(arrays.tensor(&format!("{name}.target"))?.data());
    let classes = usize::try_from(case["num_classes"].as_u64().expect("a number"))?;
    let smoothing = case["smoothing"].as_f64().expect("a number");
    let pairs: Vec<[u32; 2]> = (0..n).map(|i| [labels[i], labels[n - 1 - i]]).collect();
    let lambda: Vec<f64> = plan.samples.iter().map(|sample| sample.lambda).collect();
    let got = mixer.dense_targets(&pairs, &lambda, smoothing, classes)?;
    for (i, (got, expected)) in got.chunks(classes).zip(targets.chunks(classes)).enumerate() {
        if got.iter().zip(expected).any(|(got, expected)| (got - expected).abs() > 2e-7) {
            return Err(format!("target {i}: {expected:?}, got {got:?}").into());
        }
    }
    Ok(())
}

/// Compares with timm's float `Mixup`, which mixes after normalization, within 1e-6.
fn check_float(nhwc: &[u8], out: &[f32], size: Size, plan: &MixPlan) -> Result<(), Failed> {
    let normalize = NormalizeTable::new(&RecipeSpec::preset("a2").resolve()?);
    let (n, pixels, width) = (plan.samples.len(), size.rgb_bytes() / 3, size.width);
    for (at, expected) in out.iter().enumerate() {
        let (i, channel, pixel) = (at / pixels / 3, at / pixels % 3, at % pixels);
        let value = |i: usize| {
            normalize.channel(channel)[usize::from(nhwc[(i * pixels + pixel) * 3 + channel])]
        };
        let (own, partner, sample) = (value(i), value(n - 1 - i), plan.samples[i]);
        let (y, x) = (u32::try_from(pixel)? / width, u32::try_from(pixel)? % width);
        let got = match sample.kind {
            MixKind::None => own,
            MixKind::Mixup => own * sample.weights[0] + partner * sample.weights[1],
            MixKind::Cutmix(cut) => {
                let inside = (cut.top..cut.top + cut.height).contains(&y)
                    && (cut.left..cut.left + cut.width).contains(&x);
                if inside { partner } else { own }
            }
        };
        if (got - expected).abs() > 1e-6 {
            return Err(
                format!("sample {i} channel {channel} ({y}, {x}): {expected}, got {got}").into()
            );
        }
    }
    Ok(())
}

fn to_nhwc(nchw: &[u8], n: usize, pixels: usize) -> Vec<u8> {
    let value = |i: usize, p: usize, c: usize| nchw[(i * 3 + c) * pixels + p];
    (0..n * pixels * 3).map(|at| value(at / pixels / 3, at / 3 % pixels, at % 3)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
